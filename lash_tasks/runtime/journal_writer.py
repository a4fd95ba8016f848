"""Group commit: journal rows of all turns of a worker go to the database together, without waiting for each other.

There is no thread of its own and no lingering. Whoever comes while nobody is writing writes at once, also for all who
have queued up behind the last write; whoever comes during a write waits for it, and one of those who waited does the
next. So a lone turn pays for one row and a busy worker for one statement in many rows.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from lash_tasks.domain.journal import JournalRow, RecordReply, RecordVerdict
from lash_tasks.errors import StoreUnavailable
from lash_tasks.stores.protocols import TurnStore

MAX_ROWS = 256
MAX_BYTES = 1024 * 1024


@dataclass(slots=True, eq=False)
class _Entry:
    """A row on its way, and what its turn is waiting for."""

    row: JournalRow
    woken: threading.Event = field(default_factory=threading.Event)
    reply: RecordReply | None = None
    error: Exception | None = None

    @property
    def size(self) -> int:
        return len(self.row.envelope) + len(self.row.outcome or b"")

    @property
    def answered(self) -> bool:
        return self.reply is not None or self.error is not None


class JournalWriter:
    """One per worker; safe from all of its threads."""

    def __init__(self, turns: TurnStore) -> None:
        self._turns = turns
        self._lock = threading.Lock()
        self._queue: deque[_Entry] = deque()
        self._writing = False

    def record(self, row: JournalRow) -> RecordReply:
        """`TurnStore.record` of one row. Raises what the database has against this row, or against all of its group.

        A row whose session somebody else has locked is written by itself, so that nobody waits for that lock but its
        own turn.
        """
        entry = _Entry(row)
        with self._lock:
            self._queue.append(entry)
            mine, self._writing = not self._writing, True
        if not mine:
            self._wait(entry)
        if not entry.answered:
            self._write()
        if entry.error is not None:
            raise entry.error
        if entry.reply is None:
            raise AssertionError("a group was written without the row that wrote it")
        if entry.reply.verdict is RecordVerdict.LOCKED:
            (reply,) = self._turns.record([row])
            return reply
        return entry.reply

    def _wait(self, entry: _Entry) -> None:
        """Until the row is written, or it is this thread's turn to write."""
        try:
            entry.woken.wait()
        except BaseException:
            with self._lock:
                if entry in self._queue:
                    self._queue.remove(entry)
                    if entry.woken.is_set():
                        self._hand_on()
            raise

    def _write(self) -> None:
        """Write the rows at the head of the queue, wake their turns, and hand on to whoever waits behind them."""
        group = self._take()
        try:
            for entry, reply in zip(group, self._turns.record([entry.row for entry in group]), strict=True):
                entry.reply = reply
        except Exception as error:
            for entry in group:
                entry.error = error
        except BaseException:
            for entry in group:
                entry.error = StoreUnavailable("the thread that wrote the journal was stopped; try again")
            raise
        finally:
            for entry in group:
                entry.woken.set()
            with self._lock:
                self._hand_on()

    def _hand_on(self) -> None:
        self._writing = bool(self._queue)
        if self._queue:
            self._queue[0].woken.set()

    def _take(self) -> list[_Entry]:
        with self._lock:
            group = [self._queue.popleft()]
            size = group[0].size
            while self._queue and len(group) < MAX_ROWS and (size := size + self._queue[0].size) <= MAX_BYTES:
                group.append(self._queue.popleft())
            return group
