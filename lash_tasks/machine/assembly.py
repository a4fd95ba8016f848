"""How a finished turn becomes its result: text, output state, outcome (effects §18.2, §18.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lash_tasks.domain.codec import short_digest, to_json
from lash_tasks.domain.frames import FrameSwitch
from lash_tasks.domain.hooks import TurnSummary
from lash_tasks.domain.ids import BatchId, NodeId
from lash_tasks.domain.messages import Message, Role, ToolStatus, text_of
from lash_tasks.domain.sessions import Node, chain
from lash_tasks.domain.turns import (
    MAX_ATTEMPTS,
    AgentFrameSwitch,
    AssembledTurn,
    AssistantOutput,
    ExecutionSummary,
    Finished,
    IssueKind,
    OutputState,
    StopKind,
    TurnIssue,
    TurnOutcome,
    TurnStatus,
    finished,
    stopped,
)
from lash_tasks.domain.usage import TokenUsage, UsageEntry
from lash_tasks.errors import ErrorCode
from lash_tasks.machine.state import Turn

_TRACEBACK = "Traceback (most recent call last)"
_ERROR_LINE = re.compile(
    r"(Runtime error|NameError|TypeError|ValueError|KeyError|AttributeError|SyntaxError|ImportError"
    r"|ModuleNotFoundError):"
)


@dataclass(frozen=True, slots=True)
class TerminationPolicy:
    """Whether a turn whose machine ended without saying how counts as failed."""

    treat_missing_done_as_failure: bool = True


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What a turn leaves behind, ready to commit."""

    turn: AssembledTurn
    nodes: tuple[Node, ...]
    usage: tuple[UsageEntry, ...]
    batch_ids: tuple[BatchId, ...]
    stamp: str
    messages: int
    """How many messages the turn added, those included that are not kept."""
    switch: FrameSwitch | None = None
    """What the turn ends with, if its run goes on in another frame."""
    overflowed: bool = False
    """The turn ended because its prompt was too long for the model."""


def assemble(
    turn: Turn,
    leaf: NodeId | None,
    *,
    attempt: int,
    frame_id: str | None = None,
    policy: TerminationPolicy = TerminationPolicy(),
) -> TurnResult:
    """The result of a turn. `leaf` is the node that its first message follows, `frame_id` the session's frame."""
    raw = _raw_text(turn)
    safe = safe_text(raw)
    issues = turn.issues
    if turn.outcome is None and policy.treat_missing_done_as_failure:
        missing = TurnIssue(IssueKind.RUNTIME, ErrorCode.MISSING_DONE.value, "the turn ended without an outcome")
        issues = (*issues, missing)
    outcome = select_outcome(turn.outcome, issues, safe, tool_failed=_any_tool_failed(turn))
    assembled = AssembledTurn(
        session_id=turn.intent.session_id,
        turn_id=turn.intent.turn_id,
        turn_index=turn.intent.turn_index,
        status=TurnStatus.COMMITTED,
        outcome=outcome,
        assistant_output=AssistantOutput(safe, raw, classify(raw, safe, issues)),
        execution=ExecutionSummary(had_tool_calls=bool(turn.calls)),
        token_usage=sum((entry.usage for entry in turn.usage), TokenUsage()),
        tool_calls=turn.calls,
        errors=issues,
        attempt=min(attempt, MAX_ATTEMPTS),  # the opening that buries a turn is no attempt at it
        output=turn.output if isinstance(outcome, Finished) else None,
    )
    return TurnResult(
        turn=assembled,
        nodes=chain(turn.added, leaf, frame_id),
        usage=turn.usage,
        batch_ids=(*turn.intent.batch_ids, *turn.joined),
        stamp=_stamp(turn.intent.turn_index, outcome, turn.added),
        messages=len(turn.added),
        switch=_switch(turn) if isinstance(outcome, AgentFrameSwitch) else None,
        overflowed=turn.overflowed,
    )


def summarize(turn: Turn) -> TurnSummary:
    """A turn that has its outcome, as plugins see it before it is committed."""
    safe = safe_text(_raw_text(turn))
    return TurnSummary(
        outcome=select_outcome(turn.outcome, turn.issues, safe, tool_failed=_any_tool_failed(turn)),
        text=safe,
        tool_calls=turn.calls,
        token_usage=sum((entry.usage for entry in turn.usage), TokenUsage()),
        errors=turn.issues,
    )


def select_outcome(
    outcome: TurnOutcome | None, issues: tuple[TurnIssue, ...], safe: str, *, tool_failed: bool
) -> TurnOutcome:
    """The outcome, by the first rule that fits: explicit, missing done, a blocking issue, the text itself."""
    if isinstance(outcome, Finished):
        return replace(outcome, finish=replace(outcome.finish, text=safe))
    if outcome is not None:
        return outcome
    if any(issue.code == ErrorCode.MISSING_DONE for issue in issues):
        return stopped(StopKind.RUNTIME_ERROR)
    if issues:
        return stopped(StopKind.TOOL_FAILURE if tool_failed else StopKind.RUNTIME_ERROR)
    return finished(safe)


def safe_text(raw: str) -> str:
    """Each line trimmed at its right, the whole trimmed; nothing when it is only a traceback."""
    text = "\n".join(line.rstrip() for line in raw.split("\n")).strip()
    return "" if is_traceback_only(text) else text


def classify(raw: str, safe: str, issues: tuple[TurnIssue, ...]) -> OutputState:
    if not safe and is_traceback_only(raw):
        return OutputState.TRACEBACK_ONLY
    if not safe:
        return OutputState.EMPTY_OUTPUT
    return OutputState.RECOVERED_FROM_ERROR if issues else OutputState.USABLE


def is_traceback_only(text: str) -> bool:
    """Whether `text` is a Python traceback or error lines and not one line of prose."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not any(_TRACEBACK in line or _ERROR_LINE.match(line) for line in lines):
        return False
    return not any(":" not in line and not line.startswith(("Traceback", "File", "Runtime error:")) for line in lines)


def _raw_text(turn: Turn) -> str:
    """The answer; where there is none, the last prose of the turn. From recorded responses only (W-3)."""
    if isinstance(turn.outcome, Finished):
        return turn.outcome.finish.text
    prose = (text_of(message) for message in reversed(turn.added) if message.role is Role.ASSISTANT)
    return next((text for text in prose if text.strip()), "")


def _switch(turn: Turn) -> FrameSwitch | None:
    """The first one that a tool asked for: the round that brings one is the turn's last."""
    return next((call.outcome.control for call in turn.calls if call.outcome.control is not None), None)


def _any_tool_failed(turn: Turn) -> bool:
    return any(call.outcome.status is ToolStatus.FAILURE for call in turn.calls)


def _stamp(turn_index: int, outcome: TurnOutcome, messages: tuple[Message, ...]) -> str:
    """Digest of the semantic content alone: no message ids, no times, no claims (sessions §9.4, W45)."""
    content = [{"role": message.role.value, "parts": to_json(Message, message)["parts"]} for message in messages]
    return short_digest({"turn_index": turn_index, "outcome": to_json(TurnOutcome, outcome), "messages": content})
