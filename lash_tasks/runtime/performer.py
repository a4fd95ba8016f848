"""Performing effects for real: the model is called, tools run, instructions are rendered, and each is recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from lash_tasks.domain.activity import ActivityType, Boundary
from lash_tasks.domain.agents import AgentSnapshot, OnCrash
from lash_tasks.domain.codec import JsonValue, digest, encode, from_json, scrub, to_json
from lash_tasks.domain.ids import BlobRef
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.journal import EffectState, RecordReply
from lash_tasks.domain.messages import ImagePart, text_of_parts
from lash_tasks.domain.models import DEFAULT_OPTIONS
from lash_tasks.domain.queue import JoinedInput, Queued, decode_joined, encode_joined, input_problem
from lash_tasks.domain.turns import (
    FailureClass,
    IssueKind,
    ToolOutcome,
    TurnContext,
    TurnIssue,
    tool_cancelled,
    tool_failure,
)
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.errors import ErrorCode, LashError, NotFound, StoreUnavailable
from lash_tasks.machine.effects import (
    CallModel,
    CheckOutput,
    HooksReturned,
    InstructionsRendered,
    OutputChecked,
    PlannedCall,
    RenderInstructions,
    RunHooks,
    RunTools,
    TakeCheckpoint,
)
from lash_tasks.machine.requests import ModelError, ModelOutcome, TerminalReason
from lash_tasks.ports import OPEN_GATE, Interrupted, InterruptReason, ModelCall, ProviderFailure, ToolInvocation
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.frame_runs import refused_if_superseded
from lash_tasks.runtime.hooks import HookPerformer, PluginStates, show
from lash_tasks.runtime.journal import TurnJournal, patiently
from lash_tasks.runtime.live import LivePublisher
from lash_tasks.runtime.phases import TurnPhases
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.runtime.worker import Doing, Engagement
from lash_tasks.stores.protocols import CheckpointRefused, CheckpointRequest, CheckpointTaken, OpenedTurn
from lash_tasks.tools.exits import EXITS

log = logging.getLogger(__name__)

STUCK_AFTER_SECONDS = 30.0
"""How long after its own time limit an effect counts as stuck."""


class EffectPerformer:
    """Performs the effects of one open turn and records each outcome before anybody uses it."""

    def __init__(
        self,
        services: RuntimeServices,
        opened: OpenedTurn,
        agent: AgentSnapshot,
        first_input: Queued,
        journal: TurnJournal,
        live: LivePublisher,
        engagement: Engagement,
    ) -> None:
        self._services = services
        self._opened = opened
        self._agent = agent
        self.first_input = first_input
        self._context = first_input.context
        self._turn = TurnContext(
            session_id=opened.intent.session_id,
            turn_id=opened.intent.turn_id,
            turn_index=opened.intent.turn_index,
            agent=opened.intent.agent,
            context=first_input.context,
            admitted_at_ms=opened.intent.admitted_at_ms,
        )
        self.context_digest = first_input.context_digest()
        self._journal = journal
        self._live = live
        self._engagement = engagement
        self.phases = TurnPhases(services.probe, opened.intent.session_id, opened.intent.turn_id)
        self.hooks = HookPerformer(
            services, self._turn, PluginStates(partial(services.sessions.states, opened.intent.session_id)), self.phases
        )
        self._deadline = services.clock.monotonic() + agent.max_turn_seconds
        self.may_join = opened.joinable
        """Whether the database last said that an input may join; a hint that saves empty checkpoints."""

    def seconds_left(self) -> float:
        """Of the turn's time in this opening."""
        return self._deadline - self._services.clock.monotonic()

    # ------------------------------------------------------------ instructions

    def render(self, effect: RenderInstructions) -> InstructionsRendered:
        """The agent's instructions function, once per turn; what it raises is recorded as the problem."""
        with self._doing(Doing.INSTRUCTIONS, self.seconds_left()):
            rendered = self._render(self._turn)
        self._services.reached(CrashPoint.AFTER_PERFORM)
        self._record(effect, encode(InstructionsRendered, rendered))
        return rendered

    def _render(self, context: TurnContext) -> InstructionsRendered:
        try:
            return InstructionsRendered(text=self._services.agents[context.agent].render(context))
        except (Exception, *EXITS) as error:
            log.warning("instructions could not be rendered", extra={"agent": context.agent}, exc_info=True)
            problem = f"the instructions of agent {context.agent!r} raised {type(error).__name__}"
            return InstructionsRendered(problem=problem)

    # ------------------------------------------------------------ the model

    def call_model(self, effect: CallModel) -> ModelOutcome:
        if effect.instead_of is not None:
            self._live.reset()
        self._live.emit(ActivityType.MODEL_REQUEST_STARTED, iteration=effect.iteration, model=effect.model)
        self._live.flush()
        provider_name, _, model = effect.model.partition(":")
        call = ModelCall(
            model=model,
            request=effect.request,
            load_blob=self._load_blob,
            timeout_seconds=self._model_seconds(),
            idempotency_key=f"lash-{digest(effect.key)[:40]}",
            turn=self._turn,
            gate=self._services.gatekeeper.gate(
                provider_name,
                effect.request,
                self._deadline,
                self._engagement,
                on_wait=partial(self._show_limit, provider_name),
            ),
        )
        with self._doing(Doing.MODEL_CALL, call.timeout_seconds if call.gate is OPEN_GATE else self.seconds_left()):
            outcome = self._ask(provider_name, call)
        self._live.flush()
        self._services.reached(CrashPoint.AFTER_PERFORM)
        self._record(effect, encode(ModelOutcome, outcome))
        if outcome.response is not None and outcome.response.usage:
            self._live.emit(
                ActivityType.USAGE, iteration=effect.iteration, usage=to_json(TokenUsage, outcome.response.usage)
            )
        return outcome

    def _ask(self, provider_name: str, call: ModelCall) -> ModelOutcome:
        try:
            provider = self._services.providers.get(provider_name)
            response = provider.complete(call, self._live, self._engagement.interrupt)
            return _as_recorded(ModelOutcome(response=response))
        except ProviderFailure as failure:
            # A call that was shut down from here looks like any other that failed, and must not be recorded as one.
            self._engagement.interrupt.check()
            return _as_recorded(ModelOutcome(error=_model_error(failure)))
        except (Exception, *EXITS) as error:
            if isinstance(error, LashError) and error.retryable:
                raise  # of a store, on the way to an attachment: the turn is tried again
            self._engagement.interrupt.check()
            log.exception("a provider raised", extra={"provider": provider_name})
            message = f"the provider {provider_name!r} raised {type(error).__name__}"
            return ModelOutcome(error=ModelError(message, "provider_raised"))

    def _show_limit(self, provider: str) -> None:
        self._live.emit(ActivityType.PROVIDER_LIMIT_REACHED, provider=provider)
        self._live.flush()

    def _model_seconds(self) -> float:
        options = self._agent.options or DEFAULT_OPTIONS
        left = max(1.0, self.seconds_left())
        return left if options.timeout_seconds is None else min(left, options.timeout_seconds)

    def missing_image(self, inputs: Sequence[Queued]) -> TurnIssue | None:
        """What is wrong with an input whose image nobody has: its turn is over before it begins."""
        parts = (part for item in inputs if isinstance(item, QueuedInput) for part in item.parts)
        for part in (part for part in parts if isinstance(part, ImagePart)):
            try:
                self._services.blobs.get(part.blob)
            except NotFound:
                problem = f"the image {part.label!r} of the input is not in the database; send the input again with it"
                return TurnIssue(IssueKind.INPUT_VALIDATION, ErrorCode.INVALID_TURN_INPUT.value, problem)
        return None

    def _load_blob(self, ref: BlobRef) -> bytes:
        try:
            return self._services.blobs.get(ref)
        except NotFound:
            raise ProviderFailure(
                f"the attachment {ref} of this session is no longer in the database",
                code=ErrorCode.ATTACHMENT_RESOLUTION_FAILED,
                kind="validation",
            ) from None

    # ------------------------------------------------------------ the answer

    @property
    def can_judge(self) -> bool:
        """Whether this worker has code for answers of the turn. One that opened it to cancel it need not."""
        agent = self._services.agents.get(self._opened.intent.agent)
        return agent is not None and agent.snapshot().output_schema is not None

    def check_output(self, effect: CheckOutput) -> OutputChecked:
        """The verdict of the application's output type. Recorded, because another version of it may judge otherwise."""
        agent = self._services.agents[self._opened.intent.agent]
        with self._doing(Doing.OUTPUT, max(0.0, self.seconds_left())):
            checked = agent.check_output(effect.text)
        self._services.reached(CrashPoint.AFTER_PERFORM)
        self._record(effect, encode(OutputChecked, checked))
        return checked

    # ------------------------------------------------------------ plugins

    def run_hooks(self, effect: RunHooks) -> HooksReturned:
        """One phase of hooks; what they raise is recorded as its failure."""
        seconds = max(float(len(effect.plugins)), self.seconds_left())
        with self._doing(Doing.HOOKS, seconds):
            outcome = self.hooks.run(effect, self.seconds_left, self._engagement.interrupt)
        self._services.reached(CrashPoint.AFTER_PERFORM)
        self._record(effect, encode(HooksReturned, outcome))
        show(self._live, effect, outcome)
        return outcome

    # ------------------------------------------------------------ tools

    def run_tools(self, round_: RunTools, calls: Sequence[PlannedCall]) -> list[ToolOutcome | BaseException]:
        """Run calls concurrently, each recorded as it ends; one outcome or exception per call, in order."""
        # Where no thread is free they run one after another, each within what is left of the turn or a second.
        with self._doing(Doing.TOOLS, self.seconds_left() + len(calls)):
            return self._services.rounds.run([partial(self._run_tool, round_, call) for call in calls])

    def interrupted_earlier(self, round_: RunTools, call: PlannedCall) -> ToolOutcome:
        """The outcome of a `never` call that began under an older fence and has none: unknown for good."""
        message = (
            f"the worker died while {call.tool!r} ran, so whether it took effect is unknown; "
            "do not repeat the call, tell the user or check first"
        )
        outcome = tool_failure(FailureClass.EXTERNAL, ErrorCode.TOOL_ATTEMPT_INTERRUPTED, message)
        self._show_started(call)
        self._record_tool(round_, call, outcome)
        return outcome

    def show_settled(self, round_: RunTools) -> None:
        """Show the calls that need no run, so that observers see every call begin and end (effects §19, W-36)."""
        for call in round_.calls:
            if call.settled is not None:
                self._show_started(call)
                self._show_completed(call, call.settled)

    def _run_tool(self, round_: RunTools, call: PlannedCall) -> ToolOutcome:
        interrupt = self._engagement.interrupt
        interrupt.check()
        spec = self._agent.tool(call.tool)
        if spec is not None and spec.on_crash is OnCrash.NEVER:
            row = self._journal.row(call.key, round_.effect_id, EffectState.BEGUN, call.envelope, None)
            self._note(self._journal.record(row))
            interrupt.check()
            self._services.reached(CrashPoint.AFTER_BEGUN)
        self._show_started(call)
        intent = self._opened.intent
        invocation = ToolInvocation(
            session_id=intent.session_id,
            turn_id=intent.turn_id,
            call_id=call.call_id,
            tool=call.tool,
            arguments=call.arguments,
            idempotency_key=call.idempotency_key,
            context=self._context,
            timeout_seconds=self._tool_seconds(call),
        )
        try:
            outcome = self._services.tools.run(intent.agent, invocation, interrupt)
        except Interrupted as interrupted:
            if interrupted.reason is InterruptReason.CANCELLED:
                self._show_completed(call, tool_cancelled())
            raise
        self._services.reached(CrashPoint.AFTER_PERFORM)
        if outcome.control is not None:
            outcome = patiently(
                partial(refused_if_superseded, self._services.frames, self._opened, outcome),
                self._services.clock,
                interrupt,
            )
        self._record_tool(round_, call, outcome)
        return outcome

    def _tool_seconds(self, call: PlannedCall) -> float:
        spec = self._agent.tool(call.tool)
        left = max(1.0, self.seconds_left())
        return left if spec is None or spec.timeout_ms is None else min(left, spec.timeout_ms / 1000)

    # ------------------------------------------------------------ checkpoints

    def take_checkpoint(self, effect: TakeCheckpoint, *, ask: bool) -> tuple[JoinedInput, ...]:
        """What joins the turn here. Without `ask` and without a hint that something may, no question is put."""
        if not (ask or self.may_join):
            return ()
        request = CheckpointRequest(
            session_id=self._opened.intent.session_id,
            turn_id=self._opened.intent.turn_id,
            fence=self._opened.fence,
            agent=self._opened.intent.agent,
            context_digest=self.context_digest,
            row=self._journal.row(effect.key, effect.effect_id, EffectState.DONE, effect.envelope, None),
        )
        taken = patiently(
            lambda: self._services.turns.checkpoint(request), self._services.clock, self._engagement.interrupt
        )
        self.may_join = False
        match taken:
            case CheckpointTaken(batches):
                self._services.reached(CrashPoint.AFTER_CHECKPOINT)
                for batch in batches:
                    if (problem := input_problem(batch)) is not None:
                        log.error("an input cannot be read", extra={"batch_id": batch.id, "problem": problem})
                joined = decode_joined(encode_joined(batches))
                self._show_joined(effect, joined)
                return joined
            case CheckpointRefused.EMPTY:
                return ()
            case CheckpointRefused.EXISTS:
                raise StoreUnavailable("a checkpoint landed unseen; the turn is opened again to read it")
            case CheckpointRefused.FENCED:
                raise Interrupted(InterruptReason.LOST)

    def _show_joined(self, effect: TakeCheckpoint, joined: Sequence[JoinedInput]) -> None:
        ids = [item.batch_id for item in joined]
        self._live.emit(ActivityType.QUEUED_WORK_STARTED, boundary=Boundary.CHECKPOINT.value, batch_ids=list(ids))
        inputs: list[JsonValue] = [
            {"id": item.source_key, "input_id": item.batch_id, "message": text_of_parts(item.input.parts)}
            for item in joined
            if item.input is not None
        ]
        if inputs:
            self._live.emit(ActivityType.QUEUED_INPUT_ACCEPTED, checkpoint=effect.kind.value, inputs=inputs)
        self._live.flush()

    # ------------------------------------------------------------ recording

    def _record(self, effect: RenderInstructions | CallModel | CheckOutput | RunHooks, outcome: bytes) -> None:
        row = self._journal.row(effect.key, effect.effect_id, EffectState.DONE, effect.envelope, outcome)
        self._note(self._journal.record(row))
        self._services.reached(CrashPoint.AFTER_RECORD)

    def _record_tool(self, round_: RunTools, call: PlannedCall, outcome: ToolOutcome) -> None:
        row = self._journal.row(
            call.key, round_.effect_id, EffectState.DONE, call.envelope, encode(ToolOutcome, outcome)
        )
        self._note(self._journal.record(row))
        self._services.reached(CrashPoint.AFTER_RECORD)
        self._show_completed(call, outcome)

    def _show_started(self, call: PlannedCall) -> None:
        self._live.emit(ActivityType.TOOL_CALL_STARTED, call_id=call.call_id, tool=call.tool, arguments=call.arguments)

    def _show_completed(self, call: PlannedCall, outcome: ToolOutcome) -> None:
        self._live.emit(
            ActivityType.TOOL_CALL_COMPLETED,
            call_id=call.call_id,
            tool=call.tool,
            status=outcome.status.value,
            duration_ms=outcome.duration_ms,
        )

    def _note(self, reply: RecordReply) -> None:
        """What the database saw beside the record: a cancel, and whether input may join."""
        self.may_join = reply.joinable
        if reply.cancel:
            self._engagement.interrupt.set(InterruptReason.CANCELLED)

    @contextmanager
    def _doing(self, doing: Doing, seconds: float) -> Iterator[None]:
        self._engagement.doing = doing
        self._engagement.deadline = self._services.clock.monotonic() + seconds + STUCK_AFTER_SECONDS
        try:
            yield
        finally:
            self._engagement.doing = Doing.NOTHING
            self._engagement.deadline = None


def _model_error(failure: ProviderFailure) -> ModelError:
    known = failure.terminal_reason in tuple(TerminalReason)
    reason = TerminalReason(failure.terminal_reason) if known else TerminalReason.PROVIDER_ERROR
    return ModelError(failure.message, failure.code, reason, failure.raw, failure.retryable)


def _as_recorded(outcome: ModelOutcome) -> ModelOutcome:
    """The outcome as a replay will read it, and without lone surrogates: no wire takes them back."""
    recorded: ModelOutcome = from_json(ModelOutcome, scrub(to_json(ModelOutcome, outcome)))
    return recorded
