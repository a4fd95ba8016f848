"""The journal of one open turn: what is recorded, where it ends, and how one more effect gets in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from lash_tasks.clock import Clock
from lash_tasks.domain.ids import ReplayKey
from lash_tasks.domain.journal import (
    EffectState,
    Envelope,
    JournalRow,
    RecordedEffect,
    RecordReply,
    RecordVerdict,
)
from lash_tasks.errors import StoreError, StoreUnavailable
from lash_tasks.ports import Interrupt, Interrupted, InterruptReason
from lash_tasks.runtime.journal_writer import JournalWriter
from lash_tasks.stores.protocols import OpenedTurn

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""How long a write that the database did not take is tried again: a paid answer is worth a wait."""


def patiently(write: Callable[[], T], clock: Clock, interrupt: Interrupt) -> T:
    """`write()`, again after a StoreUnavailable, for about 16 s or until the turn is lost; then the last error.

    Safe because the store's writes are idempotent: a record or commit that landed unseen answers so.
    """
    never = threading.Event()
    for seconds in RETRY_SECONDS:
        try:
            return write()
        except StoreUnavailable:
            log.warning("a write is tried again", extra={"after_seconds": seconds})
            if interrupt.reason is InterruptReason.LOST:
                raise
            clock.wait(never, seconds)
    return write()


class TurnJournal:
    """Reads are of what the opening found and of what was recorded since. Safe from a round's threads."""

    def __init__(self, writer: JournalWriter, opened: OpenedTurn, clock: Clock, interrupt: Interrupt) -> None:
        self._clock = clock
        self._writer = writer
        self._opened = opened
        self._interrupt = interrupt
        self._recorded = {effect.replay_key: effect for effect in opened.journal}
        self._last_ordinal = max((effect.ordinal for effect in opened.journal), default=0)

    def find(self, key: ReplayKey) -> RecordedEffect | None:
        return self._recorded.get(key)

    def goes_beyond(self, ordinal: int) -> bool:
        """Whether something later than `ordinal` is recorded: what is missing there had nothing to record."""
        return self._last_ordinal > ordinal

    def row(
        self, key: ReplayKey, ordinal: int, state: EffectState, envelope: Envelope, outcome: bytes | None
    ) -> JournalRow:
        intent = self._opened.intent
        return JournalRow(
            session_id=intent.session_id,
            turn_id=intent.turn_id,
            replay_key=key,
            ordinal=ordinal,
            fence=self._opened.fence,
            state=state,
            envelope=envelope.to_bytes(),
            outcome=outcome,
        )

    def record(self, row: JournalRow) -> RecordReply:
        """Write one row. Raises Interrupted(LOST) when the turn is another worker's by now.

        `exists` is ours: under our fence nobody else writes, so an earlier try landed and its answer was lost.
        """
        reply = patiently(lambda: self._writer.record(row), self._clock, self._interrupt)
        if reply.verdict is RecordVerdict.FENCED:
            raise Interrupted(InterruptReason.LOST)
        if reply.verdict is RecordVerdict.REFUSED:
            raise StoreError(f"the database refused the journal row {row.replay_key!r}; see its log")
        if row.state is EffectState.DONE:  # a turn that input sends back may come to the same effect again
            self._recorded[row.replay_key] = RecordedEffect(
                replay_key=row.replay_key,
                ordinal=row.ordinal,
                fence=row.fence,
                state=row.state,
                envelope=row.envelope,
                outcome=row.outcome,
            )
        return reply
