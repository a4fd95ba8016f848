"""The outer pass: take a session's lease, open its next turn, have it run, let go, look again (design §4).

Nothing that is rung for is lost on the way out. Whoever comes while the lease is held is turned away and leaves a
knock that the holder finds when it lets go, in one step with the letting go; then it looks, and rings for what it
finds. A knock that Redis loses costs the time until the next sweep.
"""

from __future__ import annotations

import contextvars
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum

from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import LeaseStoreUnavailable, StoreUnavailable, UnsupportedRecordSchemaVersion
from lash_tasks.ports import Interrupted, InterruptReason
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.repertoire import Repertoire
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.runtime.turn_pipeline import Landed, TurnPipeline
from lash_tasks.runtime.warm_sessions import COLD, WarmSession, WarmSessions
from lash_tasks.runtime.worker import Engagement, Worker
from lash_tasks.stores.protocols import (
    NotOpened,
    OpenedTurn,
    Released,
)

log = logging.getLogger(__name__)

STAY_SECONDS = 2.0
"""How long a doorbell may keep its thread with turn after turn of one session, while others wait for theirs."""

in_turn: contextvars.ContextVar[bool] = contextvars.ContextVar("lash_in_turn", default=False)
"""Whether this code runs inside a turn, also in a tool's thread."""


class RunVerdict(StrEnum):
    """What became of one doorbell."""

    COMMITTED = "committed"
    NOTHING = "nothing"
    """There was nothing to do, or nothing this worker has the code for."""
    BUSY = "busy"
    """Somebody is at work on the session and will look again."""
    YIELDED = "yielded"
    """The worker is leaving; the turn goes on elsewhere."""
    FENCED = "fenced"
    """Another worker took the turn; nothing more was written."""
    NO_LEASES = "no_leases"
    """Redis cannot be reached: no new turn starts."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """How one opening of the session went."""

    verdict: RunVerdict
    landed: Landed | None = None
    """The turn that was committed."""
    held: bool = False
    """What is to be done is for workers with other code."""

    @property
    def more(self) -> bool:
        return self.landed is not None and self.landed.more


@dataclass(frozen=True, slots=True)
class _Visit:
    """One hold of a session's lease: how it went, how its last opening did, and how the lease was let go."""

    verdict: RunVerdict
    last: _Opening
    engagement: Engagement
    released: Released | None

    def leaves_something(self) -> bool:
        """Whether there may be work that nobody else is rung for."""
        if self.released is None:
            return False
        left = self.last.more or self.verdict is RunVerdict.YIELDED
        return left or self.engagement.knocked or self.released is not Released.QUIET


class SessionRunner:
    """Answers doorbells. One object serves all threads of a worker."""

    def __init__(self, services: RuntimeServices, worker: Worker, repertoire: Repertoire) -> None:
        self._services = services
        self._worker = worker
        self._repertoire = repertoire
        self._warm = WarmSessions()
        self._pipeline = TurnPipeline(services, worker, repertoire, self._warm)

    def run(self, session_id: SessionId) -> RunVerdict:
        """Run the session's next turn, and for a while those behind it. Raises what went wrong, after letting go."""
        token = in_turn.set(True)
        try:
            with ExitStack() as afterwards:
                return self._run(session_id, afterwards)
        finally:
            in_turn.reset(token)

    def _run(self, session_id: SessionId, afterwards: ExitStack) -> RunVerdict:
        services = self._services
        if self._worker.draining:
            if self._worker.hands_on(session_id):
                services.doorbell.ring_session(session_id)
            return RunVerdict.YIELDED
        with self._worker.engage(session_id, services.new_token()) as engagement:
            if engagement is None:
                return RunVerdict.BUSY
            engagement.afterwards = afterwards
            visit = self._visit(engagement)
        if isinstance(visit, _Visit):
            services.reached(CrashPoint.AFTER_RELEASE)
            if visit.leaves_something():
                self._look_again(session_id, held=visit.last.held)
            return visit.verdict
        if visit is RunVerdict.BUSY and engagement.knocked:
            # By one who left no mark on the lease, for our sake; its holder may be gone by now.
            services.doorbell.ring_session(session_id)
        return visit

    def _visit(self, engagement: Engagement) -> _Visit | RunVerdict:
        """Take the lease and do what there is to do, then let go of it; a verdict if it cannot be had."""
        services = self._services
        try:
            acquired = services.leases.acquire(engagement.scope, engagement.token, services.lease_ttl_ms)
        except LeaseStoreUnavailable:
            log.warning("no turn starts without leases", extra={"session_id": engagement.session_id})
            return RunVerdict.NO_LEASES
        if not acquired:
            return RunVerdict.BUSY
        services.reached(CrashPoint.AFTER_LEASE)
        return self._turn_after_turn(engagement)

    def _turn_after_turn(self, engagement: Engagement) -> _Visit:
        until = self._services.clock.monotonic() + STAY_SECONDS
        try:
            last = self._open_and_run(engagement)
            verdict = last.verdict
            while self._stays(last, until):
                following = self._worker.next_turn(engagement)
                if following is None:
                    break
                engagement = following
                last = self._open_and_run(engagement)
                verdict = verdict if last.verdict is RunVerdict.NOTHING else last.verdict
        except Exception:
            self._release(engagement)
            raise
        return _Visit(verdict, last, engagement, self._release(engagement))

    def _stays(self, last: _Opening, until: float) -> bool:
        """Whether the next turn is run under this lease: those of one run all are."""
        if last.landed is None or last.landed.observed or self._worker.draining:
            return False
        return last.landed.more and (last.landed.goes_on or self._services.clock.monotonic() < until)

    # ------------------------------------------------------------ one turn

    def _open_and_run(self, engagement: Engagement) -> _Opening:
        session_id = engagement.session_id
        known = self._warm.take(session_id)
        opened = self._open(session_id, known)
        if isinstance(opened, OpenedTurn) and opened.intent.base_revision < known.revision:
            # Somebody has set the database back, so what is known here never happened.
            known = COLD
            opened = self._open(session_id, known)
        if isinstance(opened, NotOpened):
            self._warm.keep(session_id, known)
            verdict = RunVerdict.BUSY if opened is NotOpened.HOLDER_LIVES else RunVerdict.NOTHING
            return _Opening(verdict, held=opened is NotOpened.HELD)
        engagement.fence = opened.fence
        engagement.turn_id = opened.intent.turn_id  # last: from here on the keeper and the beat count on the fence
        self._services.reached(CrashPoint.AFTER_OPEN)
        extra = {"session_id": session_id, "turn_id": opened.intent.turn_id, "attempt": opened.attempt}
        log.info("turn resumed" if opened.resumed else "turn started", extra=extra)
        try:
            landed = self._pipeline.run(opened, self._before(opened, known), engagement)
            return _Opening(RunVerdict.FENCED if landed is None else RunVerdict.COMMITTED, landed)
        except Interrupted as interrupted:
            if interrupted.reason is InterruptReason.LOST:
                log.warning("turn left to another worker", extra=extra)
                return _Opening(RunVerdict.FENCED)
            self._give_up(opened, crashed=False)
            log.info("turn given up for another worker", extra=extra)
            return _Opening(RunVerdict.YIELDED)
        except StoreUnavailable:
            self._give_up(opened, crashed=False)
            raise
        except Exception as error:
            later = isinstance(error, UnsupportedRecordSchemaVersion) and error.newer
            self._give_up(opened, crashed=not later)
            if not later:
                log.exception("turn failed and is given up", extra=extra)
                raise
            log.warning("turn left to a worker of a later release", extra={**extra, "problem": str(error)})
            return _Opening(RunVerdict.NOTHING, held=True)

    def _open(self, session_id: SessionId, known: WarmSession) -> OpenedTurn | NotOpened:
        """Open the session; what a turn held back is pinned to is looked at when it is new to this worker."""
        turns, repertoire = self._services.turns, self._repertoire
        opened = turns.open(repertoire.request(session_id, self._worker.id, known.revision))
        if opened is not NotOpened.HELD:
            return opened
        pinned = self._services.work.pinned(session_id)
        if pinned is None or not repertoire.has_code_for(pinned):
            return NotOpened.HELD
        return turns.open(repertoire.request(session_id, self._worker.id, known.revision))

    def _before(self, opened: OpenedTurn, known: WarmSession) -> WarmSession:
        """What the session shows before the turn. A frame that shows nothing yet hangs from the one before."""
        before = (COLD if opened.whole else known).grown(opened.history, opened.intent.base_revision)
        if before.leaf is None and opened.frame_id is not None:
            last = self._services.graph.leaf(opened.intent.session_id)
            before = before if last is None else before.behind(last)
        return before

    # ------------------------------------------------------------ letting go

    def _give_up(self, opened: OpenedTurn, *, crashed: bool) -> None:
        intent = opened.intent
        try:
            self._services.turns.give_up(intent.session_id, intent.turn_id, opened.fence, crashed=crashed)
        except StoreUnavailable:
            log.warning("turn could not be given up; the next beat does it", extra={"turn_id": intent.turn_id})

    def _release(self, engagement: Engagement) -> Released | None:
        """Let go of the lease. None if it may still be there: then it expires, and the sweep looks instead of us."""
        engagement.leaving = True
        try:
            return self._services.leases.release(engagement.scope, engagement.token)
        except LeaseStoreUnavailable:
            log.warning("lease could not be released", extra={"session_id": engagement.session_id})
            return None

    def _look_again(self, session_id: SessionId, *, held: bool) -> None:
        """Whoever came while the lease was held was answered `busy`: this look is for what they came for.

        With `held` what is there is for another version's worker, and one may have come: the ring is handed on.
        """
        if held:
            self._services.doorbell.ring_session(session_id)
            return
        try:
            runnable = self._services.work.runnable(self._repertoire.request(session_id, self._worker.id))
        except StoreUnavailable:
            log.warning("could not look again; the sweep does", extra={"session_id": session_id})
            return
        if runnable is None:
            return
        if runnable.turn_id is None:
            self._services.doorbell.ring_session(session_id)
        else:
            self._services.doorbell.ring_turn(session_id, runnable.turn_id)
