"""The phases of a turn: their order, and that each one that begins ends once, whatever happens in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import takewhile

import pytest

from lash_tasks import TurnContext, tool
from lash_tasks.domain.hooks import EnqueueMessages, PluginMessage
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.domain.plugins import Hook
from lash_tasks.errors import StoreUnavailable
from lash_tasks.plugins.plugin import Directives, HookContext
from lash_tasks.runtime.phases import RuntimeTurnPhase as Phase
from lash_tasks.stores.protocols import CommitRefused, Committed, TurnCommit
from tests.turns.doubles import TurnsBetween
from tests.turns.models import Model, calls, says, script
from tests.turns.plugins import plugin, raises
from tests.turns.stage import Stage, agent

NORMAL = [
    ("begin", Phase.CONTEXT_TRANSFORM),
    ("end", Phase.CONTEXT_TRANSFORM),
    ("begin", Phase.BEFORE_TURN_HOOKS),
    ("end", Phase.BEFORE_TURN_HOOKS),
    ("begin", Phase.EFFECT_LOOP),
    ("begin", Phase.PROMPT_BUILD),
    ("end", Phase.PROMPT_BUILD),
    ("end", Phase.EFFECT_LOOP),
    ("begin", Phase.FINALIZE_TURN),
    ("end", Phase.FINALIZE_TURN),
    ("begin", Phase.PERSIST_TURN),
    ("begin", Phase.FINAL_COMMIT),
    ("end", Phase.FINAL_COMMIT),
    ("begin", Phase.POST_PERSIST_HOOKS),
    ("end", Phase.POST_PERSIST_HOOKS),
    ("end", Phase.PERSIST_TURN),
]


@dataclass
class Probe:
    """Writes down what it is told."""

    told: list[tuple[str, str]] = field(default_factory=list)

    def begin(self, session_id: SessionId, turn_id: TurnId, phase: str) -> None:
        self.told.append(("begin", phase))

    def end(self, session_id: SessionId, turn_id: TurnId, phase: str) -> None:
        self.told.append(("end", phase))

    @property
    def phases(self) -> list[tuple[str, str]]:
        return [told for told in self.told if not told[1].startswith("plugin_hook.")]

    def assert_balanced(self) -> None:
        """Each phase ends once, inside the one that it began in."""
        open_: list[str] = []
        for what, phase in self.told:
            if what == "begin":
                open_.append(phase)
            else:
                assert open_.pop() == phase
        assert open_ == []


@tool
def look() -> str:
    """Look."""
    return "seen"


@pytest.fixture
def probe(stage: Stage) -> Probe:
    stage.model = Model(script({"go": [calls(("look", "")), says("looked")]}))
    stage.probe = probe = Probe()
    return probe


@pytest.mark.shows("P1")
@pytest.mark.parametrize("plugins", [[], [plugin()]])
def test_a_turn_passes_its_phases_in_order(stage: Stage, probe: Probe, plugins: list[object]) -> None:
    stage.agents = [agent(look, plugins=plugins)]
    assert stage.answer("go").ok
    assert probe.phases == NORMAL
    probe.assert_balanced()


@pytest.mark.shows("P1")
def test_each_call_of_a_hook_is_a_phase_of_its_own_inside_its_phase(stage: Stage, probe: Probe) -> None:
    stage.agents = [agent(look, plugins=[plugin(id_="a"), plugin(id_="b")])]
    stage.answer("go")
    probe.assert_balanced()
    at = probe.told.index(("begin", Phase.BEFORE_TURN_HOOKS))
    assert probe.told[at : at + 6] == [
        ("begin", Phase.BEFORE_TURN_HOOKS),
        ("begin", "plugin_hook.before_turn.a"),
        ("end", "plugin_hook.before_turn.a"),
        ("begin", "plugin_hook.before_turn.b"),
        ("end", "plugin_hook.before_turn.b"),
        ("end", Phase.BEFORE_TURN_HOOKS),
    ]


def broken(context: TurnContext) -> str:
    raise ValueError("no instructions")


@pytest.mark.shows("P1")
@pytest.mark.parametrize(
    ("hook", "last"),
    [
        pytest.param(
            Hook.PREPARE_CONTEXT, Phase.CONTEXT_TRANSFORM, marks=pytest.mark.raises_code("context_prepare_turn")
        ),
        pytest.param(Hook.BEFORE_TURN, Phase.BEFORE_TURN_HOOKS, marks=pytest.mark.raises_code("plugin_prepare_turn")),
        pytest.param(Hook.AT_CHECKPOINT, Phase.FINALIZE_TURN, marks=pytest.mark.raises_code("plugin_checkpoint")),
        pytest.param(Hook.AFTER_TURN, Phase.FINALIZE_TURN, marks=pytest.mark.raises_code("plugin_finalize_turn")),
        (Hook.TURN_PERSISTED, Phase.FINALIZE_TURN),
        (None, Phase.FINALIZE_TURN),
    ],
)
def test_a_phase_that_fails_ends_and_the_turn_is_committed(
    stage: Stage, probe: Probe, hook: Hook | None, last: Phase
) -> None:
    plugins = [] if hook is None else [plugin({hook: raises})]
    instructions: Callable[[TurnContext], str] | str = broken if hook is None else "Answer."
    stage.agents = [agent(look, plugins=plugins, instructions=instructions)]
    turn = stage.answer("go")
    assert turn.ok == (hook is Hook.TURN_PERSISTED)
    probe.assert_balanced()
    before = list(takewhile(lambda told: told[1] != Phase.PERSIST_TURN, probe.phases))
    assert before == NORMAL[: NORMAL.index(("end", last)) + 1]
    assert probe.phases[len(before) :] == NORMAL[NORMAL.index(("begin", Phase.PERSIST_TURN)) :]


@pytest.mark.shows("P1")
def test_a_model_that_raises_and_a_commit_that_fails_end_their_phases(stage: Stage, probe: Probe) -> None:
    class Down(TurnsBetween):
        def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
            raise RuntimeError("a bug")

    def fails(call: object, interrupt: object) -> None:
        raise StoreUnavailable("the database cannot be reached")

    stage.agents, stage.model = [agent()], Model(before=fails)
    stage.send("Hello")
    with pytest.raises(StoreUnavailable):
        stage.run()
    assert probe.phases == NORMAL[:8]
    probe.told.clear()
    stage.model = Model()
    with pytest.raises(RuntimeError, match="a bug"):
        stage.run(wrap=lambda stores: replace(stores, turns=Down(stores.turns)))
    assert probe.phases == [*NORMAL[:13], NORMAL[-1]]


def test_input_at_the_very_end_takes_the_turn_back_into_its_loop(stage: Stage, probe: Probe) -> None:
    joined: list[str] = []

    def meanwhile(ctx: HookContext) -> Directives:
        if not joined:
            joined.append(stage.inject("me too"))
        return EnqueueMessages((PluginMessage("noted"),))

    stage.agents = [agent(plugins=[plugin({Hook.AFTER_TURN: meanwhile})])]
    assert stage.answer("Hello").text == "You said: me too"
    probe.assert_balanced()
    names = [phase for what, phase in probe.phases if what == "begin"]
    again = [Phase.EFFECT_LOOP, Phase.FINALIZE_TURN, Phase.PERSIST_TURN, Phase.FINAL_COMMIT]
    once = [phase for what, phase in NORMAL if what == "begin"][:-1]
    assert names == [*once, *again, Phase.POST_PERSIST_HOOKS]


def test_a_probe_that_fails_harms_nobody(stage: Stage) -> None:
    class Broken:
        def begin(self, session_id: SessionId, turn_id: TurnId, phase: str) -> None:
            raise ValueError("no")

        end = begin

    stage.probe = Broken()
    assert stage.answer("Hello").ok
