"""Following a session: a snapshot, then live events, gaps where some were lost, and every committed turn once.

Live events come from the stream and are best effort. Committed turns come from SQL alone, each once and in order,
also when the stream is down or the worker died before it announced them.
"""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.codec import JsonObject, to_json
from lash_tasks.domain.frames import follow_up_turn_id
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.turns import AgentFrameSwitch, AssembledTurn, TurnRecord, TurnStatus
from lash_tasks.errors import InvalidInput, SessionDeleted
from lash_tasks.observation.cursors import parse_cursor
from lash_tasks.observation.listening import Listener, Sources
from lash_tasks.stores.protocols import GapReason, LiveBatch, LiveEvent, LiveGap

LOOK_SECONDS = 1.0
PAGE = 20
RECENT_TURNS = 8
"""How many of the last committed turns a new follower knows, to drop what the stream still has of them."""
_CURSOR = re.compile(r"lashfc1:([0-9]{1,18}):([0-9]{1,18}):(.*)", re.ASCII | re.DOTALL)
_NOWHERE = "-:"


class Marker(StrEnum):
    """Events that the follower makes itself; the others are of an ActivityType."""

    SNAPSHOT = "snapshot"
    """`head_revision`, `turn_index`, and `running`: the unfinished turn or None."""
    RESET = "reset"
    """`turn_id` is run again (`attempt`): what was seen of it so far does not count."""
    GAP = "gap"
    """Live events were lost (`reason`). Committed turns are not."""
    AGENT_FRAME_SWITCHED = "agent_frame_switched"
    """Behind a committed turn: its run goes on in `frame_id` with `task`, in the turn `follow_up`."""


@dataclass(frozen=True, slots=True)
class FollowEvent:
    """One event; following from `cursor` goes on right behind it."""

    type: ActivityType | Marker
    cursor: str
    data: JsonObject
    turn_id: TurnId | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a follower has come: the last committed turn it told of, the highest fence it saw, its live cursor."""

    turn_index: int
    fence: int
    live: str | None

    def cursor(self, session_id: SessionId) -> str:
        return f"lashfc1:{self.turn_index}:{self.fence}:{self.live or _NOWHERE + session_id}"

    @classmethod
    def parse(cls, session_id: SessionId, cursor: str) -> _Place:
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise InvalidInput("cursor", "is malformed; pass one that an event carried, or none to begin now")
        turn_index, fence, live = match.groups()
        if not live.startswith(_NOWHERE):
            parse_cursor(session_id, live)
            return cls(int(turn_index), int(fence), live)
        if live != _NOWHERE + session_id:
            raise InvalidInput("cursor", "belongs to another session")
        return cls(int(turn_index), int(fence), None)


def follow(
    sources: Sources,
    session_id: SessionId,
    cursor: str | None = None,
    *,
    stop: threading.Event | None = None,
    idle_timeout: float | None = None,
) -> Iterator[FollowEvent]:
    """Events of a session: a snapshot, then what comes, until `stop` is set or nothing came for `idle_timeout` seconds.

    Without a cursor it begins now, with one right behind the event that carried it. A session that has no turn yet
    may be followed. Raises InvalidInput (field `cursor`) at once; while it goes on SessionDeleted, and
    StoreUnavailable, after which the last cursor resumes it.
    """
    place = None if cursor is None else _Place.parse(session_id, cursor)
    return _Follower(sources, session_id, place, stop or threading.Event()).events(idle_timeout)


class _Follower:
    """One pass along a session. `_place` moves before an event is handed out, so the event carries the new one."""

    def __init__(self, sources: Sources, session_id: SessionId, place: _Place | None, stop: threading.Event) -> None:
        self._sources = sources
        self._clock = sources.clock
        self._session_id = session_id
        self._stop = stop
        self._resumed = place is not None
        self._place = place or _Place(0, 0, None)
        self._listener = Listener(sources, session_id, stop, self._place.live)
        self._turn: TurnId | None = None  # of the last live event of a turn
        self._over: deque[TurnId] = deque(maxlen=64)  # turns told as committed, whose live events are late by now
        self._told_down = False

    def events(self, idle_timeout: float | None) -> Iterator[FollowEvent]:
        patience = math.inf if idle_timeout is None else idle_timeout
        yield self._snapshot()
        idle_at = self._clock.monotonic() + patience
        while not self._stop.is_set():
            for event in self._more(idle_at):
                yield event
                idle_at = self._clock.monotonic() + patience
            if self._clock.monotonic() >= idle_at:
                return

    # ------------------------------------------------------------ SQL

    def _snapshot(self) -> FollowEvent:
        self._listener.attend()
        head = self._sources.sessions.head(self._session_id)
        if head is not None and head.deleted_at_ms is not None:
            raise SessionDeleted(self._session_id)
        revision, turn_index = (head.head_revision, head.turn_index) if head is not None else (0, 0)
        if not self._resumed:
            self._place = _Place(turn_index, 0, self._listener.cursor)
        turns = self._turns_after(max(0, self._place.turn_index - RECENT_TURNS), RECENT_TURNS)
        self._over.extend(turn.turn_id for turn in turns if turn.turn_index <= self._place.turn_index)
        running = next((turn for turn in self._turns_after(turn_index, 1) if turn.status is TurnStatus.RUNNING), None)
        data: JsonObject = {"head_revision": revision, "turn_index": turn_index, "running": _running(running)}
        return self._event(Marker.SNAPSHOT, data, running.turn_id if running is not None else None)

    def _turns_after(self, turn_index: int, limit: int) -> list[TurnRecord]:
        return self._sources.sessions.turns(self._session_id, limit=limit, after_index=turn_index)

    def _look(self, through: float = math.inf) -> Iterator[FollowEvent]:
        """The turns that have committed since the last look, up to the one with the index `through`."""
        head = self._sources.sessions.head(self._session_id)
        if head is None:
            return
        if head.deleted_at_ms is not None:
            raise SessionDeleted(self._session_id)
        while min(head.turn_index, through) > self._place.turn_index:
            turns = self._turns_after(self._place.turn_index, PAGE)
            if not turns:
                return
            for turn in turns:
                if turn.result is None or turn.turn_index > through:
                    return
                self._place = replace(self._place, turn_index=turn.turn_index)
                self._over.append(turn.turn_id)
                yield self._event(ActivityType.COMMITTED, to_json(AssembledTurn, turn.result), turn.turn_id)
                if isinstance(switch := turn.result.outcome, AgentFrameSwitch):
                    follow_up = follow_up_turn_id(turn.turn_id)
                    switched = {"frame_id": switch.frame_id, "task": switch.task, "follow_up": follow_up}
                    yield self._event(Marker.AGENT_FRAME_SWITCHED, switched, turn.turn_id)

    # ------------------------------------------------------------ the stream

    def _more(self, until: float) -> Iterator[FollowEvent]:
        """What there is to tell before the next look at SQL is due, or until `until`."""
        self._listener.attend()
        if self._place.live is None:
            self._place = replace(self._place, live=self._listener.cursor)
        until = min(until, self._clock.monotonic() + LOOK_SECONDS)
        yield from self._look_behind_the_stream()
        if self._listener.down and not self._told_down:
            yield self._event(Marker.GAP, {"reason": GapReason.UNAVAILABLE.value})
        self._told_down = self._listener.down
        while not self._stop.is_set() and (left := until - self._clock.monotonic()) > 0:
            heard = self._listener.listen(left)
            if heard is None:
                return
            yield from self._tell(heard)
            if isinstance(heard, LiveGap):
                return

    def _look_behind_the_stream(self) -> Iterator[FollowEvent]:
        """What has committed by now, behind all that the stream holds: a turn's events are older than its commit."""
        head = self._sources.sessions.head(self._session_id)
        heard = self._listener.waiting()
        while isinstance(heard, LiveBatch) and not self._stop.is_set():
            yield from self._tell(heard)
            heard = self._listener.waiting()
        if head is not None:
            yield from self._look(head.turn_index)
        if heard is not None:
            yield from self._tell(heard)

    def _tell(self, heard: LiveBatch | LiveGap) -> Iterator[FollowEvent]:
        if isinstance(heard, LiveGap):
            self._place = replace(self._place, live=heard.cursor)
            yield self._event(Marker.GAP, {"reason": heard.reason.value})
            return
        for event in heard.events:
            yield from self._live(event)

    def _live(self, event: LiveEvent) -> Iterator[FollowEvent]:
        """An event of the stream, unless it is late: of a fence that was overtaken or a turn that is over."""
        activity = event.activity
        if activity.type is ActivityType.COMMITTED:
            yield from self._look(activity.data.get("turn_index", math.inf))
        elif activity.turn_id is None:
            self._place = replace(self._place, live=event.cursor)
            yield self._event(activity.type, activity.data)
        elif activity.fence >= self._place.fence:
            if activity.fence > self._place.fence:
                yield from self._opened(activity, activity.turn_id)
            if activity.turn_id not in self._over:
                self._turn = activity.turn_id
                self._place = replace(self._place, live=event.cursor)
                yield self._event(activity.type, activity.data, activity.turn_id)
        self._place = replace(self._place, live=event.cursor)

    def _opened(self, activity: TurnActivity, turn_id: TurnId) -> Iterator[FollowEvent]:
        """A turn was opened: what committed before it comes first, then the reset if the turn is not new."""
        yield from self._look(activity.data.get("turn_index", math.inf) - 1)
        again = turn_id == self._turn or activity.data.get("resumed", False)
        self._place = replace(self._place, fence=activity.fence)
        if again and turn_id not in self._over:
            yield self._event(Marker.RESET, {"turn_id": turn_id, "attempt": activity.attempt}, turn_id)

    def _event(self, kind: ActivityType | Marker, data: JsonObject, turn_id: TurnId | None = None) -> FollowEvent:
        return FollowEvent(kind, self._place.cursor(self._session_id), data, turn_id)


def _running(turn: TurnRecord | None) -> JsonObject | None:
    if turn is None:
        return None
    return {"turn_id": turn.turn_id, "turn_index": turn.turn_index, "agent": turn.agent, "attempt": turn.attempt}
