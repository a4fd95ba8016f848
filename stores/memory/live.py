"""Live events of one process."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice

from lash_tasks.clock import Clock
from lash_tasks.domain.activity import TurnActivity
from lash_tasks.domain.ids import SessionId
from lash_tasks.observation.cursors import Position, format_cursor, gap_after, parse_cursor
from lash_tasks.stores.protocols import GapReason, LiveBatch, LiveEvent, LiveGap

MAX_EVENTS = 2048
MAX_SESSIONS = 10_000
READ_LIMIT = 512


@dataclass(slots=True)
class _Stream:
    """The newest events of a session; `number` is the last one's."""

    epoch: str
    used_at: float
    number: int = 0
    events: deque[TurnActivity] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    readers: set[threading.Event] = field(default_factory=set)

    def position(self, number: int) -> Position:
        return Position(self.epoch, 0, number)

    def wake(self) -> None:
        for reader in self.readers:
            reader.set()


class MemoryLiveReplay:
    """Implements `LiveReplay` among the threads of one process.

    A stream ends `retention_ms` after its last use, or when 10 000 others were used since.
    """

    def __init__(self, clock: Clock, *, retention_ms: int) -> None:
        self._clock = clock
        self._retention = retention_ms / 1000
        self._lock = threading.Lock()
        self._streams: OrderedDict[SessionId, _Stream] = OrderedDict()
        self._born_ms = clock.now_ms()
        self._serial = count(1)
        self._closed = False

    def append(self, activities: Sequence[TurnActivity]) -> None:
        with self._lock:
            for activity in activities:
                stream = self._use(activity.session_id) or self._begin(activity.session_id)
                stream.events.append(activity)
                stream.number += 1
                stream.wake()

    def read(self, session_id: SessionId, cursor: str | None, wait_seconds: float) -> LiveBatch | LiveGap:
        if cursor is None:
            cursor = self.tail(session_id)
        position = parse_cursor(session_id, cursor)
        arrived = threading.Event()
        with self._lock:
            found = self._after(session_id, position)
            if found is not None or wait_seconds <= 0 or self._closed:
                return found or LiveBatch((), cursor)
            readers = self._streams[session_id].readers
            readers.add(arrived)
        self._clock.wait(arrived, wait_seconds)
        with self._lock:
            readers.discard(arrived)
            return self._after(session_id, position) or LiveBatch((), cursor)

    def tail(self, session_id: SessionId) -> str:
        with self._lock:
            return self._tail(session_id)

    def close(self) -> None:
        """Let every waiting reader return."""
        with self._lock:
            self._closed = True
            for stream in self._streams.values():
                stream.wake()

    def _after(self, session_id: SessionId, position: Position) -> LiveBatch | LiveGap | None:
        """What follows `position`; None if that is the end of the stream."""
        stream = self._use(session_id)
        if stream is None:
            return LiveGap(GapReason.UNAVAILABLE, self._tail(session_id))
        first = stream.number - len(stream.events) + 1
        start = max(first, position.number + 1) if stream.epoch == position.epoch else first
        following = stream.position(start) if start <= stream.number else None
        reason = gap_after(position, following, stream.position(stream.number))
        if reason is not None:
            return LiveGap(reason, self._tail(session_id))
        if following is None:
            return None
        chosen = islice(stream.events, start - first, start - first + READ_LIMIT)
        events = tuple(
            LiveEvent(format_cursor(session_id, stream.position(number)), activity)
            for number, activity in enumerate(chosen, start)
        )
        return LiveBatch(events, events[-1].cursor)

    def _tail(self, session_id: SessionId) -> str:
        stream = self._use(session_id) or self._begin(session_id)
        return format_cursor(session_id, stream.position(stream.number))

    def _use(self, session_id: SessionId) -> _Stream | None:
        """The session's stream, which begins another span of life."""
        self._expire()
        stream = self._streams.get(session_id)
        if stream is not None:
            stream.used_at = self._clock.monotonic()
            self._streams.move_to_end(session_id)
        return stream

    def _begin(self, session_id: SessionId) -> _Stream:
        if len(self._streams) >= MAX_SESSIONS:
            self._streams.popitem(last=False)[1].wake()
        stream = _Stream(f"{self._born_ms}.{next(self._serial)}", self._clock.monotonic())
        self._streams[session_id] = stream
        return stream

    def _expire(self) -> None:
        """Drop streams whose life is over. They are in order of use."""
        limit = self._clock.monotonic() - self._retention
        while self._streams and (oldest := next(iter(self._streams.values()))).used_at <= limit:
            self._streams.popitem(last=False)
            oldest.wake()
