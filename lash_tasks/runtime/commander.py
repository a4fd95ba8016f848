"""Commands to a session: turns that ask no model and change the session itself.

A command is opened, attempted, fenced and committed as every turn is. What cannot be done for good, such as going on
from a node that is not there, is said in the turn's errors and ends it; what fails otherwise is attempted again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import assert_never

from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import JsonObject, decode
from lash_tasks.domain.commands import (
    AppendSessionNodes,
    BranchToNode,
    CompactSession,
    ConfigureSession,
    QueuedCommand,
    RefreshToolCatalog,
    ResetSession,
    SessionCommand,
)
from lash_tasks.domain.founding import seeded_messages
from lash_tasks.domain.policies import NOTHING_SAID_OVER, SessionSpec, policy_of, read_spec, stored_spec
from lash_tasks.domain.sessions import Node, graft
from lash_tasks.domain.turns import (
    MAX_ATTEMPTS,
    IssueKind,
    StopKind,
    TurnIssue,
    finished,
    stopped,
)
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.assembly import TurnResult, assemble
from lash_tasks.machine.projection import NOTHING_SAID
from lash_tasks.machine.state import Turn
from lash_tasks.ports import Interrupt, Interrupted, InterruptReason
from lash_tasks.runtime.commits import turn_commit
from lash_tasks.runtime.compaction import Compaction
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.frame_runs import End
from lash_tasks.runtime.journal import patiently
from lash_tasks.runtime.live import LivePublisher
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.runtime.warm_sessions import WarmSession
from lash_tasks.runtime.worker import Doing, Engagement
from lash_tasks.stores.protocols import (
    CommitRefused,
    Committed,
    FrameOpening,
    OpenedTurn,
    PathChange,
    SpecChange,
    StateWrite,
)

log = logging.getLogger(__name__)

STATUS = "status"
APPENDED = "appended"
STALE_BRANCH = "stale_branch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a command comes to. With a `stop` nothing changes."""

    output: JsonObject
    stop: StopKind | None = None
    issue: TurnIssue | None = None
    spec: SpecChange | None = None
    path: PathChange | None = None
    frame: FrameOpening | None = None
    states: tuple[StateWrite, ...] = ()
    nodes: tuple[Node, ...] = ()
    changed: tuple[JsonObject, JsonObject] | None = None
    """The policy before and after, if it is another one now."""


@dataclass(frozen=True, slots=True)
class CommandedTurn:
    """A command's turn after its commit was tried."""

    verdict: Committed | CommitRefused
    result: TurnResult
    warm: WarmSession | None
    """What the session shows now; None: to be read again."""


@dataclass(frozen=True, slots=True)
class Commander:
    """Applies commands under the fence of their turns. Safe from any thread."""

    services: RuntimeServices
    compaction: Compaction

    def run(
        self,
        opened: OpenedTurn,
        agent: AgentSnapshot,
        before: WarmSession,
        engagement: Engagement,
        live: LivePublisher,
    ) -> CommandedTurn:
        """Apply the command of a turn and commit it. Raises what goes wrong; then it is attempted again."""
        applied = self._ended_before(opened, engagement) or self._apply(opened, agent, before, engagement)
        result = _result(opened, agent, applied)
        self.services.reached(CrashPoint.BEFORE_COMMIT)
        commit = replace(
            turn_commit(opened, result),
            leaf=before.place,
            spec=applied.spec,
            path=applied.path,
            states=applied.states,
            frame=applied.frame,
        )
        engagement.doing = Doing.COMMIT
        verdict = patiently(lambda: self.services.turns.commit(commit), self.services.clock, engagement.interrupt)
        if not isinstance(verdict, Committed):
            return CommandedTurn(verdict, result, None)
        if applied.changed is not None:
            previous, current = applied.changed
            live.emit(ActivityType.SESSION_CONFIG_CHANGED, previous=previous, current=current)
            self.services.hooks.config_changed(opened.intent.agent, previous, current, engagement.interrupt)
        warm = None if commit.moves_path else before.after(result, None, verdict.revision)
        return CommandedTurn(verdict, result, warm)

    def _ended_before(self, opened: OpenedTurn, engagement: Engagement) -> Applied | None:
        """How a command ends that is not to be applied any more."""
        reason = engagement.interrupt.reason
        if reason is InterruptReason.LOST:
            raise Interrupted(reason)
        if reason is InterruptReason.CANCELLED:
            return Applied(output={}, stop=StopKind.CANCELLED)
        if opened.attempt > MAX_ATTEMPTS:
            return _refused(ErrorCode.ATTEMPTS_EXHAUSTED, f"{MAX_ATTEMPTS} attempts to apply the command failed")
        return None

    def _apply(self, opened: OpenedTurn, agent: AgentSnapshot, before: WarmSession, engagement: Engagement) -> Applied:
        self.services.reached(CrashPoint.BEFORE_EFFECT)
        queued = decode(QueuedCommand, opened.batches[0].payload)
        command = queued.command()
        if isinstance(command, CompactSession):
            applied = self._compacted(opened, command, before, engagement)
        else:
            applied = self._applied(command, opened, agent, before, engagement.interrupt)
        self.services.reached(CrashPoint.AFTER_PERFORM)
        return replace(applied, output={"command": queued.kind.value, **applied.output})

    def _applied(
        self,
        command: SessionCommand,
        opened: OpenedTurn,
        agent: AgentSnapshot,
        before: WarmSession,
        interrupt: Interrupt,
    ) -> Applied:
        match command:
            case RefreshToolCatalog():
                return _refreshed(opened, agent, command)
            case ResetSession():
                return self._reset(opened, command)
            case ConfigureSession():
                return self._configured(opened, agent, command, interrupt)
            case BranchToNode():
                return self._branched(opened, command)
            case AppendSessionNodes():
                return self._appended(opened, command, before)
            case CompactSession():
                raise AssertionError("a compaction is recorded, so it is applied elsewhere")
            case _:
                assert_never(command)

    def _configured(
        self, opened: OpenedTurn, agent: AgentSnapshot, command: ConfigureSession, interrupt: Interrupt
    ) -> Applied:
        former = stored_spec(opened.spec)
        proposed = command.spec.over(former).given
        said = SessionSpec(
            self.services.hooks.mutate_config(opened.intent.agent, former.given, proposed, _accepted, interrupt)
        )
        previous, current = policy_of(agent, former).as_json(), policy_of(agent, said).as_json()
        return Applied(
            output={"changed": said != former, "previous": previous, "current": current},
            spec=SpecChange(said.stored()) if said != former else None,
            changed=(previous, current) if previous != current else None,
        )

    def _compacted(
        self, opened: OpenedTurn, command: CompactSession, before: WarmSession, engagement: Engagement
    ) -> Applied:
        frame = self.compaction.frame(opened, End(0, before.leaf), engagement)
        opened_frame = {} if frame is None else {"frame_id": frame.frame_id}
        return Applied(output={"opened": frame is not None, **opened_frame, **_reason(command.reason)}, frame=frame)

    def _reset(self, opened: OpenedTurn, command: ResetSession) -> Applied:
        """Nothing is shown any more, and plugins remember nothing either."""
        states = self.services.sessions.states(opened.intent.session_id)
        gone = tuple(StateWrite(state.name, state.generation + 1, None) for state in states)
        return Applied(output=_reason(command.reason), path=PathChange(None), states=gone)

    def _branched(self, opened: OpenedTurn, command: BranchToNode) -> Applied:
        if command.node_id is None:
            return Applied(output={"leaf_node_id": None}, path=PathChange(None))
        found = self.services.graph.node(opened.intent.session_id, command.node_id)
        if found is None:
            return _refused(ErrorCode.NOT_FOUND, f"there is no node {command.node_id!r} in the session")
        return Applied(output={"leaf_node_id": command.node_id}, path=PathChange(found.place))

    def _appended(self, opened: OpenedTurn, command: AppendSessionNodes, before: WarmSession) -> Applied:
        graph, session_id = self.services.graph, opened.intent.session_id
        required = command.requires_ancestor_node_id
        if required is not None:
            path = {stored.node.node_id for stored in graph.path(session_id).nodes}
            if required not in path:
                return Applied(output={STATUS: STALE_BRANCH, "current_leaf_node_id": before.leaf})
        nodes = graft(
            seeded_messages(command.messages), before.leaf, seed=opened.intent.turn_id, frame_id=opened.frame_id
        )
        output: JsonObject = {
            STATUS: APPENDED,
            "node_ids": [node.node_id for node in nodes],
            "leaf_node_id": nodes[-1].node_id,
        }
        return Applied(output=output, nodes=nodes)


def _accepted(given: JsonObject) -> JsonObject:
    """What a plugin made of what the session says, read as a caller's would be."""
    return SessionSpec(read_spec(given).given).over(NOTHING_SAID_OVER).given


def _refreshed(opened: OpenedTurn, agent: AgentSnapshot, command: RefreshToolCatalog) -> Applied:
    """A turn sees the tools of the agent that it is opened with; this one tells which they are by now."""
    policy = policy_of(agent, stored_spec(opened.spec))
    tools = {"tools": list(policy.tools), "orphaned_tools": list(policy.orphaned_tools)}
    return Applied(output={**_reason(command.reason), "agent_ref": opened.intent.agent_ref, **tools})


def _reason(reason: str | None) -> JsonObject:
    return {} if reason is None else {"reason": reason}


def _refused(code: ErrorCode, message: str) -> Applied:
    return Applied(output={}, stop=StopKind.RUNTIME_ERROR, issue=TurnIssue(IssueKind.RUNTIME, code.value, message))


def _result(opened: OpenedTurn, agent: AgentSnapshot, applied: Applied) -> TurnResult:
    """The result of a turn that made no model call: it says nothing, and `output` is what it did."""
    turn = Turn(
        intent=opened.intent,
        agent=agent,
        history=NOTHING_SAID,
        issues=() if applied.issue is None else (applied.issue,),
        outcome=finished("") if applied.stop is None else stopped(applied.stop),
        output=applied.output,
    )
    result = assemble(turn, None, attempt=opened.attempt)
    return replace(result, nodes=applied.nodes)
