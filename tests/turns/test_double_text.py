"""Input for a session that is at work, by each of the rules it can be sent under, in whole turns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lash_tasks import ToolContext, tool
from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.ids import BatchId
from lash_tasks.domain.messages import Role, TextPart, ToolResultPart, text_of, unanswered_calls
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.errors import SessionBusy
from lash_tasks.observation.listening import Sources
from lash_tasks.observation.receipts import read_status, wait_for_run
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.stores.sql import tables
from tests.services import wait_until
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import SESSION, Death, Stage, agent
from tests.turns.test_live_events import Watched

ROUND = [calls(("look", '{"at": "a"}')), says("all is well")]
ECHO = "You said: {}".format


@tool
def look(at: str) -> str:
    """Look."""
    return f"saw {at}"


def arriving(stage: Stage, *arrivals: Callable[[], object]) -> Model:
    """A model that has each of these happen in one of its calls, in order; `go` asks for a tool first."""
    waiting = list(arrivals)

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if waiting:
            waiting.pop(0)()

    model = Model(script({"go": ROUND}), before)
    stage.agents, stage.model = [agent(look)], model
    return model


def said(stage: Stage) -> list[str]:
    """The texts of the history, tool calls and results aside."""
    return [text for message in stage.messages() if (text := text_of(message))]


def texts_asked(model: Model, call: int) -> list[str]:
    parts = [part for message in model.requests[call].messages for part in message.parts]
    return [part.text for part in parts if isinstance(part, TextPart)]


def batches(stage: Stage) -> list[Mapping[str, object]]:
    return stage.rows(tables.batches)


# ---------------------------------------------------------------- steer


@pytest.mark.shows("P8", "P9")
def test_a_steer_enters_the_running_turn_after_its_round_of_tools_and_is_stored_once(stage: Stage) -> None:
    model = arriving(stage, lambda: stage.send("wait", when="steer", idempotency_key="msg-2"))
    turn = stage.answer("go")
    assert (turn.ok, turn.text) == (True, ECHO("wait"))
    assert texts_asked(model, 1) == ["go", "wait"]
    assert said(stage) == ["go", "wait", ECHO("wait")]
    [steered] = [message for message in stage.messages() if message.origin is not None]
    assert (steered.role, steered.origin and steered.origin.kind) == (Role.USER, "injected")
    assert steered.origin is not None
    assert steered.origin.source_key == "msg-2"
    assert {batch["turn_id"] for batch in batches(stage)} == {turn.turn_id}
    stage.assert_usable()


@pytest.mark.parametrize("when", ["steer", "merge"])
def test_the_receipts_of_inputs_that_share_a_turn_name_the_one_turn(stage: Stage, when: str) -> None:
    key = {"merge_key": "m"} if when == "merge" else {}
    inputs = [stage.send(text, when=when, **key) for text in ("a", "b")]
    if when == "steer":
        arriving(stage, lambda: inputs.append(stage.send("c", when=when)))
    stage.run_all()
    [turn] = stage.results()
    with stage.reading() as stores:
        sources = Sources(queue=stores.queue, sessions=stores.sessions, live=stores.live, clock=stage.clock)
        for input_id in inputs:
            assert str(read_status(sources, SESSION, input_id)) == f"committed({turn.turn_id})"
            assert wait_for_run(sources, SESSION, input_id).final_turn.turn_id == turn.turn_id


@pytest.mark.shows("P8", "P9")
def test_a_steer_that_comes_with_the_answer_is_answered_in_the_same_turn(stage: Stage) -> None:
    model = arriving(stage, lambda: stage.send("and?", when="steer"))
    turn = stage.answer("hello")
    assert turn.text == ECHO("and?")
    assert texts_asked(model, 1) == ["hello", ECHO("hello"), "and?"]
    assert said(stage) == ["hello", ECHO("hello"), "and?", ECHO("and?")]


@pytest.mark.shows("P8", "K11")
def test_those_who_watch_see_what_a_turn_takes_before_it_asks_the_model(stage: Stage) -> None:
    watched = Watched(stage)
    steered: list[str] = []
    arriving(stage, lambda: steered.append(stage.send("wait", when="steer", idempotency_key="msg-2")))
    first = stage.send("go")
    events = [event for event in watched.run() if event.type in TAKING]
    assert [(event.type, event.data) for event in events] == [
        (ActivityType.QUEUED_WORK_STARTED, {"boundary": "idle", "batch_ids": [first]}),
        (ActivityType.MODEL_REQUEST_STARTED, event_data(events[1])),
        (ActivityType.QUEUED_WORK_STARTED, {"boundary": "active_turn_checkpoint", "batch_ids": steered}),
        (
            ActivityType.QUEUED_INPUT_ACCEPTED,
            {
                "checkpoint": "after_work",
                "inputs": [{"id": "msg-2", "input_id": steered[0], "message": "wait"}],
            },
        ),
        (ActivityType.MODEL_REQUEST_STARTED, event_data(events[4])),
    ]


TAKING = {
    ActivityType.QUEUED_WORK_STARTED,
    ActivityType.QUEUED_INPUT_ACCEPTED,
    ActivityType.MODEL_REQUEST_STARTED,
}


def event_data(event: TurnActivity) -> object:
    return event.data


@pytest.mark.shows("Q21", "Q29")
def test_steers_that_wait_together_start_one_turn_and_stay_apart_in_it(stage: Stage) -> None:
    stage.send("a", when="steer")
    stage.send("b", when="steer")
    stage.run_all()
    [turn] = stage.results()
    assert said(stage) == ["a", "b", ECHO("b")]
    assert {batch["turn_id"] for batch in batches(stage)} == {turn.turn_id}


@pytest.mark.shows("Q21")
def test_a_steer_to_an_idle_session_rings(stage: Stage) -> None:
    stage.send("a", when="steer")
    assert stage.rings.sessions == [SESSION]


def test_a_steer_of_another_context_waits_for_a_turn_of_its_own(stage: Stage) -> None:
    arriving(stage, lambda: stage.send("mine", when="steer", context={"user": 2}))
    stage.send("go", context={"user": 1})
    stage.run_all()
    assert said(stage) == ["go", "all is well", "mine", ECHO("mine")]
    assert len(stage.results()) == 2


@pytest.mark.shows("P11")
def test_input_for_after_the_turn_is_not_seen_by_it_and_runs_next(stage: Stage) -> None:
    model = arriving(stage, lambda: stage.send("later"))
    stage.send("go")
    stage.run_all()
    assert texts_asked(model, 1) == ["go"]
    assert said(stage) == ["go", "all is well", "later", ECHO("later")]
    assert len(stage.results()) == 2


@pytest.mark.shows("K8")
def test_ten_inputs_that_come_during_a_turn_run_after_it_in_order_without_another_ring(stage: Stage) -> None:
    words = [f"{number}" for number in range(10)]

    def arrive() -> None:
        for word in words:
            stage.send(word)
        stage.rings.sessions.clear()

    arriving(stage, arrive)
    stage.send("go")
    stage.run()
    while stage.rings.sessions:  # its worker's own, if it has stayed long enough
        stage.rings.sessions.clear()
        stage.run()
    answers = [turn.text for turn in stage.results()]
    assert answers == ["all is well", *map(ECHO, words)]


# ---------------------------------------------------------------- merge, reject


def test_neighbours_of_one_merge_key_share_a_turn_and_others_do_not(stage: Stage) -> None:
    first = stage.send("a", when="merge", merge_key="m")
    stage.send("b", when="merge", merge_key="m")
    stage.send("c", when="merge", merge_key="n")
    stage.send("d", when="merge", merge_key="m")
    stage.run_all()
    assert [turn.text for turn in stage.results()] == [ECHO("b"), ECHO("c"), ECHO("d")]
    assert said(stage)[:3] == ["a", "b", ECHO("b")]
    assert first in stage.states()


def test_input_that_merges_does_not_enter_the_running_turn(stage: Stage) -> None:
    arriving(stage, lambda: stage.send("later", when="merge", merge_key="m"))
    stage.send("go")
    stage.run_all()
    assert said(stage) == ["go", "all is well", "later", ECHO("later")]


def test_a_rejected_input_leaves_nothing(stage: Stage) -> None:
    refused: list[type[Exception]] = []

    def send() -> None:
        try:
            stage.send("later", when="reject")
        except SessionBusy as busy:
            refused.append(type(busy))

    arriving(stage, send)
    stage.answer("go")
    assert refused == [SessionBusy]
    assert said(stage) == ["go", "all is well"]
    assert stage.answer("now", when="reject").text == ECHO("now")


# ---------------------------------------------------------------- interrupt


def test_an_interruption_in_a_round_of_tools_leaves_no_call_without_a_result_and_goes_first(stage: Stage) -> None:
    begun = threading.Barrier(2)

    @tool
    def look(at: str, ctx: ToolContext) -> str:
        """Look."""
        begun.wait(20)
        if at == "a":
            stage.send("later")
            stage.send("stop", when="interrupt")
            return "saw a"
        wait_until(lambda: ctx.cancelled, 20, "the tool to be told")
        return "late"

    stage.agents = [agent(look)]
    stage.model = Model(script({"go": [calls(("look", '{"at": "a"}'), ("look", '{"at": "b"}'))]}))
    stage.send("go")
    stage.run_all()
    first, second, third = stage.results()
    assert first.outcome == stopped(StopKind.CANCELLED)
    assert (second.text, third.text) == (ECHO("stop"), ECHO("later"))
    results = [part for message in stage.messages() for part in message.parts if isinstance(part, ToolResultPart)]
    assert [part.text.splitlines()[0] for part in results] == ["saw a", "[Tool execution cancelled]"]
    stage.assert_usable()


def test_an_interruption_sent_twice_stops_one_turn(stage: Stage) -> None:
    arriving(
        stage,
        lambda: stage.send("stop", when="interrupt", idempotency_key="k"),
        lambda: stage.send("stop", when="interrupt", idempotency_key="k"),
    )
    stage.send("go")
    stage.run_all()
    assert [turn.ok for turn in stage.results()] == [False, True]
    assert said(stage)[-1] == ECHO("stop")


def test_an_interruption_of_a_turn_whose_worker_died_ends_it_and_goes_next(stage: Stage) -> None:
    arriving(stage)
    stage.send("go")
    assert stage.run(Death(CrashPoint.BEFORE_EFFECT)) is None
    stage.send("stop", when="interrupt")
    stage.run_all()
    assert [turn.ok for turn in stage.results()] == [False, True]


# ---------------------------------------------------------------- whatever comes, whenever


@dataclass(frozen=True)
class Arrival:
    place: int | None
    """In which model call it comes; None: in the first turn's round of tools."""
    when: str


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            Arrival,
            st.sampled_from([None, None, 0, 0, 1, 1, 2, 3, 4, 5]),
            st.sampled_from(["queue", "steer", "steer", "interrupt", "merge", "reject"]),
        ),
        max_size=5,
    )
)
def test_whatever_comes_during_a_turn_is_answered_once_and_leaves_no_call_without_a_result(
    stage: Stage, arrivals: list[Arrival]
) -> None:
    before = len(stage.states())
    came: dict[str, tuple[str, BatchId]] = {}
    """What was let in, by its words: the rule that it came under, and its id."""

    def arrive(place: int | None) -> None:
        for number, arrival in enumerate(arrivals):
            words = f"{before}-{number}"
            if arrival.place != place:
                continue
            if arrival.when == "reject":
                with pytest.raises(SessionBusy):
                    stage.send(words, when="reject")
                continue
            key = {"merge_key": "m"} if arrival.when == "merge" else {}
            came[words] = (arrival.when, stage.send(words, when=arrival.when, **key))

    @tool
    def look(at: str) -> str:
        """Look."""
        arrive(None)
        return f"saw {at}"

    arriving(stage, *(partial(arrive, call) for call in range(6)))
    stage.agents = [agent(look)]
    first = stage.send("go")
    stage.run_all()
    history = said(stage)
    assert all(history.count(words) == 1 for words in came)
    assert len(stage.states()) == before + 1 + len(came), "what was refused has left something"
    assert not [words for words in history if words.startswith(f"{before}-") and words not in came]
    assert unanswered_calls(tuple(stage.messages())) == ()
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    if "interrupt" not in (rule for rule, _ in came.values()):
        # Whoever steers while nothing else waits is answered by the turn that runs.
        turn_of = {row["id"]: row["turn_id"] for row in batches(stage)}
        steered = takewhile(lambda one: one[0] == "steer", came.values())
        assert {turn_of[id_] for _, id_ in steered} <= {turn_of[first]}
