"""One opened turn up to what everybody may see: drive it or apply its command, assemble, commit, announce, observe.

An input that arrives before the commit sends the turn back to its last checkpoint; everything else ends it here.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

from lash_tasks.domain.activity import ActivityType, Boundary
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import SCHEMA_VERSION
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.policies import overlaid, stored_spec
from lash_tasks.domain.queue import BatchKind, queued
from lash_tasks.domain.sessions import Unreadable
from lash_tasks.domain.turns import (
    MAX_ATTEMPTS,
    Finished,
    IssueKind,
    StopKind,
    TurnIssue,
    outcome_kind,
    stopped,
)
from lash_tasks.errors import CommitConflict, ErrorCode, StoreUnavailable, UnsupportedRecordSchemaVersion
from lash_tasks.machine.assembly import TurnResult, assemble
from lash_tasks.machine.effects import TurnHalted
from lash_tasks.machine.projection import NOTHING_SAID
from lash_tasks.machine.state import Turn
from lash_tasks.machine.turn import advance, begin
from lash_tasks.ports import InterruptReason
from lash_tasks.runtime.commander import Commander
from lash_tasks.runtime.commits import turn_commit
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
from lash_tasks.runtime.warm_sessions import WarmSession, WarmSessions
from lash_tasks.runtime.worker import Doing, Engagement, Worker
from lash_tasks.stores.protocols import CommitRefused, Committed, OpenedTurn, TurnCommit

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Landed:
    """A turn is committed, and what that leaves to do in its session."""

    more: bool
    """Further input is ready."""
    goes_on: bool
    """The turn has switched frames: the next one belongs to the same run."""
    observed: bool = False
    """Plugins wait to see the turn: the session is let go first."""


@dataclass(frozen=True, slots=True)
class _At:
    """What every step of one opening of one turn works with."""

    opened: OpenedTurn
    before: WarmSession
    """What the session showed before the turn."""
    engagement: Engagement
    live: LivePublisher


class TurnPipeline:
    """Runs opened turns. One object serves all threads of a worker."""

    def __init__(
        self, services: RuntimeServices, worker: Worker, repertoire: Repertoire, warm_sessions: WarmSessions
    ) -> None:
        self._services = services
        self._worker = worker
        self._repertoire = repertoire
        self._warm = warm_sessions
        self._writer = JournalWriter(services.turns)
        self._compaction = Compaction(services, self._writer)
        self._commander = Commander(services, self._compaction)

    def run(self, opened: OpenedTurn, before: WarmSession, engagement: Engagement) -> Landed | None:
        """Run the turn to its commit; None if another worker has it by then. Raises what goes wrong, and Interrupted.

        What cannot be run or read at the end of its attempts is buried without content. What a later release has
        written is raised as UnsupportedRecordSchemaVersion however often, unless somebody wants the turn to end.
        """
        if opened.cancel:
            engagement.interrupt.set(InterruptReason.CANCELLED)
        at = _At(opened, before, engagement, self._live(opened))
        try:
            if opened.batches[0].kind is BatchKind.COMMAND:
                return self._apply_command(at)
            _refuse_later_nodes(opened)
            return self._drive_and_commit(at)
        except StoreUnavailable:
            raise
        except Exception as error:
            later = isinstance(error, UnsupportedRecordSchemaVersion) and error.newer
            cancelled = later and engagement.interrupt.reason is InterruptReason.CANCELLED
            if not cancelled and (later or opened.attempt <= MAX_ATTEMPTS):
                raise
            log.exception("a turn that cannot be run is buried bare", extra={"turn_id": opened.intent.turn_id})
        result = assemble(_bare(opened, cancelled=cancelled), None, attempt=opened.attempt)
        return self._announce(at, self._commit(at, turn_commit(opened, result)), result)

    def _live(self, opened: OpenedTurn) -> LivePublisher:
        services, intent = self._services, opened.intent
        live = LivePublisher(
            services.live, services.clock, intent.session_id, intent.turn_id, opened.fence, opened.attempt
        )
        live.emit(ActivityType.TURN_STARTED, resumed=opened.resumed, turn_index=intent.turn_index)
        if not opened.resumed:
            live.emit(ActivityType.QUEUED_WORK_STARTED, boundary=Boundary.IDLE.value, batch_ids=list(intent.batch_ids))
        return live

    # ------------------------------------------------------------ commands

    def _apply_command(self, at: _At) -> Landed | None:
        intent = at.opened.intent
        agent = self._snapshot(intent.agent, intent.agent_ref)
        commanded = self._commander.run(at.opened, agent, at.before, at.engagement, at.live)
        if commanded.warm is not None:
            self._warm.keep(intent.session_id, commanded.warm)
        return self._announce(at, commanded.verdict, commanded.result)

    # ------------------------------------------------------------ input

    def _drive_and_commit(self, at: _At) -> Landed | None:
        turn, drive = self._drive(at)
        while (ended := self._persist(at, turn, drive)) is CommitRefused.JOINABLE:
            turn = drive.resume_at_checkpoint(turn)
        return ended

    def _drive(self, at: _At) -> tuple[Turn, Drive]:
        services, opened, intent = self._services, at.opened, at.opened.intent
        inputs = [queued(batch) for batch in opened.batches]
        pinned = self._snapshot(intent.agent, intent.agent_ref)
        agent = overlaid(pinned, stored_spec(opened.spec), inputs[0].model)
        journal = TurnJournal(self._writer, opened, services.clock, at.engagement.interrupt)
        performer = EffectPerformer(services, opened, agent, inputs[0], journal, at.live, at.engagement)
        drive = Drive(services, self._worker, at.engagement, journal, performer, opened.attempt, agent.max_iterations)
        turn, effect = begin(intent, agent, at.before.transcript, inputs)
        if not opened.journal and (problem := performer.missing_image(inputs)) is not None:
            turn, effect = advance(turn, TurnHalted(StopKind.INVALID_INPUT, problem))
        return drive.run(turn, effect), drive

    def _persist(self, at: _At, turn: Turn, drive: Drive) -> Landed | Literal[CommitRefused.JOINABLE] | None:
        """Commit the finished turn, unless an input has arrived that it takes in first."""
        phases = drive.performer.phases
        with ExitStack() as persisting:
            persisting.enter_context(phases.during(RuntimeTurnPhase.PERSIST_TURN))
            result = assemble(turn, at.before.leaf, attempt=at.opened.attempt, frame_id=at.opened.frame_id)
            onward = self._continuation(at, result, drive)
            with phases.during(RuntimeTurnPhase.FINAL_COMMIT):
                states = drive.performer.hooks.states.writes(turn)
                commit = replace(
                    turn_commit(at.opened, result, onward),
                    refuse_if_joinable=drive.takes_input and isinstance(result.turn.outcome, Finished),
                    context_digest=drive.performer.context_digest,
                    leaf=at.before.place,
                    states=states,
                )
                verdict = self._commit(at, commit)
            if verdict is CommitRefused.JOINABLE:
                return verdict
            if isinstance(verdict, Committed):
                self._warm.keep(at.opened.intent.session_id, at.before.after(result, onward, verdict.revision))
                if self._compaction.follow(at.opened.intent, result):
                    verdict = replace(verdict, more=True)
            landed = self._announce(at, verdict, result)
            if landed is not None:
                persisting.callback(self._observe, drive, turn, result)
                if turn.agent.with_hook(Hook.TURN_PERSISTED):
                    at.engagement.afterwards.push(persisting.pop_all())
                    return replace(landed, observed=True)
            return landed

    def _continuation(self, at: _At, result: TurnResult, drive: Drive) -> Continuation | None:
        end = End(result.messages, result.nodes[-1].node_id if result.nodes else at.before.leaf)
        return continuation(self._services.frames, at.opened, result.switch, end, drive.performer.first_input)

    def _snapshot(self, name: str, ref: str) -> AgentSnapshot:
        """The snapshot that the turn is pinned to: this worker's own, or an older one from SQL."""
        if self._repertoire.refs.get(name) == ref:
            return self._services.agents[name].snapshot()
        return self._services.fleet.snapshot(name, ref)

    # ------------------------------------------------------------ commit and announce

    def _commit(self, at: _At, commit: TurnCommit) -> Committed | CommitRefused:
        self._services.reached(CrashPoint.BEFORE_COMMIT)
        at.engagement.doing = Doing.COMMIT
        return patiently(lambda: self._services.turns.commit(commit), self._services.clock, at.engagement.interrupt)

    def _announce(self, at: _At, verdict: Committed | CommitRefused, result: TurnResult) -> Landed | None:
        turn = result.turn
        extra = {"session_id": turn.session_id, "turn_id": turn.turn_id}
        if verdict is CommitRefused.FENCED or verdict is CommitRefused.TURN_CONFLICT:
            log.warning("commit fenced", extra=extra)
            return None
        if isinstance(verdict, CommitRefused) and (verdict.unfit or verdict is CommitRefused.JOINABLE):
            raise CommitConflict(turn.session_id, turn.turn_id, verdict.value)
        self._services.reached(CrashPoint.AFTER_COMMIT)
        kind = outcome_kind(turn.outcome)
        log.info("turn committed", extra={**extra, "outcome": kind, "attempt": turn.attempt})
        at.live.emit(ActivityType.COMMITTED, outcome=kind, turn_index=turn.turn_index)
        at.live.flush()
        self._services.reached(CrashPoint.AFTER_ANNOUNCE)
        more = verdict.more if isinstance(verdict, Committed) else True
        return Landed(more, goes_on=result.switch is not None)

    def _observe(self, drive: Drive, turn: Turn, result: TurnResult) -> None:
        with drive.performer.phases.during(RuntimeTurnPhase.POST_PERSIST_HOOKS):
            drive.performer.hooks.observe(turn, result.turn)


def _refuse_later_nodes(opened: OpenedTurn) -> None:
    """A model must not be shown a history with holes where workers are about that can read all of it."""
    for stored in opened.history:
        if isinstance(stored.node.content, Unreadable) and stored.node.content.later_version is not None:
            raise UnsupportedRecordSchemaVersion("node", stored.node.content.later_version, SCHEMA_VERSION)


def _bare(opened: OpenedTurn, *, cancelled: bool) -> Turn:
    """The last resort for a turn whose inputs or journal cannot even be read: an end without content."""
    issue = TurnIssue(IssueKind.RUNTIME, ErrorCode.ATTEMPTS_EXHAUSTED.value, "the turn could not be run or replayed")
    return Turn(
        intent=opened.intent,
        agent=AgentSnapshot(opened.intent.agent, "", ""),
        history=NOTHING_SAID,
        issues=() if cancelled else (issue,),
        outcome=stopped(StopKind.CANCELLED if cancelled else StopKind.RUNTIME_ERROR),
    )
