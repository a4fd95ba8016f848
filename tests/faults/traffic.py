"""What is sent in a run under faults: input after input of each session, drawn from the seed, of every policy."""

from __future__ import annotations

import json
import random
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.commands import CommandKind, command_source_key
from lash_tasks.domain.queue import When
from tests.faults.conversation import WISHES
from tests.faults.evidence import Sent

AGENT = "busy"
POLICIES = {When.QUEUE: 40, When.REJECT: 8, When.STEER: 20, When.INTERRUPT: 8, When.MERGE: 20}
"""How often each is drawn."""
COMMANDS = (CommandKind.APPEND_SESSION_NODES, CommandKind.REFRESH_TOOL_CATALOG, CommandKind.RESET_SESSION)
DELAYED_SHARE, COMMAND_SHARE, QUIET_SHARE, CANCEL_SHARE, SILENT_SHARE = 0.12, 0.12, 0.5, 0.06, 0.15
CONTEXT_SHARE = 0.15
"""Of the inputs that have a context, so that they share a turn with their like only."""
SILENT_COMMANDS = {CommandKind.REFRESH_TOOL_CATALOG, CommandKind.RESET_SESSION}
LONGEST_DELAY_MS, LONGEST_QUIET_MS = 3000, 600
BURST_SHARE = 0.6
"""Of the inputs that follow the one before without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One input, or with `command` a command. `silent`: its sender does not ring. `pause_ms` before it is sent."""

    session: str
    number: int
    when: str
    command: CommandKind | None
    wish: str
    context: int | None
    merge_key: str | None
    quiet_ms: int
    delay_ms: int
    cancel: bool
    silent: bool
    pause_ms: int

    @property
    def key(self) -> str:
        return f"{self.session}-{self.number}"

    @property
    def source_key(self) -> str:
        """The key as it is stored."""
        return self.key if self.command is None else command_source_key(self.command, self.key)

    @property
    def arguments(self) -> JsonObject:
        """Of the command. One that appends says the text in the user's name."""
        return {"nodes": [self.text]} if self.command is CommandKind.APPEND_SESSION_NODES else {"reason": self.text}

    @property
    def text(self) -> str:
        return f"{self.session} i{self.number} {self.wish}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What the sender of an input was told: a line of its log. `cancelled`: that its cancel has ended the input."""

    session: str
    number: int
    accepted: bool
    cancelled: bool

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def session_name(number: int) -> str:
    return f"s{number}"


def planned(seed: int, session: str, number: int, mean_pause_ms: int) -> Planned:
    """Input `number` of a session: the same whenever it is asked for."""
    dice = random.Random(f"{seed} {session} {number}")
    when = dice.choices(list(POLICIES), list(POLICIES.values()))[0]
    command = dice.choice(COMMANDS) if when == "queue" and dice.random() < COMMAND_SHARE else None
    return Planned(
        session=session,
        number=number,
        when=when,
        command=command,
        wish=dice.choice(sorted(WISHES)),
        context=1 if dice.random() < CONTEXT_SHARE and command is None else None,
        merge_key=dice.choice("ab") if when == "merge" else None,
        quiet_ms=dice.randint(1, LONGEST_QUIET_MS) if when == "merge" and dice.random() < QUIET_SHARE else 0,
        delay_ms=dice.randint(1, LONGEST_DELAY_MS)
        if when == "queue" and command is None and dice.random() < DELAYED_SHARE
        else 0,
        cancel=dice.random() < CANCEL_SHARE and command is None,
        silent=dice.random() < SILENT_SHARE,
        # Bursts: several inputs of a session at once, then nothing for a while.
        pause_ms=0 if dice.random() < BURST_SHARE else dice.randint(1, round(mean_pause_ms * 2 / (1 - BURST_SHARE))),
    )


def acknowledged(log: Path) -> Iterator[Acknowledged]:
    """The lines of a sender's log; a sender that was killed leaves at most its last one unwritten."""
    if not log.exists():
        return
    for line in log.read_text(encoding="utf-8").splitlines():
        yield Acknowledged(**json.loads(line))


def sent(seed: int, mean_pause_ms: int, lines: Iterable[Acknowledged], stored: Container[str]) -> list[Sent]:
    """What the checker is told of the inputs in a log.

    The input behind a session's last one may be stored although its sender, which was killed, never said so.
    """
    found: list[Sent] = []
    last: dict[str, int] = {}
    for line in lines:
        plan = planned(seed, line.session, line.number, mean_pause_ms)
        told = line.cancelled if line.accepted and plan.cancel else None
        found.append(_sent(plan, accepted=line.accepted, told_cancelled=told))
        last[line.session] = line.number
    unsure = [planned(seed, session, number + 1, mean_pause_ms) for session, number in last.items()]
    return [*found, *(_sent(plan, accepted=True) for plan in unsure if plan.source_key in stored)]


def _sent(plan: Planned, *, accepted: bool, told_cancelled: bool | None = None) -> Sent:
    return Sent(
        session=plan.session,
        key=plan.source_key,
        text="" if plan.command in SILENT_COMMANDS else plan.text,
        when=plan.when,
        command=plan.command is not None,
        context=plan.context,
        merge_key=plan.merge_key,
        delayed=plan.delay_ms > 0,
        quiet=plan.quiet_ms > 0,
        accepted=accepted,
        cancel_asked=plan.cancel,
        told_cancelled=told_cancelled,
    )
