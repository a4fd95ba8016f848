"""Which order follows which fact, under which effect id; a fact that answers nothing changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.messages import TextPart
from lash_tasks.domain.turns import IssueKind, StopKind, TurnIssue, finished, stopped
from lash_tasks.machine.effects import (
    FINISH,
    CallModel,
    CheckpointKind,
    Effect,
    Finish,
    InstructionsRendered,
    RenderInstructions,
    Reply,
    RunTools,
    TakeCheckpoint,
    ToolsReturned,
    TurnHalted,
)
from lash_tasks.machine.projection import Transcript
from lash_tasks.machine.state import Step
from lash_tasks.machine.turn import advance, begin, reopen
from tests.machine.turns import (
    AGENT,
    CANCELLED,
    NOTHING,
    RENDERED,
    answers,
    call,
    intent,
    joins,
    last,
    play,
    queued,
    returned,
    start,
)


def ids(effects: list[Effect]) -> list[tuple[int, str]]:
    """Effect id and kind of each order, the kind as it stands in the replay key."""
    return [(effect.effect_id, effect.key.split(":")[4]) for effect in effects if not isinstance(effect, Finish)]


def test_the_effect_ids_of_a_turn_without_tools() -> None:
    _, effects = play(start(agent=RENDERED), InstructionsRendered("Be brief."), answers("Hi."), NOTHING)

    assert ids(effects) == [(1, "sync_execution_environment"), (2, "llm_call"), (3, "checkpoint")]
    assert isinstance(effects[-1], Finish)


def test_the_effect_ids_of_a_turn_with_a_tool_round() -> None:
    """Id 5 is the place of a second sync, which asks for nothing: instructions are pinned for the whole turn."""
    _, effects = play(
        start(agent=RENDERED), InstructionsRendered("."), answers(call()), returned("ok"), NOTHING, answers("Hi.")
    )

    assert ids(effects) == [
        (1, "sync_execution_environment"),
        (2, "llm_call"),
        (3, "tool_batch"),
        (4, "checkpoint"),
        (6, "llm_call"),
        (7, "checkpoint"),
    ]


def test_plain_instructions_leave_the_same_places_empty() -> None:
    _, effects = play(start(), answers(call()), returned("ok"), NOTHING, answers("Hi."), NOTHING)

    assert ids(effects) == [(2, "llm_call"), (3, "tool_batch"), (4, "checkpoint"), (6, "llm_call"), (7, "checkpoint")]


def test_the_replay_keys_of_a_turn() -> None:
    """Session, turn, turn index, iteration, kind, effect id; the iteration rises with the results of a round."""
    _, effects = play(start(turn_index=3), answers(call("x"), call("y")), returned("ok", "ok"), NOTHING, answers("Hi."))
    keys = [effect.key for effect in effects if not isinstance(effect, Finish)]

    assert keys == [
        "s1:t1:3:0:llm_call:2",
        "s1:t1:3:0:tool_batch:3",
        "s1:t1:3:1:checkpoint:4",
        "s1:t1:3:1:llm_call:6",
        "s1:t1:3:1:checkpoint:7",
    ]
    assert isinstance(effects[1], RunTools)
    assert [planned.key for planned in effects[1].calls] == [
        "s1:t1:3:0:tool_batch:3:child:0:x:attempt:1",
        "s1:t1:3:0:tool_batch:3:child:1:y:attempt:1",
    ]


def test_the_envelopes_of_machine_version_1() -> None:
    """Journals hold these bytes. If they change, a turn that is under way at a deployment ends as a mismatch."""
    _, effects = play(
        start(agent=RENDERED),
        InstructionsRendered("Be brief."),
        answers(call("x", "lookup", '{"b":1}')),
        returned("ok"),
    )
    render, model, tools, checkpoint = effects
    assert isinstance(render, RenderInstructions)
    assert isinstance(model, CallModel)
    assert isinstance(tools, RunTools)
    assert isinstance(checkpoint, TakeCheckpoint)

    assert render.envelope.to_bytes().decode() == (
        '{"kind":"sync_execution_environment","request":{"agent":"support","agent_ref":"' + RENDERED.ref() + '"}}'
    )
    assert model.envelope.to_bytes().decode() == (
        '{"kind":"llm_call","request":{"base_revision":4,"messages":["4b57bbb9be81e803"],'
        '"model":"scripted:x","system":"fecef222d7732bb7","tools":"5fb864e55f0a8bec"}}'
    )
    assert tools.calls[0].envelope.to_bytes().decode() == (
        '{"kind":"tool_attempt","request":{"arguments":{"b":1},"attempt":1,"call_id":"x","tool":"lookup"}}'
    )
    assert checkpoint.envelope.to_bytes() == b'{"kind":"checkpoint","request":{"checkpoint":"after_work"}}'


def test_a_model_call_is_pinned_to_every_message_of_its_turn() -> None:
    """A change of an early message is noticed at every later call, not only at the one behind it."""

    def pinned(text: str) -> JsonValue:
        second = last(CallModel, start(text), answers(call()), returned("ok"), NOTHING)
        return second.envelope.request["messages"]

    assert len(pinned("Hello")) == 3
    assert pinned("Hello")[0] != pinned("Good morning")[0]
    assert pinned("Hello")[1:] == pinned("Good morning")[1:]


AT_INSTRUCTIONS = start(agent=RENDERED)
AT_MODEL = start()
AT_TOOLS = advance(AT_MODEL[0], answers(call("x"), call("y")))
AT_AFTER_WORK = advance(AT_TOOLS[0], returned("ok", "ok"))
AT_COMPLETION = advance(AT_MODEL[0], answers("Hi."))
AT_END = advance(AT_COMPLETION[0], NOTHING)
STATES = [AT_INSTRUCTIONS, AT_MODEL, AT_TOOLS, AT_AFTER_WORK, AT_COMPLETION, AT_END]
FACTS: list[Reply] = [InstructionsRendered("Be brief."), answers("Hi."), returned("ok", "ok"), NOTHING]


def name(value: object) -> str:
    step = value if isinstance(value, tuple) else (None, value)
    return type(step[1]).__name__


@pytest.mark.parametrize("state", STATES, ids=name)
@pytest.mark.parametrize("fact", FACTS, ids=name)
def test_only_the_fact_that_answers_an_order_moves_the_turn(state: Step, fact: Reply) -> None:
    turn, order = state
    expected = {
        RenderInstructions: InstructionsRendered,
        CallModel: type(answers()),
        RunTools: ToolsReturned,
        TakeCheckpoint: type(NOTHING),
        Finish: None,
    }[type(order)]

    after, given = advance(turn, fact)

    if expected is type(fact):
        assert after != turn
        assert given != order
    else:
        assert (after, given) == (turn, order)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_that_are_not_one_per_call_answer_nothing(count: int) -> None:
    turn, order = AT_TOOLS

    assert advance(turn, returned(*["ok"] * count)) == (turn, order)


@pytest.mark.parametrize("state", STATES[:-1], ids=name)
def test_a_halt_ends_the_turn_wherever_it_is(state: Step) -> None:
    issue = TurnIssue(IssueKind.RUNTIME, "turn_time_exceeded", "too long")

    turn, order = advance(state[0], TurnHalted(StopKind.RUNTIME_ERROR, issue))

    assert order is FINISH
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert turn.issues == (issue,)
    assert advance(turn, CANCELLED) == (turn, FINISH)


def test_orders_lead_where_the_diagram_says() -> None:
    """The drawing at the top of the machine, row by row."""
    assert last(CallModel, AT_INSTRUCTIONS, InstructionsRendered("Be brief."))
    assert last(RunTools, AT_MODEL, answers(call()))
    assert last(TakeCheckpoint, AT_MODEL, answers("Hi.")).kind is CheckpointKind.BEFORE_COMPLETION
    assert last(Finish, AT_MODEL, answers())
    assert last(TakeCheckpoint, AT_TOOLS, returned("ok", "ok")).kind is CheckpointKind.AFTER_WORK
    assert last(Finish, start(agent=replace(AGENT, max_iterations=1)), answers(call()), returned("ok"))
    assert last(CallModel, AT_AFTER_WORK, NOTHING)
    assert last(CallModel, AT_COMPLETION, joins("And me?"))
    assert last(Finish, AT_COMPLETION, NOTHING)


def test_instructions_that_cannot_be_rendered_end_the_turn() -> None:
    turn, _ = play(AT_INSTRUCTIONS, InstructionsRendered(problem="the instructions raised KeyError"))

    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert [(issue.code, issue.message) for issue in turn.issues] == [
        ("instructions_failed", "the instructions raised KeyError")
    ]


def test_instructions_without_text_and_without_a_reason_end_the_turn_too() -> None:
    turn, _ = play(AT_INSTRUCTIONS, InstructionsRendered())

    assert [issue.message for issue in turn.issues] == ["the agent's instructions could not be rendered"]


def test_empty_instructions_are_instructions() -> None:
    assert last(CallModel, AT_INSTRUCTIONS, InstructionsRendered("")).request.system == ""


def test_rendered_instructions_are_those_of_every_call_of_the_turn() -> None:
    step = play(AT_INSTRUCTIONS, InstructionsRendered("Be brief."), answers(call()), returned("ok"))[0]

    assert last(CallModel, (step, FINISH), NOTHING).request.system == "Be brief."


def test_inputs_that_start_a_turn_together_are_a_message_each() -> None:
    turn, _ = start("a", "b", turn_index=7)

    assert [message.id for message in turn.added] == ["m7.0", "m7.1"]
    assert (
        turn.added
        == begin(intent(turn_index=7), AGENT, Transcript(), [queued(TextPart("a")), queued(TextPart("b"))])[0].added
    )


def test_a_finished_turn_that_is_opened_again_takes_what_arrived() -> None:
    """The commit found input that may join: the turn goes on from its last checkpoint as if it had joined there."""
    finished_turn, _ = AT_END
    checkpoint = AT_COMPLETION[1]
    assert isinstance(checkpoint, TakeCheckpoint)

    again = reopen(finished_turn, checkpoint)

    assert play(again, NOTHING)[0] == finished_turn
    assert play(again, joins("And me?")) == (
        play(AT_COMPLETION, joins("And me?"))[0],
        [checkpoint, last(CallModel, AT_COMPLETION, joins("And me?"))],
    )
    assert finished_turn.outcome == finished("Hi.")
