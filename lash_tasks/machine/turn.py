"""The turn machine: `begin` starts a turn, `advance` takes one fact and gives the next order.

Two rules. The machine is a function: the same facts give the same orders, byte for byte, which is what makes a
resume a replay. And every order but Finish waits for exactly one fact; a fact of the wrong kind changes nothing.

    RunHooks           --HooksReturned---------> whatever comes after them | Finish
    RenderInstructions --InstructionsRendered--> CallModel
    CallModel          --ModelReturned---------> RunTools | TakeCheckpoint(before_completion) | Finish
                                                 | CallModel (a fallback) | CheckOutput (the answer has a type)
    CheckOutput        --OutputChecked---------> TakeCheckpoint(before_completion, or after_work to ask again) | Finish
    RunTools           --ToolsReturned---------> TakeCheckpoint(after_work) | Finish
    TakeCheckpoint     --CheckpointPassed------> CallModel | Finish
    any                --TurnHalted------------> Finish

RunHooks is ordered only where the agent has plugins with such hooks: first of all, before each TakeCheckpoint, and
before Finish (machine/hooks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import JsonValue, parse_object
from lash_tasks.domain.frames import MAX_FRAME_SWITCHES, FrameSwitch, frame_number
from lash_tasks.domain.ids import (
    ReplayKey,
    message_id,
    tool_attempt_key,
    tool_idempotency_key,
    unique_call_ids,
)
from lash_tasks.domain.journal import EffectKind, Envelope
from lash_tasks.domain.messages import (
    Origin,
    Role,
    TextPart,
    ToolCallPart,
)
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.queue import Queued, opening_messages
from lash_tasks.domain.turns import (
    AgentFrameSwitch,
    FailureClass,
    IssueKind,
    StopKind,
    ToolOutcome,
    TurnIntent,
    TurnIssue,
    finished,
    stopped,
    tool_failure,
)
from lash_tasks.domain.usage import UsageEntry
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.effects import (
    CallModel,
    CheckOutput,
    CheckpointKind,
    CheckpointPassed,
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
from lash_tasks.machine.hooks import after_hooks, checkpoint, finish, run_hooks, stop
from lash_tasks.machine.orders import call_model, check_output, end, issue_of, next_key, order, take_checkpoint
from lash_tasks.machine.projection import Transcript
from lash_tasks.machine.requests import ModelError, ModelResponse, TerminalReason
from lash_tasks.machine.state import (
    Step,
    Turn,
    added,
    added_results,
    ends_with_tool_results,
    joined_text,
    worth_keeping,
)

MACHINE_VERSION = 1
"""Raised when the machine would give other orders for the same facts; a turn is pinned to the one it began with."""

MAX_CORRECTIONS = 2
"""How often a model is told that its answer does not fit before the turn ends."""


def begin(intent: TurnIntent, agent: AgentSnapshot, history: Transcript, inputs: Sequence[Queued]) -> Step:
    """The turn with its inputs in the transcript, and its first order."""
    ids = [message_id(intent.turn_index, ordinal) for ordinal in range(len(inputs))]
    turn = Turn(intent=intent, agent=agent, history=history, added=opening_messages(inputs, ids))
    return run_hooks(turn, Hook.PREPARE_CONTEXT) or _before_turn(turn)


def _before_turn(turn: Turn) -> Step:
    return run_hooks(turn, Hook.BEFORE_TURN) or _start(turn)


def _start(turn: Turn) -> Step:
    intent, agent = turn.intent, turn.agent
    if agent.instructions is not None:
        return call_model(replace(turn, instructions=agent.instructions))
    effect_id, key = next_key(turn, EffectKind.SYNC_EXECUTION_ENVIRONMENT)
    request = {"agent": agent.name, "agent_ref": intent.agent_ref}
    envelope = Envelope(EffectKind.SYNC_EXECUTION_ENVIRONMENT, request)
    return order(turn, RenderInstructions(effect_id, key, envelope))


def advance(turn: Turn, reply: Reply) -> Step:
    """Apply one fact. A fact that does not answer the awaited order leaves the turn as it is."""
    match turn.waiting, reply:
        case Finish(), _:
            return turn, turn.waiting
        case _, TurnHalted():
            return _halt(turn, reply)
        case RenderInstructions(), InstructionsRendered():
            return _after_rendering(turn, reply)
        case CallModel() as call, ModelReturned():
            return _after_model(turn, call, reply)
        case CheckOutput() as check, OutputChecked():
            return _after_check(turn, check, reply)
        case RunTools() as run, ToolsReturned() if len(reply.outcomes) == len(run.calls):
            return _after_tools(turn, run, reply.outcomes)
        case TakeCheckpoint() as taken, CheckpointPassed():
            return _after_checkpoint(turn, taken, reply)
        case RunHooks() as run, HooksReturned():
            return _after_hooks(turn, run, reply)
        case _:
            return turn, turn.waiting


def reopen(turn: Turn, at: TakeCheckpoint) -> Step:
    """A finished turn back at its last checkpoint, because input arrived before it could commit."""
    turn = turn.before_finalizing or turn
    return replace(turn, outcome=None, waiting=at, before_finalizing=None), at


# ---------------------------------------------------------------- transitions


def _after_rendering(turn: Turn, reply: InstructionsRendered) -> Step:
    if reply.text is None:
        problem = reply.problem or "the agent's instructions could not be rendered"
        return stop(turn, StopKind.RUNTIME_ERROR, issue_of(IssueKind.RUNTIME, ErrorCode.INSTRUCTIONS_FAILED, problem))
    # The initial sync used its own effect id; _call_model must not count it again.
    return call_model(replace(turn, instructions=reply.text), sync=False)


def _after_model(turn: Turn, call: CallModel, reply: ModelReturned) -> Step:
    response = reply.outcome.response
    if response is None:
        error = reply.outcome.error or ModelError("the provider gave no answer", ErrorCode.LLM_PROVIDER)
        if error.terminal_reason is TerminalReason.CANCELLED:
            return stop(turn, StopKind.CANCELLED)
        return _after_model_error(turn, call, error)
    if response.usage:
        turn = replace(turn, usage=(*turn.usage, UsageEntry(call.key, "turn", call.model, response.usage)))
    match response.terminal_reason:
        case TerminalReason.OUTPUT_LIMIT:
            return _cut_short(turn, response, StopKind.INCOMPLETE)
        case TerminalReason.CONTEXT_OVERFLOW | TerminalReason.CONTENT_FILTER | TerminalReason.PROVIDER_ERROR:
            return _cut_short(turn, response, StopKind.PROVIDER_ERROR)
        case TerminalReason.CANCELLED:
            return stop(turn, StopKind.CANCELLED)
        case TerminalReason.STOP | TerminalReason.TOOL_USE | TerminalReason.UNKNOWN:
            pass
    if any(isinstance(part, ToolCallPart) for part in response.parts):
        return _run_tools(turn, response)
    return _answer(turn, response)


def _after_model_error(turn: Turn, call: CallModel, error: ModelError) -> Step:
    """The next model is asked if the call might have succeeded later; the failure stays among the turn's issues."""
    who = f" ({call.model})" if turn.agent.fallbacks else ""
    issue = TurnIssue(IssueKind.LLM_PROVIDER, error.code, f"LLM error{who}: {error.message}", error.raw)
    turn = replace(turn, overflowed=error.terminal_reason is TerminalReason.CONTEXT_OVERFLOW)
    failed = turn.models_failed + 1
    if not error.retryable or failed == len(turn.agent.models):
        return stop(turn, StopKind.PROVIDER_ERROR, issue)
    turn = replace(turn, models_failed=failed, issues=(*turn.issues, issue))
    return call_model(turn, sync=False, instead_of=call.model)


def _answer(turn: Turn, response: ModelResponse) -> Step:
    parts = worth_keeping(response.parts)
    if parts:
        turn = added(turn, Role.ASSISTANT, parts)
    elif not ends_with_tool_results(turn):
        message = "LLM error: the model answered with nothing"
        issue = issue_of(IssueKind.LLM_PROVIDER, ErrorCode.EMPTY_RESPONSE, message)
        return stop(turn, StopKind.PROVIDER_ERROR, issue)
    turn = replace(turn, held=finished(joined_text(response)))
    if turn.agent.output_schema is not None:
        return check_output(turn, joined_text(response))
    return checkpoint(turn, CheckpointKind.BEFORE_COMPLETION)


def _after_check(turn: Turn, check: CheckOutput, reply: OutputChecked) -> Step:
    """An answer that does not fit goes back to the model, as a round of tools would."""
    if reply.problem is None:
        return checkpoint(replace(turn, output=reply.value, corrections=0), CheckpointKind.BEFORE_COMPLETION)
    turn = replace(turn, held=None)
    if turn.corrections == MAX_CORRECTIONS:
        problem = f"the answer does not fit the output type after {MAX_CORRECTIONS} corrections: {reply.problem}"
        return stop(turn, StopKind.RUNTIME_ERROR, issue_of(IssueKind.RUNTIME, ErrorCode.OUTPUT_INVALID, problem))
    if turn.iteration + 1 >= turn.agent.max_iterations:
        problem = f"the answer does not fit the output type, and no model call is left to mend it: {reply.problem}"
        return stop(turn, StopKind.MAX_TURNS, issue_of(IssueKind.RUNTIME, ErrorCode.OUTPUT_INVALID, problem))
    note = TextPart(
        f"This answer does not fit the JSON schema: {reply.problem}\nAnswer again, with the JSON value alone."
    )
    turn = added(turn, Role.SYSTEM, (note,), Origin("runtime"))
    turn = replace(turn, corrections=turn.corrections + 1, iteration=turn.iteration + 1)
    return checkpoint(turn, CheckpointKind.AFTER_WORK)


def _cut_short(turn: Turn, response: ModelResponse, kind: StopKind) -> Step:
    """The provider ended the answer early: its prose stays in the history, half-written tool calls do not."""
    prose = tuple(part for part in response.parts if isinstance(part, TextPart) and part.text.strip())
    if prose and kind is StopKind.INCOMPLETE:
        turn = added(turn, Role.ASSISTANT, prose)
    turn = replace(turn, overflowed=response.terminal_reason is TerminalReason.CONTEXT_OVERFLOW)
    reason = response.terminal_reason.value
    detail = f": {response.diagnostic}" if response.diagnostic else ""
    return stop(turn, kind, TurnIssue(IssueKind.LLM_PROVIDER, reason, f"LLM error: {reason}{detail}"))


def _run_tools(turn: Turn, response: ModelResponse) -> Step:
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    taken = frozenset(record.call_id for record in turn.calls)
    ids = iter(unique_call_ids([call.call_id for call in calls], taken))
    parts = tuple(
        replace(part, call_id=next(ids)) if isinstance(part, ToolCallPart) else part
        for part in worth_keeping(response.parts)
    )
    turn = added(turn, Role.ASSISTANT, parts)
    effect_id, key = next_key(turn, EffectKind.TOOL_BATCH)
    planned = tuple(
        _plan(turn, key, index, call)
        for index, call in enumerate(part for part in parts if isinstance(part, ToolCallPart))
    )
    return order(turn, RunTools(effect_id, key, turn.iteration, planned))


def _plan(turn: Turn, round_key: ReplayKey, index: int, call: ToolCallPart) -> PlannedCall:
    settled: ToolOutcome | None = None
    arguments: JsonValue = call.arguments
    try:
        arguments = parse_object(call.arguments)
    except ValueError as error:
        message = f"the arguments of {call.tool!r}: {error}; send one JSON object"
        settled = tool_failure(FailureClass.INVALID_REQUEST, ErrorCode.INVALID_TOOL_ARGS, message)
    if turn.agent.tool(call.tool) is None:
        names = ", ".join(spec.name for spec in turn.agent.tools) or "none"
        message = f"there is no tool {call.tool!r}; available tools: {names}"
        settled = tool_failure(FailureClass.UNAVAILABLE, ErrorCode.TOOL_UNAVAILABLE, message)
    request = {"tool": call.tool, "call_id": call.call_id, "arguments": arguments, "attempt": 1}
    return PlannedCall(
        index=index,
        call_id=call.call_id,
        tool=call.tool,
        arguments=arguments,
        key=tool_attempt_key(round_key, index, call.call_id),
        idempotency_key=tool_idempotency_key(round_key, index, call.call_id),
        envelope=Envelope(EffectKind.TOOL_ATTEMPT, request),
        settled=settled,
    )


def _after_tools(turn: Turn, run: RunTools, outcomes: Sequence[ToolOutcome]) -> Step:
    turn = added_results(turn, run, outcomes)
    switch = next((outcome.control for outcome in outcomes if outcome.control is not None), None)
    if switch is not None:
        return _switch_frame(turn, switch)
    limit = turn.agent.max_iterations
    if turn.iteration + 1 >= limit:
        note = TextPart(f"Turn limit reached ({limit}): the turn ended before the model could answer.")
        turn = added(turn, Role.SYSTEM, (note,), Origin("runtime"))
        return stop(turn, StopKind.MAX_TURNS, issue_of(IssueKind.RUNTIME, ErrorCode.MAX_TURNS, note.text))
    return checkpoint(replace(turn, iteration=turn.iteration + 1), CheckpointKind.AFTER_WORK)


def _switch_frame(turn: Turn, switch: FrameSwitch) -> Step:
    """End the turn for another frame. Input that waits meets the run behind it: nothing joins here."""
    _, switched = frame_number(turn.intent.turn_id)
    if switched < MAX_FRAME_SWITCHES:
        return finish(replace(turn, outcome=AgentFrameSwitch(switch.frame_id, switch.task)))
    problem = f"the frame was switched {MAX_FRAME_SWITCHES} times for one input and may not be switched again"
    return stop(turn, StopKind.MAX_TURNS, issue_of(IssueKind.RUNTIME, ErrorCode.MAX_FRAME_SWITCHES, problem))


def _after_checkpoint(turn: Turn, taken: TakeCheckpoint, reply: CheckpointPassed) -> Step:
    for item in reply.joined:
        message = item.message(message_id(turn.intent.turn_index, len(turn.added)))
        turn = replace(turn, joined=(*turn.joined, item.batch_id))
        if all(known.id != message.id for known in turn.added):
            turn = replace(turn, added=(*turn.added, message))
    if taken.kind is CheckpointKind.AFTER_WORK:
        return call_model(turn)
    if not (reply.joined or turn.delivered):
        return finish(replace(turn, outcome=turn.held))
    turn = replace(turn, held=None, delivered=False, iteration=turn.iteration + 1)
    if turn.iteration >= turn.agent.max_iterations:
        problem = f"Turn limit reached ({turn.agent.max_iterations}): input that joined the turn was not answered."
        return stop(turn, StopKind.MAX_TURNS, issue_of(IssueKind.RUNTIME, ErrorCode.MAX_TURNS, problem))
    return call_model(turn)


def _after_hooks(turn: Turn, run: RunHooks, reply: HooksReturned) -> Step:
    then = after_hooks(turn, run, reply)
    if not isinstance(then, Turn):
        return then
    match run.hook:
        case Hook.PREPARE_CONTEXT:
            return _before_turn(then)
        case Hook.BEFORE_TURN:
            return _start(then)
        case _ if run.checkpoint is not None:
            return take_checkpoint(then, run.checkpoint)
        case _:
            return end(then)


def _halt(turn: Turn, reply: TurnHalted) -> Step:
    """End the turn from outside, with no tool call left unanswered in the history (effects §17)."""
    if isinstance(turn.waiting, RunTools):
        done = dict(reply.outcomes)
        turn = added_results(turn, turn.waiting, [done.get(call.index, call.settled) for call in turn.waiting.calls])
    issues = turn.issues if reply.issue is None else (*turn.issues, reply.issue)
    if isinstance(turn.waiting, RunHooks) and reply.kind is StopKind.CANCELLED:
        has_its_end = turn.outcome or (
            turn.held if turn.waiting.checkpoint is CheckpointKind.BEFORE_COMPLETION else None
        )
        if has_its_end is not None:
            return end(replace(turn, outcome=has_its_end))  # plugins do not see it, and that is all
    if reply.kind is StopKind.INVALID_INPUT:
        turn = replace(turn, added=())
    return end(replace(turn, issues=issues, outcome=stopped(reply.kind)))
