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
LOOK_AGAIN_SECONDS = 1.0
"""How often who waits looks whether somebody writes at all."""


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
    """One per worker; safe from all of its threads, also from one that an exception stops anywhere in here.

    Who writes holds the baton, and a `with` is all that surely ends when a thread is stopped. So who waits looks now
    and then whether somebody writes at all, and comes back with a row that got lost with the one who had taken it.
    """

    def __init__(self, turns: TurnStore) -> None:
        self._turns = turns
        self._baton = threading.Lock()
        self._lock = threading.Lock()
        self._queue: deque[_Entry] = deque()

    def record(self, row: JournalRow) -> RecordReply:
        """`TurnStore.record` of one row. Raises what the database has against this row, or against all of its group.

        A row whose session somebody else has locked is written by itself and beside the others, so that nobody waits
        for that lock but its own turn.
        """
        entry = _Entry(row)
        with self._lock:
            self._queue.append(entry)
        try:
            self._see_to(entry)
        except BaseException:
            self._forget(entry)
            raise
        if entry.error is not None:
            raise entry.error
        if entry.reply is None:
            raise AssertionError("a group was written without the row that wrote it")
        if entry.reply.verdict is RecordVerdict.LOCKED:
            (reply,) = self._turns.record([row])
            return reply
        return entry.reply

    def _see_to(self, entry: _Entry) -> None:
        """Return when the row is answered, after writing it or waiting for it."""
        while True:
            entry.woken.clear()  # before the looks that follow, so that no call is missed
            if entry.answered:
                return
            if self._baton.locked():
                entry.woken.wait(LOOK_AGAIN_SECONDS)
                continue
            with self._baton:
                if not entry.answered:
                    self._write(self._take(entry))
            self._call_next()

    def _write(self, group: list[_Entry]) -> None:
        """Write these rows and wake their turns."""
        try:
            replies = self._turns.record([entry.row for entry in group], wait=False)
            for entry, reply in zip(group, replies, strict=True):
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

    def _take(self, own: _Entry) -> list[_Entry]:
        """The head of the queue; `own` is put there first if a thread that was stopped has taken it out."""
        with self._lock:
            if own not in self._queue:
                self._queue.appendleft(own)
            group = [self._queue.popleft()]
            size = group[0].size
            while self._queue and len(group) < MAX_ROWS and (size := size + self._queue[0].size) <= MAX_BYTES:
                group.append(self._queue.popleft())
            return group

    def _forget(self, entry: _Entry) -> None:
        with self._lock:
            if entry in self._queue:
                self._queue.remove(entry)
        self._call_next()

    def _call_next(self) -> None:
        with self._lock:
            if self._queue:
                self._queue[0].woken.set()
