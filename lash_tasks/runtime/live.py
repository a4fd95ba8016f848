"""Publishing live events of one turn: ordered, coalesced, best effort."""

from __future__ import annotations

import threading

from lash_tasks.clock import Clock
from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.codec import JsonObject, JsonValue, scrub
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.runtime.live_writer import LiveWriter

FLUSH_SECONDS = 0.05
FLUSH_EVENTS = 64


class LivePublisher:
    """Implements `ports.ModelStream`. Neighbouring text deltas become one event."""

    def __init__(
        self, writer: LiveWriter, clock: Clock, session_id: SessionId, turn_id: TurnId, fence: int, attempt: int
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._ids = (session_id, turn_id, fence, attempt)
        self._lock = threading.Lock()
        self._pending: list[tuple[ActivityType, JsonObject]] = []
        self._ordinal = 0
        self._flushed_at = clock.monotonic()

    def emit(self, kind: ActivityType, **data: JsonValue) -> None:
        """Queue an event; it goes out with the next flush."""
        with self._lock:
            self._pending.append((kind, scrub(data)))
            self._flush_when_due()

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def text(self, delta: str) -> None:
        self._delta(ActivityType.ASSISTANT_PROSE_DELTA, delta)

    def reasoning(self, delta: str) -> None:
        self._delta(ActivityType.REASONING_DELTA, delta)

    def reset(self) -> None:
        self.emit(ActivityType.STREAM_RESET)

    def retrying(self, *, attempt: int, max_attempts: int, wait_seconds: float, reason: str) -> None:
        self.emit(
            ActivityType.RETRY_STATUS,
            attempt=attempt,
            max_attempts=max_attempts,
            wait_seconds=wait_seconds,
            reason=reason,
        )
        self.flush()

    def _delta(self, kind: ActivityType, delta: str) -> None:
        with self._lock:
            if self._pending and self._pending[-1][0] is kind:
                self._pending[-1][1]["text"] += scrub(delta)
            else:
                self._pending.append((kind, {"text": scrub(delta)}))
            self._flush_when_due()

    def _flush_when_due(self) -> None:
        waited = self._clock.monotonic() - self._flushed_at
        if waited >= FLUSH_SECONDS or len(self._pending) >= FLUSH_EVENTS:
            self._flush()

    def _flush(self) -> None:
        self._flushed_at = self._clock.monotonic()
        if not self._pending:
            return
        session_id, turn_id, fence, attempt = self._ids
        activities = []
        for kind, data in self._pending:
            self._ordinal += 1
            activities.append(TurnActivity(session_id, turn_id, fence, attempt, self._ordinal, kind, data))
        self._pending.clear()
        self._writer.append(activities)
