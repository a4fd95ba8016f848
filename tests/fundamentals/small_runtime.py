"""The runtime in a page: the machine gives orders, each is answered from the journal or performed and recorded first.

The real one (`lash_tasks/runtime`) adds what this leaves out: SQL, leases, cancels, processes that die.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from lash_tasks.domain.agents import AgentSnapshot, ToolSpec
from lash_tasks.domain.codec import JsonValue, decode, encode
from lash_tasks.domain.frames import FrameSwitch
from lash_tasks.domain.ids import BatchId, CallId, ReplayKey, SessionId, TurnId
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.messages import Message, TextPart, ToolCallPart, ToolStatus
from lash_tasks.domain.queue import JoinedInput
from lash_tasks.domain.turns import FailureClass, ToolOutcome, TurnIntent, tool_failure
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
    PlannedCall,
    RenderInstructions,
    Reply,
    RunHooks,
    RunTools,
    TakeCheckpoint,
    ToolsReturned,
)
from lash_tasks.machine.projection import Transcript
from lash_tasks.machine.requests import ModelError, ModelOutcome, ModelRequest, ModelResponse
from lash_tasks.machine.state import Step, Turn
from lash_tasks.machine.turn import MACHINE_VERSION, advance, begin

Model = Callable[[ModelRequest], ModelResponse]
Tool = Callable[..., JsonValue]
T = TypeVar("T")

SUPPORT = AgentSnapshot(
    name="support",
    model="scripted:small",
    instructions="Answer briefly.",
    tools=(
        ToolSpec("lookup_order", "Look an order up by its id.", {"type": "object"}),
        ToolSpec("charge_card", "Charge the customer.", {"type": "object"}),
    ),
)


@dataclass
class SmallRuntime:
    """Drives turns over a journal, which outlives it: give the journal of one to the next, and it resumes."""

    model: Model
    tools: Mapping[str, Tool] = field(default_factory=dict)
    journal: dict[ReplayKey, bytes] = field(default_factory=dict)
    waiting: list[JoinedInput] = field(default_factory=list)
    """Input that arrived while the turn ran."""
    instructions: Callable[[], str] = str
    check: Callable[[str], OutputChecked] = OutputChecked
    """Whether an answer fits the agent's output type."""
    hooks: Callable[[RunHooks], HooksReturned] = lambda phase: HooksReturned()
    """What the plugins ask for in a phase."""
    broken: set[str] = field(default_factory=set)
    """Models that cannot be reached."""

    def run(self, step: Step) -> Turn:
        turn, effect = step
        while not isinstance(effect, Finish):
            turn, effect = advance(turn, self.answer(effect))
        return turn

    def answer(self, effect: Effect) -> Reply:
        match effect:
            case RenderInstructions():
                return self.once(effect.key, InstructionsRendered, lambda: InstructionsRendered(self.instructions()))
            case CallModel():
                call = effect
                return ModelReturned(self.once(effect.key, ModelOutcome, lambda: self.ask(call)))
            case CheckOutput():
                text = effect.text
                return self.once(effect.key, OutputChecked, lambda: self.check(text))
            case RunTools():
                return ToolsReturned(tuple(call.settled or self.tool_outcome(call) for call in effect.calls))
            case RunHooks():
                phase = effect
                return self.once(effect.key, HooksReturned, lambda: self.hooks(phase))
            case TakeCheckpoint():
                return CheckpointPassed(self.once(effect.key, tuple[JoinedInput, ...], self.take_waiting))
            case Finish():
                raise AssertionError("a finished turn asks for nothing")
            case _:
                assert_never(effect)

    def ask(self, effect: CallModel) -> ModelOutcome:
        if effect.model in self.broken:
            return ModelOutcome(error=ModelError("out of order", "503", retryable=True))
        return ModelOutcome(self.model(effect.request))

    def tool_outcome(self, call: PlannedCall) -> ToolOutcome:
        return self.once(call.key, ToolOutcome, lambda: self.call_tool(call))

    def call_tool(self, call: PlannedCall) -> ToolOutcome:
        try:
            value = self.tools[call.tool](**call.arguments)
            switch = value if isinstance(value, FrameSwitch) else None
            return ToolOutcome(ToolStatus.SUCCESS, value if switch is None else None, control=switch)
        except Exception as error:
            return tool_failure(FailureClass.EXECUTION, "tool_failed", f"{type(error).__name__}: {error}")

    def take_waiting(self) -> tuple[JoinedInput, ...]:
        joined, self.waiting = tuple(self.waiting), []
        return joined

    def once(self, key: ReplayKey, kind: type[T], perform: Callable[[], T]) -> T:
        """The recorded outcome under `key`; where there is none, what `perform` gives, recorded before it is used."""
        if key not in self.journal:
            self.journal[key] = encode(kind, perform())
        outcome: T = decode(kind, self.journal[key])
        return outcome


def start(text: str, *, agent: AgentSnapshot = SUPPORT, history: tuple[Message, ...] = (), turn_index: int = 1) -> Step:
    """The first step of a turn that answers `text`."""
    intent = TurnIntent(
        session_id=SessionId("customer-7"),
        turn_id=TurnId(f"turn-{turn_index}"),
        turn_index=turn_index,
        base_revision=turn_index - 1,
        batch_ids=(BatchId(f"batch-{turn_index}"),),
        agent=agent.name,
        agent_ref=agent.ref(),
        machine_version=MACHINE_VERSION,
        admitted_at_ms=1_700_000_000_000,
    )
    return begin(intent, agent, Transcript().grown(history), [user_says(text)])


def user_says(text: str) -> QueuedInput:
    return QueuedInput("support", (TextPart(text),))


def arrives(batch_id: str, text: str) -> JoinedInput:
    """Input that may join the running turn."""
    return JoinedInput(BatchId(batch_id), None, user_says(text))


def says(text: str) -> ModelResponse:
    return ModelResponse((TextPart(text),))


def calls(*parts: ToolCallPart) -> ModelResponse:
    return ModelResponse(parts)


def call(call_id: str, tool: str, arguments: str) -> ToolCallPart:
    return ToolCallPart(CallId(call_id), tool, arguments)
