"""The inner pass: one opened turn from its first order to its end, over the journal.

Every order is answered from the journal if it is recorded there, and performed and recorded if not. How the pass
ends is a value; only a wish to stop (`Interrupted`) and a real fault leave it as exceptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from lash_tasks.domain.codec import decode
from lash_tasks.domain.journal import EffectState, Envelope, RecordedEffect
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.queue import decode_joined
from lash_tasks.domain.turns import MAX_ATTEMPTS, IssueKind, StopKind, ToolOutcome, TurnIssue
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.effects import (
    CallModel,
    CheckOutput,
    CheckpointKind,
    CheckpointPassed,
    Effect,
    Finish,
    HooksReturned,
    InstructionsRendered,
    ModelReturned,
    OutputChecked,
    PlannedCall,
    RenderInstructions,
    Reply,
    RunHooks,
    RunTools,
    TakeCheckpoint,
    ToolsReturned,
    TurnHalted,
)
from lash_tasks.machine.requests import ModelOutcome
from lash_tasks.machine.state import Step, Turn
from lash_tasks.machine.turn import advance, reopen
from lash_tasks.ports import Interrupted, InterruptReason
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.journal import TurnJournal
from lash_tasks.runtime.performer import EffectPerformer
from lash_tasks.runtime.phases import RuntimeTurnPhase
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.runtime.worker import Engagement, Worker


@dataclass(slots=True)
class Drive:
    """One opening of one turn: `run` once, then `resume_at_checkpoint` as often as input keeps it from committing."""

    services: RuntimeServices
    worker: Worker
    engagement: Engagement
    journal: TurnJournal
    performer: EffectPerformer
    attempt: int
    max_iterations: int
    _last_checkpoint: TakeCheckpoint | None = None
    _ask_at_checkpoint: bool = False

    def run(self, turn: Turn, effect: Effect) -> Turn:
        """Drive until the turn is finished.

        Raises Interrupted with DRAINING (give the turn up) or LOST (write nothing more).
        """
        during = self.performer.phases.during
        with during(RuntimeTurnPhase.CONTEXT_TRANSFORM):
            turn, effect = self._while(_calls(Hook.PREPARE_CONTEXT), turn, effect)
        if not isinstance(effect, Finish):
            with during(RuntimeTurnPhase.BEFORE_TURN_HOOKS):
                turn, effect = self._while(_calls(Hook.BEFORE_TURN), turn, effect)
        if isinstance(effect, Finish):
            return turn
        with during(RuntimeTurnPhase.EFFECT_LOOP):
            with during(RuntimeTurnPhase.PROMPT_BUILD):
                turn, effect = self._while(_renders, turn, effect)
            turn, effect = self._while(_works, turn, effect)
        return self._finalize(turn, effect)

    def resume_at_checkpoint(self, turn: Turn) -> Turn:
        """Take the input that kept a finished turn from committing, and drive on."""
        if self._last_checkpoint is None:
            raise AssertionError("a commit was refused as joinable for a turn that passed no checkpoint")
        self._ask_at_checkpoint = True
        with self.performer.phases.during(RuntimeTurnPhase.EFFECT_LOOP):
            turn, effect = self._while(_works, *reopen(turn, self._last_checkpoint))
        return self._finalize(turn, effect)

    def _finalize(self, turn: Turn, effect: Effect) -> Turn:
        with self.performer.phases.during(RuntimeTurnPhase.FINALIZE_TURN):
            turn, _ = self._while(_calls(Hook.AFTER_TURN), turn, effect)
        return turn

    def _while(self, wanted: Callable[[Effect], bool], turn: Turn, effect: Effect) -> Step:
        """Drive on as long as what is asked for is `wanted`."""
        while wanted(effect):
            if isinstance(effect, TakeCheckpoint) and effect.kind is CheckpointKind.BEFORE_COMPLETION:
                self._last_checkpoint = effect
            turn, effect = advance(turn, self._reply(effect))
        return turn, effect

    def _reply(self, effect: Effect) -> Reply:
        if isinstance(effect, Finish):
            raise AssertionError("a finished turn asks for nothing")
        if isinstance(effect, RunTools):
            return self._tools(effect)
        recorded = self.journal.find(effect.key)
        if recorded is not None:
            return _mismatch(effect.envelope, recorded) or _replayed(effect, recorded)
        if isinstance(effect, TakeCheckpoint):
            return self._checkpoint(effect)
        if (halted := self._may_not_perform(effect)) is not None:
            return halted
        self.services.reached(CrashPoint.BEFORE_EFFECT)
        try:
            return self._perform(effect)
        except Interrupted as interrupted:
            return _halt_or_raise(interrupted)

    def _perform(self, effect: RenderInstructions | CallModel | CheckOutput | RunHooks) -> Reply:
        match effect:
            case RenderInstructions():
                return self.performer.render(effect)
            case CallModel():
                return ModelReturned(self.performer.call_model(effect))
            case CheckOutput():
                return self.performer.check_output(effect)
            case RunHooks():
                return self.performer.run_hooks(effect)
            case _:
                assert_never(effect)

    def _checkpoint(self, effect: TakeCheckpoint) -> Reply:
        """An unrecorded checkpoint: empty if the journal goes on behind it, else the place to take input.

        Behind it may also be what plugins said of the end of the turn, when input has kept that from committing.
        """
        ask, self._ask_at_checkpoint = self._ask_at_checkpoint, False
        if not ask and self.journal.goes_beyond(effect.effect_id):
            return CheckpointPassed()
        if effect.kind is CheckpointKind.BEFORE_COMPLETION:
            if not self.takes_input:
                return CheckpointPassed()
        elif (halted := self._must_halt()) is not None:
            return halted
        return CheckpointPassed(self.performer.take_checkpoint(effect, ask=ask))

    @property
    def takes_input(self) -> bool:
        """Whether more input may join: not in a turn that is cancelled, leaving, or at the end of its means."""
        stopping = self.engagement.interrupt.reason is not None or self.worker.draining
        at = self._last_checkpoint
        spent = at is not None and at.iteration + 1 >= self.max_iterations  # it would be consumed and not answered
        return not stopping and not spent and self.attempt <= MAX_ATTEMPTS and self.performer.seconds_left() > 0

    def _tools(self, run: RunTools) -> Reply:
        """A round: recorded calls are replayed, the rest run; a cancel keeps what is recorded by then."""
        if not self.journal.goes_beyond(run.effect_id - 1):  # nothing of this round is recorded: it is no replay
            self.performer.show_settled(run)
        outcomes: dict[int, ToolOutcome] = {}
        missing: list[PlannedCall] = []
        halted: TurnHalted | None = None
        for call in run.calls:
            found = call.settled or self._recorded_call(run, call)
            if found is None:
                missing.append(call)
            elif isinstance(found, TurnHalted):
                halted = halted or found
            else:
                outcomes[call.index] = found
        if halted is None and missing:
            halted = self._must_halt() or self._run_calls(run, missing, outcomes)
        if halted is not None:
            return replace(halted, outcomes=tuple(outcomes.items()))
        return ToolsReturned(tuple(outcomes[call.index] for call in run.calls))

    def _recorded_call(self, run: RunTools, call: PlannedCall) -> ToolOutcome | TurnHalted | None:
        recorded = self.journal.find(call.key)
        if recorded is None:
            return None
        if (mismatch := _mismatch(call.envelope, recorded)) is not None:
            return mismatch
        if recorded.state is EffectState.BEGUN:
            return self.performer.interrupted_earlier(run, call)
        outcome: ToolOutcome = decode(ToolOutcome, recorded.outcome or b"")
        return outcome

    def _run_calls(
        self, run: RunTools, calls: list[PlannedCall], outcomes: dict[int, ToolOutcome]
    ) -> TurnHalted | None:
        """Run the calls and add their outcomes; how the turn is halted if a cancel came."""
        self.services.reached(CrashPoint.BEFORE_EFFECT)
        faults: list[BaseException] = []
        for call, result in zip(calls, self.performer.run_tools(run, calls), strict=True):
            if isinstance(result, ToolOutcome):
                outcomes[call.index] = result
            else:
                faults.append(result)
        if not faults:
            return None
        return _halt_or_raise(next((fault for fault in faults if not isinstance(fault, Interrupted)), faults[0]))

    def _may_not_perform(self, effect: Effect) -> TurnHalted | None:
        """Why this is not performed, if so. An answer that is there is judged, and shown to plugins, whatever else is
        wanted of the turn: it may be its end."""
        if isinstance(effect, CheckOutput) and self.performer.can_judge:
            return self._exhausted()
        return self._must_halt(timely=not _is_at_the_end(effect))

    def _must_halt(self, *, timely: bool = True) -> TurnHalted | None:
        """Why nothing new may be performed, if so; where it need not be `timely`, the turn's time does not count.

        Raises Interrupted when the turn goes on elsewhere.
        """
        reason = self.engagement.interrupt.reason
        if reason is InterruptReason.CANCELLED:
            return TurnHalted(StopKind.CANCELLED)
        if reason is not None:
            raise Interrupted(reason)
        if self.worker.draining:
            raise Interrupted(InterruptReason.DRAINING)
        if (exhausted := self._exhausted()) is not None:
            return exhausted
        if timely and self.performer.seconds_left() <= 0:
            return _halted(ErrorCode.TURN_TIME_EXCEEDED, "the turn took longer than the agent's max_turn_seconds")
        return None

    def _exhausted(self) -> TurnHalted | None:
        if self.attempt <= MAX_ATTEMPTS:
            return None
        return _halted(ErrorCode.ATTEMPTS_EXHAUSTED, f"{MAX_ATTEMPTS} attempts ended without progress")


def _calls(hook: Hook) -> Callable[[Effect], bool]:
    return lambda effect: isinstance(effect, RunHooks) and effect.hook is hook


def _is_at_the_end(effect: Effect) -> bool:
    """Whether plugins are called about a turn that has its answer."""
    return isinstance(effect, RunHooks) and (
        effect.hook is Hook.AFTER_TURN or effect.checkpoint is CheckpointKind.BEFORE_COMPLETION
    )


def _renders(effect: Effect) -> bool:
    return isinstance(effect, RenderInstructions)


def _works(effect: Effect) -> bool:
    return not (isinstance(effect, Finish) or _calls(Hook.AFTER_TURN)(effect))


def _replayed(
    effect: RenderInstructions | CallModel | CheckOutput | TakeCheckpoint | RunHooks, recorded: RecordedEffect
) -> Reply:
    outcome = recorded.outcome or b""
    match effect:
        case RenderInstructions():
            rendered: InstructionsRendered = decode(InstructionsRendered, outcome)
            return rendered
        case CallModel():
            return ModelReturned(decode(ModelOutcome, outcome))
        case CheckOutput():
            checked: OutputChecked = decode(OutputChecked, outcome)
            return checked
        case TakeCheckpoint():
            return CheckpointPassed(decode_joined(outcome))
        case RunHooks():
            returned: HooksReturned = decode(HooksReturned, outcome)
            return returned
        case _:
            assert_never(effect)


def _mismatch(envelope: Envelope, recorded: RecordedEffect) -> TurnHalted | None:
    lines = envelope.mismatch(recorded.envelope)
    if not lines:
        return None
    return _halted(
        ErrorCode.EFFECT_REPLAY_MISMATCH, "the turn asks for something else than is recorded: " + "; ".join(lines)
    )


def _halted(code: ErrorCode, message: str) -> TurnHalted:
    return TurnHalted(StopKind.RUNTIME_ERROR, TurnIssue(IssueKind.RUNTIME, code.value, message))


def _halt_or_raise(fault: BaseException) -> TurnHalted:
    """A cancel ends the turn; every other fault leaves the drive."""
    if isinstance(fault, Interrupted) and fault.reason is InterruptReason.CANCELLED:
        return TurnHalted(StopKind.CANCELLED)
    raise fault
