"""What is stored today is read tomorrow: the spelling of stored values, and versions that do not fit.

A golden that fails here means that rows in somebody's database no longer read back: raise SCHEMA_VERSION, and read the
old form too.
"""

from __future__ import annotations

import pytest

from lash_tasks.domain.agents import AgentSnapshot, OnCrash, ToolSpec
from lash_tasks.domain.codec import JsonValue, canonical, decode, encode, from_json, parse, to_json
from lash_tasks.domain.frames import FrameSwitch, Seed
from lash_tasks.domain.hooks import (
    AbortTurn,
    EmitEvent,
    EnqueueMessages,
    HookFailure,
    Kept,
    Placed,
    PluginMessage,
    PluginReport,
    PreparedPrompt,
)
from lash_tasks.domain.ids import BatchId, BlobRef, CallId, MessageId, SessionId, TurnId
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.journal import EffectKind, Envelope
from lash_tasks.domain.messages import (
    ImagePart,
    Message,
    Origin,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolStatus,
)
from lash_tasks.domain.plugins import Hook, PluginSpec
from lash_tasks.domain.queue import (
    BatchRecord,
    BatchState,
    JoinedInput,
    decode_joined,
    encode_joined,
)
from lash_tasks.domain.turns import (
    AgentFrameSwitch,
    AssembledTurn,
    AssistantOutput,
    ExecutionSummary,
    FailureClass,
    IssueKind,
    OutputState,
    StopKind,
    ToolCallRecord,
    ToolOutcome,
    TurnIssue,
    TurnOutcome,
    TurnStatus,
    finished,
    stopped,
    tool_failure,
)
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.domain.wakes import QueuedWake, wake_message
from lash_tasks.errors import UnsupportedRecordSchemaVersion
from lash_tasks.machine.effects import HooksReturned, InstructionsRendered, OutputChecked
from lash_tasks.machine.requests import ModelError, ModelOutcome, ModelResponse, TerminalReason

CALL, BLOB = CallId("call_a"), BlobRef("0f" * 32)

WAKE = QueuedWake(
    agent="support",
    process_id="p1",
    event_type="done",
    sequence=3,
    wake_id="w1",
    text="Hi",
    caused_by={"turn_id": "t"},
)

FORMS: list[tuple[object, object, str]] = [
    (
        QueuedInput,
        QueuedInput("support", (TextPart("Hi é"), ImagePart(BLOB, "image/png", "x")), {"user": None}),
        '{"d":{"agent":"support","context":{"user":null},"parts":[{"text":"Hi é","type":"text"},'
        '{"blob":"' + BLOB + '","label":"x","media_type":"image/png","type":"image"}]},"v":1}',
    ),
    (QueuedInput, QueuedInput("support", ()), '{"d":{"agent":"support","parts":[]},"v":1}'),
    (
        Message,
        Message(
            MessageId("m1.1"),
            Role.ASSISTANT,
            (
                ReasoningPart("hm", {"signature": "s"}),
                TextPart("Hi", {"id": "i"}),
                ToolCallPart(CALL, "lookup", '{"a": 1}'),
            ),
        ),
        '{"d":{"id":"m1.1","parts":[{"replay":{"signature":"s"},"text":"hm","type":"reasoning"},'
        '{"meta":{"id":"i"},"text":"Hi","type":"text"},'
        '{"arguments":"{\\"a\\": 1}","call_id":"call_a","tool":"lookup","type":"tool_call"}],'
        '"role":"assistant"},"v":1}',
    ),
    (
        Message,
        Message(
            MessageId("m1.2"), Role.USER, (ToolResultPart(CALL, "lookup", "ok"),), Origin("injected", "b9", "msg-991")
        ),
        '{"d":{"id":"m1.2","origin":{"batch_id":"b9","kind":"injected","source_key":"msg-991"},"parts":'
        '[{"call_id":"call_a","status":"success","text":"ok","tool":"lookup","type":"tool_result"}],"role":"user"},"v":1}',
    ),
    (
        ModelOutcome,
        ModelOutcome(ModelResponse((TextPart("Hi"),), TokenUsage(1, 2, 3, 4), TerminalReason.STOP)),
        '{"d":{"response":{"parts":[{"text":"Hi","type":"text"}],"terminal_reason":"stop","usage":'
        '{"cached_input_tokens":3,"input_tokens":1,"output_tokens":2,"reasoning_tokens":4}}},"v":1}',
    ),
    (
        ModelOutcome,
        ModelOutcome(error=ModelError("refused", "http_400")),
        '{"d":{"error":{"code":"http_400","message":"refused","retryable":false,'
        '"terminal_reason":"provider_error"}},"v":1}',
    ),
    (
        ToolOutcome,
        ToolOutcome(ToolStatus.SUCCESS, {"a": [None, 1.5]}, None, 12),
        '{"d":{"duration_ms":12,"status":"success","value":{"a":[null,1.5]}},"v":1}',
    ),
    (
        ToolOutcome,
        ToolOutcome(
            ToolStatus.SUCCESS,
            control=FrameSwitch("plan", "plan it", (Seed(Role.USER, (TextPart("so far"),)),)),
        ),
        '{"d":{"control":{"frame_id":"plan","reason":"continue_as","seeds":[{"parts":[{"text":"so far","type":"text"}],'
        '"role":"user"}],"task":"plan it"},"duration_ms":0,"status":"success"},"v":1}',
    ),
    (
        TurnOutcome,
        AgentFrameSwitch("plan", "plan it"),
        '{"d":{"frame_id":"plan","task":"plan it","type":"agent_frame_switch"},"v":1}',
    ),
    (
        ToolOutcome,
        tool_failure(FailureClass.TIMEOUT, "tool_timeout", "too slow"),
        '{"d":{"duration_ms":0,"failure":{"code":"tool_timeout","kind":"timeout","message":"too slow"},'
        '"status":"failure"},"v":1}',
    ),
    (
        tuple[JoinedInput, ...],
        (JoinedInput(BatchId("b9"), "msg-991", QueuedInput("support", (TextPart("Hi"),))),),
        '{"d":[{"batch_id":"b9","input":{"agent":"support","parts":[{"text":"Hi","type":"text"}]},'
        '"source_key":"msg-991"}],"v":1}',
    ),
    (
        tuple[JoinedInput, ...],
        (JoinedInput(BatchId("b9"), WAKE.source_key, wake=WAKE),),
        '{"d":[{"batch_id":"b9","source_key":"process:p1:event:3:wake","wake":{"agent":"support",'
        '"caused_by":{"turn_id":"t"},"event_type":"done","process_id":"p1","sequence":3,"text":"Hi","wake_id":"w1"}}],'
        '"v":1}',
    ),
    (
        Message,
        wake_message(WAKE),
        '{"d":{"id":"w1","origin":{"kind":"process","process":{"caused_by":{"turn_id":"t"},"event_type":"done",'
        '"process_id":"p1","sequence":3,"wake_id":"w1"}},"parts":[{"text":"Background process wake\\nProcess: p1\\n'
        'Event: done #3\\nWake input:\\nHi","type":"text"}],"role":"event"},"v":1}',
    ),
    (InstructionsRendered, InstructionsRendered("Be brief."), '{"d":{"text":"Be brief."},"v":1}'),
    (
        AgentSnapshot,
        AgentSnapshot("support", "scripted:x", None, (ToolSpec("t", "d", {"type": "object"}, OnCrash.NEVER, 500),)),
        '{"d":{"max_iterations":20,"max_turn_seconds":600,"model":"scripted:x","name":"support","tools":'
        '[{"description":"d","name":"t","on_crash":"never","parameters":{"type":"object"},"timeout_ms":500}]},"v":1}',
    ),
    (
        AgentSnapshot,
        AgentSnapshot("a", "m:x", "Hi", fallbacks=("m:y",), output_schema={"anyOf": [{"default": None}]}),
        '{"d":{"fallbacks":["m:y"],"instructions":"Hi","max_iterations":20,"max_turn_seconds":600,"model":"m:x",'
        '"name":"a","output_schema":{"anyOf":[{"default":null}]},"tools":[]},"v":1}',
    ),
    (
        AgentSnapshot,
        AgentSnapshot("a", "m:x", "", plugins=(PluginSpec("guard", "1", (Hook.BEFORE_TURN, Hook.AFTER_TURN), 5),)),
        '{"d":{"instructions":"","max_iterations":20,"max_turn_seconds":600,"model":"m:x","name":"a","plugins":'
        '[{"hooks":["before_turn","after_turn"],"id":"guard","priority":5,"version":"1"}],"tools":[]},"v":1}',
    ),
    (
        HooksReturned,
        HooksReturned(
            (
                PluginReport("a", (AbortTurn("c", "m"), EmitEvent("k", "l", {"x": None})), True, {"n": None}),
                PluginReport("b", (EnqueueMessages((PluginMessage("Hi", Role.SYSTEM),), transient=True),)),
            ),
            HookFailure("c", "no"),
            PreparedPrompt((Kept(0, 2), Placed(Role.USER, (TextPart("x"),))), ("y",)),
        ),
        '{"d":{"failure":{"message":"no","plugin":"c"},"prompt":{"contributions":["y"],"pieces":[{"count":2,"first":0,'
        '"type":"kept"},{"parts":[{"text":"x","type":"text"}],"role":"user","type":"placed"}]},"reports":[{"changed":'
        'true,"directives":[{"code":"c","message":"m","type":"abort_turn"},{"detail":{"x":null},"key":"k","label":"l",'
        '"type":"emit_event"}],"plugin":"a","state":{"n":null}},{"changed":false,"directives":[{"messages":[{"role":'
        '"system","text":"Hi"}],"transient":true,"type":"enqueue_messages"}],"plugin":"b"}]},"v":1}',
    ),
    (OutputChecked, OutputChecked({"a": None}), '{"d":{"value":{"a":null}},"v":1}'),
    (OutputChecked, OutputChecked(problem="no"), '{"d":{"problem":"no"},"v":1}'),
    (
        AssembledTurn,
        AssembledTurn(
            session_id=SessionId("s"),
            turn_id=TurnId("t"),
            turn_index=1,
            status=TurnStatus.COMMITTED,
            outcome=finished("Hi"),
            assistant_output=AssistantOutput("Hi", "Hi ", OutputState.USABLE),
            execution=ExecutionSummary(True),
            token_usage=TokenUsage(),
            tool_calls=(ToolCallRecord(CALL, "lookup", "{oops", ToolOutcome(ToolStatus.CANCELLED)),),
            errors=(TurnIssue(IssueKind.TOOL, "tool_failed", "no"),),
        ),
        '{"d":{"assistant_output":{"raw_text":"Hi ","safe_text":"Hi","state":"usable"},"attempt":1,'
        '"errors":[{"code":"tool_failed","kind":"tool","message":"no"}],"execution":{"had_tool_calls":true},'
        '"outcome":{"finish":{"text":"Hi","type":"assistant_message"},"type":"finished"},"session_id":"s",'
        '"status":"committed","token_usage":{"cached_input_tokens":0,"input_tokens":0,"output_tokens":0,'
        '"reasoning_tokens":0},"tool_calls":[{"arguments":"{oops","call_id":"call_a","outcome":{"duration_ms":0,'
        '"status":"cancelled"},"tool":"lookup"}],"turn_id":"t","turn_index":1},"v":1}',
    ),
]


@pytest.mark.parametrize(("kind", "value", "spelling"), FORMS)
def test_the_stored_form_of_a_value(kind: object, value: object, spelling: str) -> None:
    assert encode(kind, value).decode() == spelling
    assert decode(kind, spelling.encode()) == value


@pytest.mark.parametrize("outcome", [finished("Hi"), stopped(StopKind.CANCELLED)])
def test_outcomes_are_told_apart_by_type(outcome: TurnOutcome) -> None:
    form = to_json(TurnOutcome, outcome)

    assert form["type"] == outcome.type
    assert from_json(TurnOutcome, form) == outcome


def test_a_digest_names_the_snapshot_of_an_agent() -> None:
    agent = AgentSnapshot("support", "scripted:x", "Be brief.")

    # sha256 of {"instructions":"Be brief.","max_iterations":20,"max_turn_seconds":600,"model":"scripted:x",
    # "name":"support","tools":[]}
    assert agent.ref() == "305d462b6b6a1be714d8436fb2bbf124"
    assert AgentSnapshot("support", "scripted:x", "Be long.").ref() != agent.ref()


def test_the_form_of_an_envelope() -> None:
    """A journal is compared with these bytes for as long as a turn may run."""
    envelope = Envelope(EffectKind.TOOL_ATTEMPT, {"tool": "t", "arguments": {"b": None, "a": 1}})

    assert envelope.to_bytes() == b'{"kind":"tool_attempt","request":{"arguments":{"a":1,"b":null},"tool":"t"}}'
    assert envelope.mismatch(envelope.to_bytes()) == []
    assert Envelope(EffectKind.LLM_CALL, {}).mismatch(envelope.to_bytes()) == [
        '$.kind: "tool_attempt" -> "llm_call"',
        '$.request.arguments: {"a": 1, "b": null} -> (absent)',
        '$.request.tool: "t" -> (absent)',
    ]


def test_an_envelope_spelled_otherwise_is_a_mismatch() -> None:
    envelope = Envelope(EffectKind.CHECKPOINT, {"checkpoint": "after_work"})
    spaced = b'{"kind": "checkpoint", "request": {"checkpoint": "after_work"}}'

    assert parse(spaced) == parse(envelope.to_bytes())
    assert envelope.mismatch(spaced) == ["$: encoding differs"]


def test_a_checkpoint_remembers_what_it_claimed() -> None:
    queued = QueuedInput("support", (TextPart("Hi"),))
    batch = BatchRecord(
        id=BatchId("b9"),
        session_id=SessionId("s"),
        seq=4,
        agent="support",
        state=BatchState.CLAIMED,
        turn_id=TurnId("t"),
        source_key=None,
        early=True,
        exclusive=False,
        merge_key=None,
        available_at_ms=0,
        enqueued_at_ms=0,
        payload=encode(QueuedInput, queued),
    )

    assert decode_joined(encode_joined([batch])) == (JoinedInput(BatchId("b9"), None, queued),)
    assert decode_joined(encode_joined([])) == ()


@pytest.mark.raises_code("unsupported_record_schema_version")
@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ({"v": 2, "d": {"agent": "support", "parts": []}}, 2),
        ({"v": 0, "d": {"agent": "support", "parts": []}}, 0),
        ({"agent": "support", "parts": []}, 0),
        ([], 0),
        ({"v": "1", "d": {}}, 0),
    ],
)
def test_another_schema_version_is_refused_with_both_numbers(stored: JsonValue, found: int) -> None:
    with pytest.raises(UnsupportedRecordSchemaVersion) as refused:
        decode(QueuedInput, canonical(stored))
    assert refused.value.args == ("QueuedInput", found, 1)
    assert str(refused.value) == (
        f"a stored QueuedInput has schema version {found}, this code reads 1; upgrade the older side"
    )
