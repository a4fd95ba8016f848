"""The sessions that a worker has just been at work on, so that their next turn reads no history.

Nothing depends on what is kept here: an opening says which revision the session is at, and what is newer is read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from lash_tasks.domain.ids import NodeId, SessionId
from lash_tasks.domain.messages import Part, TextPart, ToolCallPart, ToolResultPart
from lash_tasks.domain.sessions import Node, Place, StoredNode, placed, transcript
from lash_tasks.machine.assembly import TurnResult
from lash_tasks.machine.projection import NOTHING_SAID, Transcript
from lash_tasks.runtime.frame_runs import Continuation

MAX_BYTES = 128 * 1024 * 1024
"""Roughly how much memory the transcripts of a worker may take together."""
_MESSAGE_BYTES = 1000
_BYTES_PER_CHARACTER = 3
"""The text, its form on the wire, and now and then a second one."""


@dataclass(frozen=True, slots=True)
class WarmSession:
    """A session's committed history as of `revision`."""

    revision: int = 0
    leaf: NodeId | None = None
    """The node that the next one hangs from; in a frame that shows nothing yet, one of the frame before."""
    place: Place | None = None
    """Of the leaf."""
    transcript: Transcript = NOTHING_SAID
    size: int = 0
    """Bytes, estimated."""

    def grown(self, nodes: Sequence[StoredNode], revision: int) -> Self:
        """With the nodes of later revisions, up to and with `revision`."""
        if not nodes:
            return replace(self, revision=revision)
        return replace(
            self,
            revision=revision,
            leaf=nodes[-1].node.node_id,
            place=nodes[-1].place,
            transcript=self.transcript.grown(transcript(stored.node for stored in nodes)),
            size=self.size + sum(_size(stored.node) for stored in nodes),
        )

    def after(self, result: TurnResult, onward: Continuation | None, revision: int) -> Self:
        """With what a turn has committed; if it opened a frame, what that one shows."""
        if onward is None or onward.frame is None:
            return self.grown(placed(result.nodes, revision), revision)
        committed = placed((*result.nodes, *onward.frame.nodes), revision)
        shown = type(self)().grown(committed[len(result.nodes) :], revision)
        return shown if shown.leaf is not None or not committed else shown.behind(committed[-1])

    def behind(self, last: StoredNode) -> Self:
        """With nothing more to show, but going on from a node that another frame shows."""
        return replace(self, leaf=last.node.node_id, place=last.place)


COLD = WarmSession()
"""A session of which nothing is known."""


class WarmSessions:
    """Keeps those used last, within a bound. Safe from all threads of a worker."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sessions: OrderedDict[SessionId, WarmSession] = OrderedDict()
        self._size = 0

    def take(self, session_id: SessionId) -> WarmSession:
        """What is known of the session, which is forgotten here until it is kept again; `COLD` if nothing is."""
        with self._lock:
            session = self._sessions.pop(session_id, COLD)
            self._size -= session.size
            return session

    def keep(self, session_id: SessionId, session: WarmSession) -> None:
        if session is COLD or session.size > self._max_bytes:
            return
        with self._lock:
            self._size -= self._sessions.pop(session_id, COLD).size
            self._sessions[session_id] = session
            self._size += session.size
            while self._size > self._max_bytes:
                _, oldest = self._sessions.popitem(last=False)
                self._size -= oldest.size


def _size(node: Node) -> int:
    parts = () if node.message is None else node.message.parts
    return _MESSAGE_BYTES + _BYTES_PER_CHARACTER * sum(map(_characters, parts))


def _characters(part: Part) -> int:
    match part:
        case TextPart() | ToolResultPart():
            return len(part.text)
        case ToolCallPart():
            return len(part.arguments)
        case _:
            return len(repr(part))
