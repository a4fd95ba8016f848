"""The outer pass: take a session's lease, open its next turn, drive it, commit it, let go, look again (design §4).

Nothing that is rung for is lost on the way out. Whoever comes while the lease is held is turned away and leaves a
knock that the holder finds when it lets go, in one step with the letting go; then it looks, and rings for what it
finds. A knock that Redis loses costs the time until the next sweep.
"""

from __future__ import annotations

import contextvars
import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum

from lash_tasks.domain.activity import ActivityType, Boundary
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.policies import overlaid, stored_spec
from lash_tasks.domain.queue import BatchKind, queued
from lash_tasks.domain.sessions import Place
from lash_tasks.domain.turns import (
    MAX_ATTEMPTS,
    AssembledTurn,
    Finished,
    IssueKind,
    StopKind,
    TurnIssue,
    outcome_kind,
    stopped,
)
from lash_tasks.errors import CommitConflict, ErrorCode, LeaseStoreUnavailable, StoreUnavailable
from lash_tasks.machine.assembly import TurnResult, assemble
from lash_tasks.machine.effects import TurnHalted
from lash_tasks.machine.projection import NOTHING_SAID
from lash_tasks.machine.state import Turn
from lash_tasks.machine.turn import advance, begin
from lash_tasks.ports import Interrupted, InterruptReason
from lash_tasks.runtime.commander import Commander
from lash_tasks.runtime.compaction import Compaction
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.drive import Drive
from lash_tasks.runtime.frame_runs import Continuation, End, continuation
from lash_tasks.runtime.journal import TurnJournal, patiently
from lash_tasks.runtime.journal_writer import JournalWriter
from lash_tasks.runtime.live import LivePublisher
from lash_tasks.runtime.performer import EffectPerformer
from lash_tasks.runtime.phases import RuntimeTurnPhase
from lash_tasks.runtime.repertoire import Repertoire
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.runtime.warm_sessions import COLD, WarmSession, WarmSessions
from lash_tasks.runtime.worker import Doing, Engagement, Worker
from lash_tasks.stores.protocols import (
    CommitRefused,
    Committed,
    NotOpened,
    OpenedTurn,
    Released,
    StateWrite,
    TurnCommit,
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
class _Visit:
    """One hold of a session's lease: how its last turn went, and how the lease was let go."""

    verdict: RunVerdict
    engagement: Engagement
    released: Released | None

    def leaves_something(self) -> bool:
        """Whether there may be work that nobody else is rung for."""
        if self.released is None:
            return False
        left = self.engagement.more or self.verdict is RunVerdict.YIELDED
        return left or self.engagement.knocked or self.released is not Released.QUIET


class SessionRunner:
    """Answers doorbells. One object serves all threads of a worker."""

    def __init__(self, services: RuntimeServices, worker: Worker, repertoire: Repertoire) -> None:
        self._services = services
        self._worker = worker
        self._writer = JournalWriter(services.turns)
        self._repertoire = repertoire
        self._warm = WarmSessions()
        self._compaction = Compaction(services, self._writer)
        self._commander = Commander(services, self._compaction)

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
            try:
                acquired = services.leases.acquire(engagement.scope, engagement.token, services.lease_ttl_ms)
            except LeaseStoreUnavailable:
                log.warning("no turn starts without leases", extra={"session_id": session_id})
                return RunVerdict.NO_LEASES
            if acquired:
                services.reached(CrashPoint.AFTER_LEASE)
                visit = self._visit(engagement)
        if not acquired:
            if engagement.knocked:  # by one who left no mark on the lease, for our sake; its holder may be gone by now
                services.doorbell.ring_session(session_id)
            return RunVerdict.BUSY
        services.reached(CrashPoint.AFTER_RELEASE)
        if visit.leaves_something():
            self._look_again(session_id, held=visit.engagement.held)
        return visit.verdict

    def _visit(self, engagement: Engagement) -> _Visit:
        """Turn after turn while there is more to do, then let go of the lease."""
        until = self._services.clock.monotonic() + STAY_SECONDS
        try:
            verdict = self._open_and_run(engagement)
            while self._stays(engagement, until):
                following = self._worker.next_turn(engagement)
                if following is None:
                    break
                engagement = following
                if (then := self._open_and_run(engagement)) is not RunVerdict.NOTHING:
                    verdict = then
        except Exception:
            self._release(engagement)
            raise
        return _Visit(verdict, engagement, self._release(engagement))

    def _stays(self, engagement: Engagement, until: float) -> bool:
        """Whether the next turn is run under this lease: those of one run all are."""
        in_time = engagement.goes_on or self._services.clock.monotonic() < until
        return engagement.more and in_time and not (engagement.observed or self._worker.draining)

    # ------------------------------------------------------------ one turn

    def _open_and_run(self, engagement: Engagement) -> RunVerdict:
        session_id = engagement.session_id
        known = self._warm.take(session_id)
        opened = self._open(session_id, known)
        if isinstance(opened, OpenedTurn) and opened.intent.base_revision < known.revision:
            # Somebody has set the database back, so what is known here never happened.
            known = COLD
            opened = self._open(session_id, known)
        if isinstance(opened, NotOpened):
            self._warm.keep(session_id, known)
            engagement.held = opened is NotOpened.HELD
            return RunVerdict.BUSY if opened is NotOpened.HOLDER_LIVES else RunVerdict.NOTHING
        engagement.fence = opened.fence
        engagement.turn_id = opened.intent.turn_id  # last: from here on the keeper and the beat count on the fence
        self._services.reached(CrashPoint.AFTER_OPEN)
        extra = {"session_id": session_id, "turn_id": opened.intent.turn_id, "attempt": opened.attempt}
        log.info("turn resumed" if opened.resumed else "turn started", extra=extra)
        try:
            before = (COLD if opened.whole else known).grown(opened.history, opened.intent.base_revision)
            return self._run_opened(opened, before, engagement)
        except Interrupted as interrupted:
            if interrupted.reason is InterruptReason.LOST:
                log.warning("turn left to another worker", extra=extra)
                return RunVerdict.FENCED
            self._give_up(opened, crashed=False)
            log.info("turn given up for another worker", extra=extra)
            return RunVerdict.YIELDED
        except StoreUnavailable:
            self._give_up(opened, crashed=False)
            raise
        except Exception:
            log.exception("turn failed and is given up", extra=extra)
            self._give_up(opened, crashed=True)
            raise

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

    def _run_opened(self, opened: OpenedTurn, before: WarmSession, engagement: Engagement) -> RunVerdict:
        if opened.cancel:
            engagement.interrupt.set(InterruptReason.CANCELLED)
        services, intent = self._services, opened.intent
        live = LivePublisher(
            services.live, services.clock, intent.session_id, intent.turn_id, opened.fence, opened.attempt
        )
        live.emit(ActivityType.TURN_STARTED, resumed=opened.resumed, turn_index=intent.turn_index)
        if not opened.resumed:
            live.emit(ActivityType.QUEUED_WORK_STARTED, boundary=Boundary.IDLE.value, batch_ids=list(intent.batch_ids))
        try:
            if opened.batches[0].kind is BatchKind.COMMAND:
                return self._command(opened, before, engagement, live)
            return self._drive_and_commit(opened, before, engagement, live)
        except StoreUnavailable:
            raise
        except Exception:
            if opened.attempt <= MAX_ATTEMPTS:
                raise
            log.exception("a turn at the end of its attempts is buried bare", extra={"turn_id": intent.turn_id})
        result = assemble(_bare(opened), None, attempt=opened.attempt)
        return self._committed(self._commit(opened, engagement, result, None, None), result, engagement, live)

    def _command(
        self, opened: OpenedTurn, before: WarmSession, engagement: Engagement, live: LivePublisher
    ) -> RunVerdict:
        agent = self._snapshot(opened.intent.agent, opened.intent.agent_ref)
        commanded = self._commander.run(opened, agent, before, engagement, live)
        if commanded.warm is not None:
            self._warm.keep(opened.intent.session_id, commanded.warm)
        return self._committed(commanded.verdict, commanded.result, engagement, live)

    def _drive_and_commit(
        self, opened: OpenedTurn, before: WarmSession, engagement: Engagement, live: LivePublisher
    ) -> RunVerdict:
        turn, drive = self._drive(opened, before, engagement, live)
        phases = drive.performer.phases
        while True:
            with ExitStack() as persisting:
                persisting.enter_context(phases.during(RuntimeTurnPhase.PERSIST_TURN))
                result = assemble(turn, before.leaf, attempt=opened.attempt, frame_id=opened.frame_id)
                first_input = drive.performer.first_input
                end = End(result.messages, result.nodes[-1].node_id if result.nodes else before.leaf)
                onward = continuation(self._services.frames, opened, result.switch, end, first_input)
                with phases.during(RuntimeTurnPhase.FINAL_COMMIT):
                    states = drive.performer.hooks.states.writes(turn)
                    verdict = self._commit(opened, engagement, result, drive, before.place, onward, states)
                if isinstance(verdict, Committed):
                    self._warm.keep(opened.intent.session_id, before.after(result, onward, verdict.revision))
                    if self._compaction.follow(opened.intent, result):
                        verdict = replace(verdict, more=True)
                if verdict is not CommitRefused.JOINABLE:
                    told = self._committed(verdict, result, engagement, live)
                    if told is RunVerdict.COMMITTED:
                        persisting.callback(self._observe, drive, turn, result)
                        if turn.agent.with_hook(Hook.TURN_PERSISTED):
                            engagement.observed = True
                            engagement.afterwards.push(persisting.pop_all())
                    return told
            turn = drive.resume_at_checkpoint(turn)

    def _observe(self, drive: Drive, turn: Turn, result: TurnResult) -> None:
        with drive.performer.phases.during(RuntimeTurnPhase.POST_PERSIST_HOOKS):
            drive.performer.hooks.observe(turn, result.turn)

    def _drive(
        self, opened: OpenedTurn, before: WarmSession, engagement: Engagement, live: LivePublisher
    ) -> tuple[Turn, Drive]:
        services, intent = self._services, opened.intent
        inputs = [queued(batch) for batch in opened.batches]
        pinned = self._snapshot(intent.agent, intent.agent_ref)
        agent = overlaid(pinned, stored_spec(opened.spec), inputs[0].model)
        journal = TurnJournal(self._writer, opened, services.clock, engagement.interrupt)
        performer = EffectPerformer(services, opened, agent, inputs[0], journal, live, engagement)
        drive = Drive(services, self._worker, engagement, journal, performer, opened.attempt, agent.max_iterations)
        turn, effect = begin(intent, agent, before.transcript, inputs)
        if not opened.journal and (problem := performer.missing_image(inputs)) is not None:
            turn, effect = advance(turn, TurnHalted(StopKind.INVALID_INPUT, problem))
        return drive.run(turn, effect), drive

    def _snapshot(self, name: str, ref: str) -> AgentSnapshot:
        """The snapshot that the turn is pinned to: this worker's own, or an older one from SQL."""
        if self._repertoire.refs.get(name) == ref:
            return self._services.agents[name].snapshot()
        return self._services.fleet.snapshot(name, ref)

    # ------------------------------------------------------------ commit and announce

    def _commit(
        self,
        opened: OpenedTurn,
        engagement: Engagement,
        result: TurnResult,
        drive: Drive | None,
        leaf: Place | None,
        onward: Continuation | None = None,
        states: tuple[StateWrite, ...] = (),
    ) -> Committed | CommitRefused:
        """Commit the result; without a `drive` it is a bare one, for which nothing of the turn was read."""
        self._services.reached(CrashPoint.BEFORE_COMMIT)
        intent = opened.intent
        may_wait = drive is not None and drive.takes_input and isinstance(result.turn.outcome, Finished)
        exhausted = any(issue.code == ErrorCode.ATTEMPTS_EXHAUSTED for issue in result.turn.errors)
        commit = TurnCommit(
            session_id=intent.session_id,
            turn_id=intent.turn_id,
            fence=opened.fence,
            turn_index=intent.turn_index,
            base_revision=intent.base_revision,
            # A turn that stopped before its journal did, or that cannot be read, still ends what it has claimed.
            batch_ids=tuple(dict.fromkeys((*result.batch_ids, *opened.claimed))),
            refuse_if_joinable=may_wait,
            agent=intent.agent,
            context_digest=drive.performer.context_digest if drive is not None else "",
            nodes=result.nodes,
            usage=result.usage,
            stamp=result.stamp,
            outcome=outcome_kind(result.turn.outcome),
            result=encode(AssembledTurn, result.turn),
            dead_reason=ErrorCode.ATTEMPTS_EXHAUSTED.value if exhausted else None,
            leaf=leaf,
            frame=None if onward is None else onward.frame,
            follow_up=None if onward is None else onward.follow_up,
            states=states,
        )
        engagement.doing = Doing.COMMIT
        return patiently(lambda: self._services.turns.commit(commit), self._services.clock, engagement.interrupt)

    def _committed(
        self, verdict: Committed | CommitRefused, result: TurnResult, engagement: Engagement, live: LivePublisher
    ) -> RunVerdict:
        turn = result.turn
        extra = {"session_id": turn.session_id, "turn_id": turn.turn_id}
        if verdict is CommitRefused.FENCED or verdict is CommitRefused.TURN_CONFLICT:
            log.warning("commit fenced", extra=extra)
            return RunVerdict.FENCED
        if isinstance(verdict, CommitRefused) and (verdict.unfit or verdict is CommitRefused.JOINABLE):
            raise CommitConflict(turn.session_id, turn.turn_id, verdict.value)
        engagement.more = verdict.more if isinstance(verdict, Committed) else True
        engagement.goes_on = result.switch is not None
        self._services.reached(CrashPoint.AFTER_COMMIT)
        kind = outcome_kind(turn.outcome)
        log.info("turn committed", extra={**extra, "outcome": kind, "attempt": turn.attempt})
        live.emit(ActivityType.COMMITTED, outcome=kind, turn_index=turn.turn_index)
        live.flush()
        self._services.reached(CrashPoint.AFTER_ANNOUNCE)
        return RunVerdict.COMMITTED

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


def _bare(opened: OpenedTurn) -> Turn:
    """The last resort for a turn whose inputs or journal cannot even be read: an end without content."""
    issue = TurnIssue(IssueKind.RUNTIME, ErrorCode.ATTEMPTS_EXHAUSTED.value, "the turn could not be run or replayed")
    agent = AgentSnapshot(opened.intent.agent, "", "")
    outcome = stopped(StopKind.RUNTIME_ERROR)
    return Turn(intent=opened.intent, agent=agent, history=NOTHING_SAID, issues=(issue,), outcome=outcome)
