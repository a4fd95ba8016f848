"""What a commit may change about a session besides adding to its history."""

from __future__ import annotations

from dataclasses import dataclass

from lash_tasks.domain.ids import TurnId
from lash_tasks.domain.queue import BatchDraft
from lash_tasks.domain.sessions import Node, Place


@dataclass(frozen=True, slots=True)
class StateWrite:
    """A named state of the session, such as a plugin's: its body from this commit on."""

    name: str
    generation: int
    body: bytes | None
    """None: the state is gone."""


@dataclass(frozen=True, slots=True)
class SpecChange:
    """What the session says over its agent's own policy from now on."""

    spec: str | None
    """JSON; None: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameOpening:
    """A frame that the session goes on in. Its path begins with the seed nodes and shows nothing older."""

    frame_id: str
    previous_id: str | None
    """None: the initial frame."""
    reason: str
    assignment: str
    """JSON: what turns in this frame are given."""
    caused_by: str | None = None
    """JSON."""
    nodes: tuple[Node, ...] = ()
    """The seed: nodes of the new frame, chained behind those of the turn."""


@dataclass(frozen=True, slots=True)
class PathChange:
    """Another path is shown from the next turn on. What is no longer on it stays stored.

    With `leaf` the session goes on from that node, and in its frame; None shows nothing, as if the session began anew.
    Nodes of the same commit are not on the new path.
    """

    leaf: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """The turn that comes next, before any waiting input: it stands there unfinished, with its batch claimed.

    Nobody holds it; whoever opens the session resumes it, at its first attempt and with an empty journal.
    """

    turn_id: TurnId
    batch: BatchDraft
    """Its input. A draft's blobs and delay do not count here."""
    agent_ref: str
    machine_version: int
