"""What one worker process knows of itself: its name, the sessions it is at work on, and whether it is leaving."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from lash_tasks.clock import Clock
from lash_tasks.domain.ids import LeaseToken, SessionId, TurnId, WorkerId, fence_scope
from lash_tasks.ports import InterruptReason
from lash_tasks.runtime.interrupts import TurnInterrupt


class Doing(StrEnum):
    """What a turn is in the middle of; a drain treats them differently."""

    NOTHING = "nothing"
    INSTRUCTIONS = "instructions"
    MODEL_CALL = "model_call"
    WAITING = "waiting"
    """For a provider's limits."""
    OUTPUT = "output"
    """The application's code looks at an answer."""
    TOOLS = "tools"
    HOOKS = "hooks"
    COMMIT = "commit"


@dataclass(slots=True)
class Engagement:
    """One session that this process is at work on. Mutable: the turn's thread writes, the keeper reads."""

    session_id: SessionId
    token: LeaseToken
    interrupt: TurnInterrupt
    turn_id: TurnId | None = None
    fence: int = 0
    doing: Doing = Doing.NOTHING
    deadline: float | None = None
    """Monotonic seconds after which the effect in flight counts as stuck."""
    leaving: bool = False
    """The lease is being let go, or is gone: it must not be renewed any more."""
    afterwards: ExitStack = field(default_factory=ExitStack)
    """What is done once the session was let go, whatever became of it."""
    knocked: bool = False
    """Another thread of this process wanted the session meanwhile."""

    @property
    def scope(self) -> str:
        return fence_scope(self.session_id)


@dataclass(slots=True)
class Worker:
    """Shared by the threads of one process. A session has at most one engagement at a time."""

    id: WorkerId
    clock: Clock
    _engaged: dict[SessionId, Engagement] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _idle: threading.Condition = field(default_factory=threading.Condition)
    _draining: bool = False
    _handed_on: set[SessionId] = field(default_factory=set)

    @property
    def draining(self) -> bool:
        return self._draining

    @contextmanager
    def engage(self, session_id: SessionId, token: LeaseToken) -> Iterator[Engagement | None]:
        """Reserve the session in this process; None if another thread is at work on it.

        This comes before the lease: after a loss of Redis two threads of one process could both get it.
        """
        engagement = Engagement(session_id, token, TurnInterrupt(self.clock))
        with self._lock:
            other = self._engaged.setdefault(session_id, engagement)
            if other is not engagement:
                other.knocked = True
        try:
            yield engagement if other is engagement else None
        finally:
            if other is engagement:
                self.dismiss(engagement)

    def next_turn(self, engagement: Engagement) -> Engagement | None:
        """The same session under the same lease, for its next turn; None if it was dismissed meanwhile."""
        following = Engagement(engagement.session_id, engagement.token, TurnInterrupt(self.clock))
        with self._lock:
            if self._engaged.get(engagement.session_id) is not engagement:
                return None
            following.knocked, following.afterwards = engagement.knocked, engagement.afterwards
            self._engaged[engagement.session_id] = following
        return following

    def dismiss(self, engagement: Engagement) -> None:
        """Forget an engagement and those that followed it; a thread that is still in it can write nothing any more."""
        with self._lock:
            current = self._engaged.get(engagement.session_id)
            if current is not None and current.token == engagement.token:
                del self._engaged[engagement.session_id]
        with self._idle:
            self._idle.notify_all()

    def dismiss_turn(self, engagement: Engagement) -> bool:
        """As `dismiss`, but not when another turn of the same visit has followed; whether it was dismissed."""
        with self._lock:
            current = self._engaged.get(engagement.session_id) is engagement
            if current:
                del self._engaged[engagement.session_id]
        with self._idle:
            self._idle.notify_all()
        return current

    def engagements(self) -> list[Engagement]:
        with self._lock:
            return list(self._engaged.values())

    def begin_drain(self) -> None:
        """From now on nothing new is opened, and a turn stops before its next effect."""
        self._draining = True

    def hands_on(self, session_id: SessionId) -> bool:
        """Whether a draining worker should ring for a session that it turns away: once.

        Its own queue may bring the ring back, and so it would ring for as long as it drains.
        """
        with self._lock:
            first = session_id not in self._handed_on
            self._handed_on.add(session_id)
            return first

    def interrupt_all(self, *doing: Doing) -> int:
        """Interrupt turns for the drain, all of them or those that are `doing` one of these; how many."""
        chosen = [one for one in self.engagements() if not doing or one.doing in doing]
        for engagement in chosen:
            engagement.interrupt.set(InterruptReason.DRAINING)
        return len(chosen)

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no session is engaged; whether that came true in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._engaged, timeout=max(0.0, seconds))
