"""The evidence of a run under faults: what was sent, what is left when all is quiet, and what follows from both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

SWITCHED = "agent_frame_switch"
"""The outcome of a turn whose run goes on in another frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An input as its sender knows it. Senders send to one session one after another."""

    session: str
    key: str
    text: str
    """What stands in the history; empty for a command that says nothing."""
    when: str = "queue"
    command: bool = False
    """It changes the session, and no model answers it."""
    delayed: bool = False
    quiet: bool = False
    """Waits for others of its merge key to stop coming."""
    accepted: bool = True
    """False: refused, so it must have left nothing."""
    cancel_asked: bool = False
    told_cancelled: bool | None = None
    """Whether the sender, when it cancelled, was told that no turn will take the input; None: it was told nothing."""
    context: int | None = None
    merge_key: str | None = None
    follows: str | None = None
    """The turn that left this input as its task, in another frame; None: it came from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An input as its receipt has it at the end. `state` is that of the receipt."""

    session: str
    key: str
    seq: int
    state: str
    turn_id: str | None = None
    dead: str | None = None
    """The reason of its dead letter, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSeen:
    session: str
    turn_id: str
    index: int
    base_revision: int
    fence: int
    """Of its last opening; an opening raises the session's fence by one and so does a commit."""
    outcome: str = "finished"
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message of the history."""

    session: str
    revision: int
    ordinal: int
    role: str
    text: str = ""
    calls: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    turn_index: int | None = None
    """The turn that its id names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One row of a turn's journal."""

    session: str
    turn_id: str
    ordinal: int
    fence: int
    kind: str
    done: bool = True
    key: str = ""
    """Its replay key, as the column has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSeen:
    """Where a session stands: its head as it is stored, and its fence."""

    session: str
    head_revision: int
    turn_index: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleWrite:
    """What the database saw somebody write who was not to write any more."""

    session: str
    turn_id: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that is left when all is quiet."""

    sent: Sequence[Sent] = ()
    stored: Sequence[Stored] = ()
    turns: Sequence[TurnSeen] = ()
    history: Sequence[Said] = ()
    running: Sequence[tuple[str, str]] = ()
    """The session and the id of each turn that is not committed."""
    sessions: Sequence[SessionSeen] = ()
    journal: Sequence[Recorded] = ()
    counted: Sequence[tuple[str, str]] = ()
    """The session and the replay key of each model call whose usage is counted."""
    stale: Sequence[StaleWrite] = ()
    asked: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """How often the model was asked, by the user's text and the number of the call after it."""
    ran: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How often a tool ran, by the user's text and the call's idempotency key."""
    never_ran: Mapping[str, int] = field(default_factory=dict)
    """How often a `never` tool ran, by the user's text."""


# ---------------------------------------------------------------- what follows from the evidence


def by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def openings_of_turns(evidence: Evidence) -> dict[tuple[str, str], int]:
    """How often each turn was opened: what its fence is above that of the commit before it."""
    return {(turn.session, turn.turn_id): turn.fence - before for turn, before in with_the_fence_before(evidence)}


def openings(evidence: Evidence) -> int:
    """How often turns were opened, all together."""
    return sum(openings_of_turns(evidence).values())


def with_the_fence_before(evidence: Evidence) -> Iterator[tuple[TurnSeen, int]]:
    """Each turn, and the session's fence as the commit before it has left it."""
    for turns in by(evidence.turns, lambda one: one.session).values():
        before = 0
        for turn in sorted(turns, key=lambda turn: turn.index):
            yield turn, before
            before = turn.fence + 1


def texts_of_turns(evidence: Evidence) -> Iterator[tuple[TurnSeen, list[str]]]:
    """Each turn with the users' texts of its commit, in order."""
    said = by(
        (one for one in evidence.history if one.role == "user"),
        lambda one: (one.session, one.revision),
    )
    for turn in evidence.turns:
        messages = said.get((turn.session, turn.base_revision + 1), [])
        yield turn, [one.text for one in sorted(messages, key=lambda one: one.ordinal)]
