"""The double-text rules as a small program: what a session's queue does, without a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

from lash_tasks.domain.ids import BatchId
from lash_tasks.domain.queue import LONGEST_QUIET, When


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An input in the order of arrival, with what it was sent under."""

    id: BatchId
    number: int
    when: When
    agent: str
    context: str
    sent_ms: int
    available_ms: int
    merge_key: str | None = None
    quiet_ms: int | None = None

    @property
    def urgent(self) -> bool:
        return self.when is When.INTERRUPT

    @property
    def place(self) -> tuple[bool, int]:
        return not self.urgent, self.number

    @property
    def shares_with(self) -> tuple[str, ...] | None:
        """Inputs of one such value may share a turn; None shares with nobody."""
        if self.when is When.STEER:
            return ("steer", self.agent, self.context)
        if self.when is When.MERGE:
            return ("merge", self.merge_key or "", self.agent, self.context)
        return None


@dataclass
class QueueModel:
    """One session. `running` are the inputs of its unfinished turn."""

    waiting: list[Sent] = field(default_factory=list)
    running: list[Sent] = field(default_factory=list)
    cancelled: bool = False
    """The running turn was asked to stop."""

    def send(self, sent: Sent) -> None:
        self.waiting.append(sent)
        self.cancelled |= sent.urgent and bool(self.running)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def is_held(self, sent: Sent, now_ms: int) -> bool:
        """Whether the input waits for others to stop coming."""
        if sent.quiet_ms is None:
            return False
        kind = [one for one in self.waiting if one.quiet_ms is not None and one.shares_with == sent.shares_with]
        first, last = kind[0], kind[-1]
        assert first.quiet_ms is not None
        assert last.quiet_ms is not None
        return last.sent_ms + last.quiet_ms > now_ms and first.sent_ms + LONGEST_QUIET * first.quiet_ms > now_ms

    def next_run(self, now_ms: int) -> list[Sent]:
        """What an idle session would take."""
        line = sorted(
            (one for one in self.waiting if one.available_ms <= now_ms and not self.is_held(one, now_ms)),
            key=lambda one: one.place,
        )
        if not line:
            return []
        head, shares = line[0], line[0].shares_with
        if shares is None:
            return [head]
        return list(takewhile(lambda one: one.shares_with == shares, line))

    def joinable(self, now_ms: int) -> list[Sent]:
        """What the running turn would take at a checkpoint."""
        run = self.next_run(now_ms)
        first = self.running[0]
        fits = bool(run) and run[0].when is When.STEER
        return run if fits and (run[0].agent, run[0].context) == (first.agent, first.context) else []

    def open(self, now_ms: int) -> list[Sent]:
        self.running = self._take(self.next_run(now_ms))
        self.cancelled = False
        return self.running

    def checkpoint(self, now_ms: int) -> list[Sent]:
        joined = self._take(self.joinable(now_ms))
        self.running = self.running + joined
        return joined

    def commit(self) -> None:
        self.running, self.cancelled = [], False

    def cancel(self, sent: Sent) -> None:
        self.waiting.remove(sent)

    def _take(self, run: list[Sent]) -> list[Sent]:
        self.waiting = [one for one in self.waiting if one not in run]
        return run
