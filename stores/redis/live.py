"""Live events in Redis: a stream for each session."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import cast

from redis.exceptions import ReadOnlyError

from lash_tasks.clock import Clock
from lash_tasks.domain.activity import TurnActivity
from lash_tasks.domain.codec import decode, encode
from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import UnsupportedRecordSchemaVersion
from lash_tasks.observation.cursors import Position, format_cursor, gap_after, parse_cursor
from lash_tasks.stores.protocols import GapReason, LiveBatch, LiveEvent, LiveGap
from lash_tasks.stores.redis.breaker import Breaker
from lash_tasks.stores.redis.connections import BLOCK_SECONDS, Connections, leave_replica, reaching_redis
from lash_tasks.stores.redis.keys import Keys
from lash_tasks.stores.redis.scripts import AppendScript, TailScript

logger = logging.getLogger(__name__)

MAX_EVENTS = 2048
READ_LIMIT = 512
PAUSE_SECONDS = 1.0

_Entry = tuple[bytes, Mapping[bytes, bytes]]


class RedisLiveReplay:
    """Implements `LiveReplay`. A stream ends `retention_ms` after its last use."""

    def __init__(self, connections: Connections, keys: Keys, clock: Clock, *, retention_ms: int) -> None:
        self._connections = connections
        self._keys = keys
        self._retention_ms = retention_ms
        self._breaker = Breaker(clock, PAUSE_SECONDS)
        self._append = AppendScript(connections.appends)
        self._tail = TailScript(connections.commands)

    def append(self, activities: Sequence[TurnActivity]) -> None:
        if not activities or not self._breaker.allows():
            return
        try:
            self._append(self._encoded(activities), retention_ms=self._retention_ms, max_events=MAX_EVENTS)
        except Exception as error:  # whatever goes wrong here, the turn goes on
            if isinstance(error, ReadOnlyError):
                leave_replica(self._connections.appends)
            if self._breaker.failed():
                logger.warning("Live events are lost until Redis is back", extra={"error": type(error).__name__})
        else:
            if self._breaker.succeeded():
                logger.info("Redis is back: live events are kept again")

    def _encoded(self, activities: Sequence[TurnActivity]) -> dict[str, list[bytes]]:
        """The events by their streams' keys."""
        streams: dict[str, list[bytes]] = {}
        for activity in activities:
            try:
                encoded = encode(TurnActivity, activity)
            except (ValueError, TypeError) as error:
                extra = {"session_id": activity.session_id, "error": type(error).__name__}
                logger.warning("A live event is lost: it cannot be encoded", extra=extra)
                continue
            streams.setdefault(self._keys.live(activity.session_id), []).append(encoded)
        return streams

    def read(self, session_id: SessionId, cursor: str | None, wait_seconds: float) -> LiveBatch | LiveGap:
        if cursor is None:
            cursor = self.tail(session_id)
        position = parse_cursor(session_id, cursor)
        while True:
            found = self._after(session_id, position)
            if found is not None or wait_seconds <= 0:
                return found or LiveBatch((), cursor)
            span = min(wait_seconds, BLOCK_SECONDS)
            if (batch := self._wait(session_id, position, span)) is not None:
                return batch
            wait_seconds -= span

    def tail(self, session_id: SessionId) -> str:
        with reaching_redis(self._connections.commands):
            end = self._tail(self._keys.live(session_id), retention_ms=self._retention_ms)
        return format_cursor(session_id, _position(end.id, end.epoch))

    def _wait(self, session_id: SessionId, position: Position, seconds: float) -> LiveBatch | None:
        """Wait until the stream goes on. None: nothing came, or what came must be looked at with its context."""
        client, key = self._connections.blocking, self._keys.live(session_id)
        with reaching_redis(client):
            # redis-py's type is that of all its protocols at once; we ask for the second.
            found = cast(
                Sequence[tuple[bytes, Sequence[_Entry]]],
                client.xread({key: _id(position)}, count=READ_LIMIT, block=max(1, round(seconds * 1000))),
            )
        if not found:
            return None
        _, entries = found[0]
        first = _first(entries)
        if first is None or (first.epoch, first.number) != (position.epoch, position.number + 1):
            return None
        return self._batch(session_id, entries)

    def _after(self, session_id: SessionId, position: Position) -> LiveBatch | LiveGap | None:
        """What follows `position`; None if that is the end of the stream."""
        client, key = self._connections.commands, self._keys.live(session_id)
        with reaching_redis(client), client.pipeline(transaction=True) as pipeline:
            pipeline.xrange(key, min=f"({_id(position)}", count=READ_LIMIT)
            pipeline.xrevrange(key, count=1)
            pipeline.pexpire(key, self._retention_ms)
            entries, last, _ = pipeline.execute()
        reason = gap_after(position, _first(entries), _first(last))
        if reason is not None:
            return LiveGap(reason, self.tail(session_id))
        if not entries:
            return None
        return self._batch(session_id, entries) or LiveGap(GapReason.UNAVAILABLE, self.tail(session_id))

    def _batch(self, session_id: SessionId, entries: Sequence[_Entry]) -> LiveBatch | None:
        """The events; None if a newer release wrote them: to this one they are lost, and it goes on behind them."""
        try:
            events = tuple(_event(session_id, entry) for entry in entries)
        except (UnsupportedRecordSchemaVersion, ValueError):
            return None
        return LiveBatch(events, events[-1].cursor)


def _id(position: Position) -> str:
    return f"{position.at_ms}-{position.number}"


def _position(entry_id: bytes, epoch: bytes) -> Position:
    at_ms, _, number = entry_id.partition(b"-")
    return Position(epoch.decode(), int(at_ms), int(number))


def _first(entries: Sequence[_Entry]) -> Position | None:
    return _position(entries[0][0], entries[0][1][b"epoch"]) if entries else None


def _event(session_id: SessionId, entry: _Entry) -> LiveEvent:
    entry_id, fields = entry
    cursor = format_cursor(session_id, _position(entry_id, fields[b"epoch"]))
    return LiveEvent(cursor, decode(TurnActivity, fields[b"activity"]))
