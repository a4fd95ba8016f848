"""A worker may die at every named crash point of a turn, at each passing: what comes out is the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from lash_tasks import SwitchFrame, ToolContext, tool
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.hooks import EnqueueMessages, PluginMessage
from lash_tasks.domain.ids import BatchId
from lash_tasks.domain.messages import text_of
from lash_tasks.domain.plugins import Hook
from lash_tasks.domain.turns import TurnContext
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.plugins.plugin import Directives, HookContext
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.providers.scripted import RULES, last_user_text
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CommandRequest
from lash_tasks.settings import Settings
from lash_tasks.stores.sql import tables
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.definition import Tool
from tests.turns.models import Model, call_number, calls, out_of_order, says, script
from tests.turns.plugins import Does, plugin
from tests.turns.stage import AGENT, SESSION, DieAt, Stage, agent, emptied

TEXTS = (
    'two at once: call weather {"city": "Oslo"} call weather {"city": "Rome"}',
    "only words",
)
REPEATED_EFFECT = frozenset({CrashPoint.AFTER_PERFORM})
"""Where an effect was done and not recorded: there, and only there, it is done again."""
BESIDE = frozenset({CrashPoint.AFTER_PERFORM, CrashPoint.AFTER_RECORD})
"""Where the tools that ran beside in the same round may have been done and not recorded as well."""
SELDOM = frozenset({CrashPoint.AFTER_BEGUN, CrashPoint.AFTER_CHECKPOINT})
"""Passed only by a tool that must not run twice, and by a checkpoint that input joins at."""
COUNTED = [table for table in tables.metadata.sorted_tables if table not in (tables.agents, tables.workers)]
"""What a death must not make more or fewer rows of. The others are of the workers themselves."""


@dataclass
class Scene:
    """What is sent, to which agent, and what the model says; `tool` is one that every scene may use."""

    tool: Tool[..., object]
    effects: Counter[str] = field(default_factory=Counter)
    """What a scene counts of its own: calls of plugins, and of further tools."""
    agent: Agent = field(init=False)
    model: Model = field(default_factory=Model)
    send: Callable[[Stage], object] = lambda stage: [stage.send(text) for text in TEXTS]
    turns: int = len(TEXTS)
    free: frozenset[CrashPoint] = frozenset()
    """Points where an effect that is done again may be one that costs nothing and is not counted."""
    misses: frozenset[CrashPoint] = SELDOM
    """The points that no turn of it passes."""


Make = Callable[[Scene], None]


def plain(scene: Scene) -> None:
    scene.agent = agent(scene.tool)


def typed_with_a_fallback(scene: Scene) -> None:
    """The first model fails, the second one's first answer does not fit. That it is checked again costs nobody."""

    def rule(request: ModelRequest) -> ModelResponse:
        if "does not fit" in last_user_text(request):
            return says('{"answer": 1}')
        return RULES["echo"](request)

    scene.agent = agent(scene.tool, model="test:down", fallbacks=["test:test"], output_type=dict[str, int])
    scene.model = Model(rule, before=out_of_order)
    scene.free = REPEATED_EFFECT


def joined_in_mid_turn(scene: Scene) -> None:
    """Input that is there before the first checkpoint joins; a delivered message comes but once, like its sender."""

    def instructions(ctx: TurnContext) -> str:
        scene.effects[f"instructions {ctx.turn_index}"] += 1
        return "Answer."

    scene.agent = agent(scene.tool, instructions=instructions)

    def send(stage: Stage) -> None:
        stage.send(TEXTS[0], idempotency_key="opening")

        def before(_call: ModelCall, _interrupt: Interrupt) -> None:
            for number in (1, 2):
                stage.inject(f"and {number}?", id=BatchId(f"joins-{number}"), source_key=f"joins-{number}")

        scene.model = stage.model = Model(before=before)

    scene.send, scene.turns, scene.misses = send, 1, SELDOM - {CrashPoint.AFTER_CHECKPOINT}


def switching_frames(scene: Scene) -> None:
    """A turn that ends in another frame, and the one that follows it there."""

    @tool
    def go_on(task: str) -> SwitchFrame:
        """Go on with a task in another frame."""
        scene.effects["go_on"] += 1
        return SwitchFrame(task, "plan", ["the seed"], "plan_mode")

    def rule(request: ModelRequest) -> ModelResponse:
        if last_user_text(request) == "go" and call_number(request) == 1:
            return calls(("go_on", '{"task": "only words"}'))
        return RULES["echo"](request)

    scene.agent, scene.model = agent(scene.tool, go_on), Model(rule)
    scene.send = lambda stage: [stage.send(text) for text in ("go", TEXTS[1])]
    scene.turns = 3


def with_plugins(scene: Scene) -> None:
    """A plugin that puts messages in wherever it may, and remembers how often it was called."""

    def adds(text: str, once: bool = False) -> Does:
        def does(ctx: HookContext) -> Directives:
            scene.effects[f"{text} {ctx.turn_index}"] += 1
            said = ctx.memory if isinstance(ctx.memory, list) else []
            ctx.memory = [*said, text]
            if once and any(text in text_of(message) for message in ctx.messages):
                return None
            return EnqueueMessages((PluginMessage(text),))

        return does

    def counts(ctx: HookContext) -> Directives:
        scene.effects[f"prepared {ctx.turn_index}"] += 1
        return None

    watch = plugin(
        {
            Hook.PREPARE_CONTEXT: counts,
            Hook.BEFORE_TURN: adds("by the way"),
            Hook.AT_CHECKPOINT: adds("and also", once=True),
            Hook.AFTER_TURN: adds("that was it"),
        }
    )
    scene.agent = agent(scene.tool, plugins=[watch])
    scene.send, scene.turns = lambda stage: stage.send(TEXTS[0]), 1


COMMANDS: dict[str, JsonObject] = {
    "configure_session": {"spec": {"max_turns": 7}},
    "reset_session": {},
    "branch_to_node": {"node_id": "m1.0"},
    "append_session_nodes": {"nodes": ["noted"]},
    "refresh_tool_catalog": {},
}


def commanded(scene: Scene) -> None:
    """Commands after an input: turns that ask no model, whose only effect costs nothing."""

    def send(stage: Stage) -> None:
        stage.send(TEXTS[1])
        for kind, arguments in COMMANDS.items():
            values = {"session_id": SESSION, "kind": kind, "arguments": arguments, "idempotency_key": kind}
            with stage.ingress() as ingress:
                named = replace(ingress, new_id=f"command-{kind}".format)  # what is appended is named after it
                named.command(CommandRequest.parse({**values, "agent": AGENT}))

    scene.agent, scene.send, scene.turns = agent(scene.tool), send, 1 + len(COMMANDS)
    scene.free = REPEATED_EFFECT


def charging(scene: Scene) -> None:
    """A tool whose attempt is never repeated."""

    @tool(on_crash="never")
    def charge(cents: int) -> str:
        """Charge."""
        scene.effects["charge"] += 1
        return f"charged {cents}"

    scene.agent = agent(charge)
    scene.model = Model(script({"go": [calls(("charge", '{"cents": 5}')), says("done")]}))
    scene.send, scene.turns = lambda stage: stage.send("go"), 1
    scene.misses = SELDOM - {CrashPoint.AFTER_BEGUN}


SCENES = [plain, typed_with_a_fallback, joined_in_mid_turn, switching_frames, with_plugins, commanded]


class Run:
    """One run of a scene with a death somewhere, and all that can be seen of it."""

    def __init__(self, settings: Settings, die_at: DieAt, make: Make) -> None:
        lock = threading.Lock()
        self.tools: Counter[str] = Counter()
        self.keys: set[tuple[str, str]] = set()

        @tool
        def weather(city: str, ctx: ToolContext) -> str:
            """The weather in a city."""
            with lock:
                self.tools[city] += 1
                self.keys.add((city, ctx.idempotency_key))
            return f"rain in {city}"

        self.scene = scene = Scene(weather)
        make(scene)
        with Stage(settings=emptied(settings), agents=[scene.agent], model=scene.model) as stage:
            scene.send(stage)
            stage.run_all(die_at)
            self.model = scene.model
            self.passed = die_at.passed
            self.transcript = stage.transcript()
            self.results = [_without_times(turn.result) for turn in stage.turns()]
            self.rows = {table.name: len(stage.rows(table)) for table in COUNTED}
            self.states = sorted(stage.states().values())


def _without_times(result: Any) -> Any:
    said = (result.outcome, result.assistant_output, result.output, result.errors)
    return (result.turn_index, said, result.token_usage, _calls(result.tool_calls))


def _calls(calls: Any) -> list[tuple[str, Any, Any]]:
    return [(call.call_id, call.arguments, call.outcome.value) for call in calls]


def test_every_crash_point_is_passed_in_some_scene() -> None:
    @tool
    def idle() -> None:
        """Do nothing."""

    missed = set(CrashPoint)
    for make in (*SCENES, charging):
        scene = Scene(idle)
        make(scene)
        missed &= scene.misses
    assert not missed


@pytest.mark.shows("T13")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("make", SCENES)
def test_a_death_at_any_passing_of_any_crash_point_changes_nothing_but_time(settings: Settings, make: Make) -> None:
    whole = Run(settings, DieAt(), make)
    assert len(whole.results) == whole.scene.turns
    assert set(CrashPoint) - set(whole.passed) == whole.scene.misses

    for point, passings in whole.passed.items():
        for count in range(1, passings + 1):
            died = Run(settings, DieAt(point, count), make)
            where = f"{point} passing {count}"
            assert died.transcript == whole.transcript, where
            assert died.results == whole.results, where
            assert died.rows == whole.rows, where
            assert died.states == whole.states, where
            assert len(died.keys) == len(whole.keys), "a call changed its idempotency key"
            tools = died.tools - whole.tools
            assert set(tools.values()) <= {1}, (where, tools)
            assert not tools or point in BESIDE, (where, tools)
            others = (died.model.asked - whole.model.asked) + (died.scene.effects - whole.scene.effects)
            done = others.total() + (point in REPEATED_EFFECT and bool(tools))
            assert done == (point in REPEATED_EFFECT) or (done == 0 and point in whole.scene.free), (where, others)


@pytest.mark.shows("T13")
@pytest.mark.timeout(600)
def test_a_call_that_must_not_be_repeated_is_made_once_at_most_wherever_its_worker_dies(settings: Settings) -> None:
    whole = Run(settings, DieAt(), charging)
    assert set(CrashPoint) - set(whole.passed) == whole.scene.misses
    unknown = {(CrashPoint.AFTER_BEGUN, 1): 0, (CrashPoint.AFTER_PERFORM, 2): 1}
    for point, passings in whole.passed.items():
        for count in range(1, passings + 1):
            died = Run(settings, DieAt(point, count), charging)
            where = (point, count)
            assert died.rows == whole.rows, where
            assert died.states == whole.states, where
            assert died.scene.effects["charge"] == unknown.get(where, 1), where
            assert (died.transcript != whole.transcript) == (where in unknown), where
            assert (died.results != whole.results) == (where in unknown), where
