"""Turns played over generated facts: whatever a model, a tool, a user or a cancel may do to a turn, in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from hypothesis import strategies as st

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import decode, encode
from lash_tasks.domain.hooks import (
    AbortTurn,
    Directive,
    EmitEvent,
    EnqueueMessages,
    HookFailure,
    Kept,
    Placed,
    PluginMessage,
    PluginReport,
    PreparedPrompt,
)
from lash_tasks.domain.ids import BatchId, BlobRef, CallId, MessageId
from lash_tasks.domain.inputs import InputPart, QueuedInput
from lash_tasks.domain.messages import ImagePart, Message, ReasoningPart, Role, TextPart, ToolCallPart, ToolStatus
from lash_tasks.domain.plugins import Hook, PluginSpec
from lash_tasks.domain.queue import JoinedInput
from lash_tasks.domain.turns import (
    FailureClass,
    IssueKind,
    StopKind,
    ToolOutcome,
    TurnIssue,
    tool_cancelled,
    tool_failure,
)
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.machine.effects import (
    CallModel,
    CheckOutput,
    CheckpointPassed,
    Effect,
    Finish,
    HooksReturned,
    InstructionsRendered,
    ModelReturned,
    OutputChecked,
    RenderInstructions,
    Reply,
    RunHooks,
    RunTools,
    TakeCheckpoint,
    ToolsReturned,
    TurnHalted,
)
from lash_tasks.machine.projection import Transcript
from lash_tasks.machine.requests import ModelError, ModelOutcome, ModelResponse, ResponsePart, TerminalReason
from lash_tasks.machine.state import Step, Turn
from lash_tasks.machine.turn import advance, begin
from tests.domain.json_values import arguments, json_values, texts
from tests.machine.turns import AGENT, intent


@dataclass(frozen=True)
class Played:
    """A turn from its first order to its end."""

    start: Callable[[], Step]
    replies: tuple[Reply, ...]
    orders: tuple[Effect, ...]
    """The first one, then one per reply; the last is Finish."""
    turn: Turn
    history: tuple[Message, ...]
    """What was said before it."""

    def again(self, replies: tuple[Reply, ...] | None = None) -> tuple[Turn, tuple[Effect, ...]]:
        """The turn played anew from its beginning."""
        turn, effect = self.start()
        orders = [effect]
        for reply in self.replies if replies is None else replies:
            turn, effect = advance(turn, reply)
            orders.append(effect)
        return turn, tuple(orders)


def recorded(reply: Reply) -> Reply:
    """The reply as a resume reads it from the journal. A halt is not recorded: it happens again, or it does not."""
    match reply:
        case InstructionsRendered():
            rendered: InstructionsRendered = decode(InstructionsRendered, encode(InstructionsRendered, reply))
            return rendered
        case ModelReturned(outcome):
            return ModelReturned(decode(ModelOutcome, encode(ModelOutcome, outcome)))
        case OutputChecked():
            checked: OutputChecked = decode(OutputChecked, encode(OutputChecked, reply))
            return checked
        case HooksReturned():
            hooks: HooksReturned = decode(HooksReturned, encode(HooksReturned, reply))
            return hooks
        case ToolsReturned(outcomes):
            return ToolsReturned(tuple(_recorded_tool(outcome) for outcome in outcomes))
        case CheckpointPassed(joined):
            kind = tuple[JoinedInput, ...]
            return CheckpointPassed(decode(kind, encode(kind, joined)))
        case TurnHalted():
            return replace(reply, outcomes=tuple((index, _recorded_tool(outcome)) for index, outcome in reply.outcomes))
        case _:
            assert_never(reply)


def _recorded_tool(outcome: ToolOutcome) -> ToolOutcome:
    stored: ToolOutcome = decode(ToolOutcome, encode(ToolOutcome, outcome))
    return stored


# What a model says.

prose = st.one_of(
    st.sampled_from(["Hi.", " ", "\n\n", "Traceback (most recent call last)", "ValueError: x", "a\x00b"]), texts
)
tools = st.one_of(
    st.sampled_from(["lookup", "note"]),
    st.sampled_from(["missing", "", "functions.lookup", "look up", "x" * 100]),
    texts,
)
call_ids = st.one_of(
    st.sampled_from(["", "call_1", "call_1#2", "call_1#3", "x" * 64, "x" * 65, "日本", "a/b", "\x00", "\ud800"]), texts
)
counts = st.integers(0, 1000)
usage = st.one_of(st.just(TokenUsage()), st.builds(TokenUsage, counts, counts, counts, counts))
replays = st.sampled_from([None, {"signature": "s"}, {}])

calls: st.SearchStrategy[ResponsePart] = st.builds(ToolCallPart, call_ids.map(CallId), tools, arguments)
known_calls: st.SearchStrategy[ResponsePart] = st.builds(
    ToolCallPart, st.just(CallId("call_1")), st.just("lookup"), st.just("{}")
)
response_parts: st.SearchStrategy[ResponsePart] = st.one_of(
    st.builds(TextPart, prose, st.sampled_from([None, {"id": "msg_1"}])),
    st.builds(ReasoningPart, prose, replays),
    calls,
    known_calls,
)


def said(parts: st.SearchStrategy[tuple[ResponsePart, ...]], *ends: TerminalReason) -> st.SearchStrategy[ModelOutcome]:
    responses = st.builds(ModelResponse, parts, usage, st.sampled_from(ends), st.none() | prose)
    return responses.map(lambda response: ModelOutcome(response=response))


some_parts = st.lists(response_parts, max_size=4).map(tuple)
a_round = st.builds(
    lambda before, call, behind: (*before, call, *behind), some_parts, st.one_of(calls, known_calls), some_parts
)
an_answer: st.SearchStrategy[tuple[ResponsePart, ...]] = st.sampled_from(
    [(TextPart("Hi."),), (ReasoningPart("hm", {"signature": "s"}), TextPart("One "), TextPart("\ntwo"))]
)
errors = st.builds(
    ModelError,
    prose,
    st.sampled_from(["timeout", "http_400"]),
    st.sampled_from(TerminalReason),
    st.none() | prose,
    st.booleans(),
).map(lambda error: ModelOutcome(error=error))
model_outcomes = st.sampled_from([*"rrrraaa", "cut", "odd", "error"]).flatmap(
    {
        "r": said(a_round, TerminalReason.TOOL_USE, TerminalReason.STOP),
        "a": said(an_answer, TerminalReason.STOP),
        "cut": said(a_round, *TerminalReason),
        "odd": said(some_parts, TerminalReason.STOP, TerminalReason.UNKNOWN),
        "error": st.one_of(errors, st.just(ModelOutcome())),
    }.__getitem__
)
"""Mostly rounds and answers: a turn that ends at once shows little."""

# What tools come to, and what users add.

outcomes = st.one_of(
    st.builds(lambda value, ms: ToolOutcome(ToolStatus.SUCCESS, value, None, ms), json_values(), counts),
    st.builds(tool_failure, st.sampled_from(FailureClass), st.sampled_from(["tool_failed", "tool_timeout"]), prose),
    st.just(tool_cancelled()),
)
images: st.SearchStrategy[InputPart] = st.builds(
    ImagePart, st.just(BlobRef("0f" * 32)), st.just("image/png"), st.just("photo")
)
input_parts = st.one_of(st.builds(TextPart, prose), images)
inputs = st.builds(
    QueuedInput, st.just("support"), st.lists(input_parts, min_size=1, max_size=3).map(tuple), st.just({"user": 1})
)

issues = st.sampled_from([None, TurnIssue(IssueKind.RUNTIME, "turn_time_exceeded", "too long")])


def replies_to(effect: Effect, joined_before: int) -> st.SearchStrategy[Reply]:
    """A fact that answers `effect`."""
    match effect:
        case RenderInstructions():
            return st.builds(InstructionsRendered, st.sampled_from([*["Answer."] * 6, " ", None]), st.none() | prose)
        case CallModel():
            return st.builds(ModelReturned, model_outcomes)
        case CheckOutput():
            return st.one_of(st.builds(OutputChecked, json_values()), st.builds(OutputChecked, st.none(), prose))
        case RunTools(calls=planned):
            results = [st.just(call.settled) if call.settled else outcomes for call in planned]
            return st.builds(ToolsReturned, st.tuples(*results))
        case RunHooks():
            return hook_replies(effect)
        case TakeCheckpoint():
            return st.one_of(st.just([]), st.just([]), st.lists(inputs, max_size=2)).map(
                lambda items: joined(items, joined_before)
            )
        case Finish():
            raise AssertionError("nothing answers Finish")
        case _:
            assert_never(effect)


messages = st.builds(PluginMessage, prose, st.sampled_from(Role))
directives: st.SearchStrategy[Directive] = st.one_of(
    st.builds(EnqueueMessages, st.lists(messages, max_size=2).map(tuple), st.booleans()),
    st.builds(EmitEvent, prose, prose, json_values()),
)
aborts: st.SearchStrategy[Directive] = st.builds(AbortTurn, st.sampled_from(["too_rude", "too_dear"]), prose)


def hook_replies(effect: RunHooks) -> st.SearchStrategy[Reply]:
    """Mostly quiet plugins: one that always speaks up at the end keeps a turn going to its limit."""
    names = [plugin.id for plugin in effect.plugins]
    some = st.lists(st.one_of(*[directives] * 5, aborts), max_size=1).map(tuple)
    quiet: st.SearchStrategy[tuple[Directive, ...]] = st.just(())
    reports = st.tuples(
        *[
            st.builds(PluginReport, st.just(name), st.one_of(quiet, quiet, quiet, some), st.booleans(), json_values())
            for name in names
        ]
    )
    failure = st.sampled_from([*[None] * 9, HookFailure(names[0], "ValueError: no")])
    prompts: st.SearchStrategy[PreparedPrompt | None] = st.none()
    if effect.hook is Hook.PREPARE_CONTEXT:
        written = (Kept(0, len(effect.prompt)), Placed(Role.USER, (TextPart("Mind."),)))
        prompts = st.sampled_from([None, PreparedPrompt(written, ("Be kind.",)), PreparedPrompt(written[1:])])
    return st.builds(HooksReturned, reports, failure, prompts)


def joined(items: list[QueuedInput], before: int) -> CheckpointPassed:
    """The items as batches that have not joined before."""
    return CheckpointPassed(
        tuple(
            JoinedInput(BatchId(f"j{number}"), f"key-{number}" if number % 2 else None, item)
            for number, item in enumerate(items, start=before)
        )
    )


HALTS = [kind for kind in StopKind if kind is not StopKind.INVALID_INPUT]
"""That one halts a turn at its very beginning, and takes its input out of the transcript."""


def halts(effect: Effect) -> st.SearchStrategy[Reply]:
    """A halt, with the outcomes of some of the calls that run."""
    done: st.SearchStrategy[tuple[tuple[int, ToolOutcome], ...]] = st.just(())
    if isinstance(effect, RunTools):
        indexes = st.integers(0, len(effect.calls))
        done = st.dictionaries(indexes, outcomes, max_size=4).map(lambda found: tuple(found.items()))
    return st.builds(TurnHalted, st.sampled_from(HALTS), issues, done)


PLUGINS = (
    PluginSpec("watch", "1", (Hook.PREPARE_CONTEXT, Hook.BEFORE_TURN, Hook.AT_CHECKPOINT, Hook.AFTER_TURN)),
    PluginSpec("late", "2", (Hook.AT_CHECKPOINT, Hook.AFTER_TURN, Hook.TURN_PERSISTED)),
)
agents = st.builds(
    lambda instructions, limit, fallbacks, schema, plugins: replace(
        AGENT,
        instructions=instructions,
        max_iterations=limit,
        fallbacks=fallbacks,
        output_schema=schema,
        plugins=plugins,
    ),
    st.sampled_from(["Answer briefly.", "", None]),
    st.sampled_from([4, 4, 3, 2, 1]),
    st.sampled_from([None, None, ("scripted:y",), ("scripted:y", "other:z")]),
    st.sampled_from([None, None, {"type": "object"}]),
    st.sampled_from([None, None, PLUGINS[:1], PLUGINS]),
)
HISTORY = (
    Message(MessageId("m0.0"), Role.USER, (TextPart("Before"),)),
    Message(MessageId("m0.1"), Role.ASSISTANT, (TextPart("Then."), ReasoningPart("hm", {"signature": "s"}))),
)


@st.composite
def played_turns(draw: st.DrawFn) -> Played:
    """Turns of one or two inputs, over any facts; about a quarter of them is halted somewhere."""
    agent: AgentSnapshot = draw(agents)
    first: list[QueuedInput] = draw(st.lists(inputs, min_size=1, max_size=2))
    history = draw(st.sampled_from([(), HISTORY]))
    halt_at = draw(st.one_of(st.none(), st.none(), st.integers(0, 12)))
    pinned = intent(agent, turn_index=draw(st.sampled_from([1, 7])), batches=len(first))

    def start() -> Step:
        return begin(pinned, agent, Transcript().grown(history), first)

    turn, effect = start()
    orders, replies = [effect], list[Reply]()
    while not isinstance(effect, Finish):
        reply = draw(halts(effect) if len(replies) == halt_at else replies_to(effect, len(turn.joined)))
        turn, effect = advance(turn, reply)
        replies.append(reply)
        orders.append(effect)
    return Played(start, tuple(replies), tuple(orders), turn, history)
