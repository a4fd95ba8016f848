"""Commands to a session, from the door to what they leave behind."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks import SwitchFrame, tool
from lash_tasks.domain.frames import FrameStatus, initial_frame_id
from lash_tasks.domain.ids import BatchId, fence_scope
from lash_tasks.domain.messages import TextPart, text_of
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import MAX_ATTEMPTS, AssembledTurn, Finished, outcome_kind
from lash_tasks.domain.wakes import QueuedWake
from lash_tasks.errors import (
    BlankCommandKey,
    ErrorCode,
    IdempotencyConflict,
    InvalidInput,
    LashError,
    PayloadTooLarge,
    SessionDeleted,
)
from lash_tasks.machine.requests import ModelRequest
from lash_tasks.plugins.plugin import HookContext, Plugin
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CommandRequest
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.stores.memory import open_memory_stores
from lash_tasks.stores.sql import tables
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import AGENT, SESSION, DieAt, Stage, agent


def order(stage: Stage, kind: str, key: str | None = "k1", **arguments: Any) -> BatchId:
    """Send a command to SESSION; the batch's id."""
    values = {"session_id": SESSION, "kind": kind, "arguments": arguments, "idempotency_key": key, "agent": AGENT}
    with stage.ingress() as ingress:
        return ingress.command(CommandRequest.parse(values)).id


def texts(request: ModelRequest) -> list[str]:
    return [part.text for message in request.messages for part in message.parts if isinstance(part, TextPart)]


def shown(stage: Stage) -> list[str]:
    """What the next turn's model is shown of the past."""
    stage.answer("and now?")
    assert isinstance(stage.model, Model)
    return texts(stage.model.requests[-1])[:-1]


def outputs(stage: Stage) -> list[Any]:
    """What the committed turns of commands did, oldest first."""
    return [turn.output for turn in stage.results() if turn.output is not None]


def stored_spec(stage: Stage) -> str | None:
    spec: str | None = stage.rows(tables.sessions)[0]["spec"]
    return spec


# ---------------------------------------------------------------- at the door


@pytest.mark.shows("K1")
def test_a_key_used_twice_is_one_batch_with_the_exact_source_key(stage: Stage) -> None:
    first = order(stage, "refresh_tool_catalog", reason="deploy")
    assert order(stage, "refresh_tool_catalog", reason="deploy") == first
    [row] = stage.rows(tables.batches)
    assert (row["id"], row["source_key"], row["kind"]) == (first, "command:refresh_tool_catalog:k1", "command")
    with pytest.raises(IdempotencyConflict):
        order(stage, "refresh_tool_catalog", reason="another")
    assert order(stage, "reset_session") != first


@pytest.mark.raises_code("session_command_idempotency_key")
@pytest.mark.shows("K2")
@pytest.mark.parametrize("key", ["", "  "])
def test_a_blank_key_is_refused(stage: Stage, key: str) -> None:
    with pytest.raises(BlankCommandKey) as refused:
        order(stage, "reset_session", key)
    assert refused.value.code is ErrorCode.SESSION_COMMAND_IDEMPOTENCY_KEY
    assert stage.rows(tables.batches) == []


@pytest.mark.parametrize(
    ("kind", "arguments", "field"),
    [
        ("shut_down", {}, "kind"),
        ("reset_session", {"reason": 7}, "arguments.reason"),
        ("reset_session", {"because": "x"}, "arguments.because"),
        ("configure_session", {}, "arguments.spec"),
        ("configure_session", {"spec": {"provider": {}}}, "arguments.spec.provider"),
        ("branch_to_node", {}, "arguments.node_id"),
        ("append_session_nodes", {"nodes": []}, "arguments.nodes"),
        ("append_session_nodes", {"nodes": [{"role": "user"}]}, "arguments.nodes"),
        ("reset_session", {"\ud800": "which no error could be printed with"}, "arguments.?"),
    ],
)
def test_a_bad_command_is_refused_by_its_field(stage: Stage, kind: str, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        order(stage, kind, **arguments)
    assert refused.value.field == field
    assert stage.rows(tables.batches) == []


def test_a_command_may_be_no_larger_than_an_input(stage: Stage) -> None:
    """One of 20 MB got in, and every later turn of its session read it."""
    words = "x" * stage.settings.max_payload_bytes
    for kind, arguments in (
        ("append_session_nodes", {"nodes": [words]}),
        ("configure_session", {"spec": {"options": {"extra": {"words": words}}}}),
    ):
        with pytest.raises(PayloadTooLarge) as refused:
            order(stage, kind, **arguments)
        assert refused.value.field == "arguments"
    assert stage.rows(tables.batches) == []


def test_without_an_agent_a_command_is_for_the_one_of_the_session(stage: Stage) -> None:
    values = {"session_id": SESSION, "kind": "reset_session", "idempotency_key": "k"}
    with stage.ingress() as ingress:
        with pytest.raises(InvalidInput, match="agent: is required"):
            ingress.command(CommandRequest.parse(values))
        stage.answer("hello")
        ingress.command(CommandRequest.parse(values))
    stage.run_all()
    assert outputs(stage) == [{"command": "reset_session"}]


# ---------------------------------------------------------------- in their order


@pytest.mark.shows("K2")
def test_commands_run_in_their_order_and_never_past_input_before_them(stage: Stage) -> None:
    stage.model = model = Model()
    stage.send("one")
    order(stage, "configure_session", spec={"instructions": "Be brief."})
    order(stage, "reset_session")
    stage.send("two")
    stage.run_all()
    assert [turn.turn_index for turn in stage.results()] == [1, 2, 3, 4]
    assert [output["command"] for output in outputs(stage)] == ["configure_session", "reset_session"]
    first, second = model.requests
    assert first.system == "Answer."
    assert second.system == "Answer.\n\nBe brief."
    assert texts(second) == ["two"]


def test_a_command_makes_no_model_call_and_leaves_no_message_and_no_usage(stage: Stage) -> None:
    stage.model = model = Model()
    order(stage, "refresh_tool_catalog")
    stage.run_all()
    turn = stage.last()
    assert isinstance(turn.outcome, Finished)
    assert (turn.text, turn.tool_calls, turn.token_usage.total_tokens) == ("", (), 0)
    assert model.requests == []
    assert stage.rows(tables.nodes) == stage.rows(tables.usage) == []


def test_a_command_joins_no_turn_and_nothing_joins_it(stage: Stage) -> None:
    order(stage, "refresh_tool_catalog")
    stage.inject("steered")
    stage.run_all()
    command, answer = stage.results()
    assert (command.output or {})["command"] == "refresh_tool_catalog"
    assert answer.text == "You said: steered"


# ---------------------------------------------------------------- what they do


@pytest.mark.shows("K4")
def test_a_reset_shows_nothing_of_before_and_keeps_policy_and_usage(stage: Stage) -> None:
    stage.model = Model()
    order(stage, "configure_session", spec={"max_turns": 3})
    stage.answer("hello")
    with stage.reading() as stores:
        usage = stores.sessions.usage(SESSION)
        before = stores.sessions.head(SESSION)
    order(stage, "reset_session", reason="a new customer")
    stage.run_all()
    with stage.reading() as stores:
        after = stores.sessions.head(SESSION)
        assert stores.sessions.usage(SESSION) == usage
        assert stores.queue.waiting(SESSION) == []
    assert before is not None
    assert after is not None
    assert after.head_revision == before.head_revision + 1
    assert after.spec == before.spec
    assert shown(stage) == []
    assert outputs(stage)[-1] == {"command": "reset_session", "reason": "a new customer"}


def test_configuring_tells_the_previous_and_the_current_policy(stage: Stage) -> None:
    order(stage, "configure_session", "k1", spec={"model": "test:other", "max_turns": None})
    order(stage, "configure_session", "k2", spec={"model": "test:other"})
    stage.run_all()
    first, second = outputs(stage)
    assert (first["changed"], second["changed"]) == (True, False)
    assert (first["previous"]["model"], first["current"]["model"]) == ("test:test", "test:other")
    assert (first["previous"]["max_turns"], first["current"]["max_turns"]) == (20, None)
    assert second["previous"] == second["current"] == first["current"]
    assert stored_spec(stage) == '{"max_turns":null,"model":"test:other"}'


class Counter(Plugin):
    """Remembers how many turns it has seen."""

    id = "counter"

    def before_turn(self, ctx: HookContext) -> None:
        ctx.memory = (ctx.memory or 0) + 1


def test_a_reset_lets_plugins_forget(stage: Stage) -> None:
    stage.agents = [agent(plugins=[Counter()])]
    stage.answer("one")
    assert len(stage.rows(tables.states)) == 1
    order(stage, "reset_session")
    stage.run_all()
    assert stage.rows(tables.states) == []
    stage.assert_usable()


@pytest.mark.shows("S10")
def test_a_provider_that_is_not_there_is_an_issue_of_the_turn_and_the_session_goes_on(stage: Stage) -> None:
    stage.shared, stage.model = open_memory_stores(), Model()
    order(stage, "configure_session", "k1", spec={"model": "nowhere:gpt"})
    turn = stage.answer("hello")
    assert (turn.ok, stage.model.requests) == (False, [])
    assert stage.shared.leases.held([fence_scope(SESSION)]) == frozenset()
    assert [issue.kind.value for issue in turn.errors] == ["llm_provider"]
    order(stage, "configure_session", "k2", spec={"model": None})
    stage.run_all()
    stage.assert_usable()


@pytest.mark.shows("P3")
def test_the_model_of_one_input_answers_its_turn_and_no_other(stage: Stage) -> None:
    ours, other = Model(), Model()
    stage.model, stage.providers = ours, {"other": other}
    stage.send("one", model=" other : test ")
    stage.send("two")
    stage.run_all()
    assert len(other.requests) == len(ours.requests) == 1
    assert stored_spec(stage) is None
    assert stage.last().text == "You said: two"


def test_tools_that_a_session_may_not_use_are_not_offered_and_not_called(stage: Stage) -> None:
    ran: list[str] = []

    @tool
    def look() -> str:
        """Look."""
        ran.append("look")
        return "seen"

    @tool
    def charge() -> str:
        """Charge."""
        ran.append("charge")
        return "charged"

    stage.agents = [agent(look, charge)]
    stage.model = model = Model(script({"go": [calls(("charge", "")), says("done")]}))
    order(stage, "configure_session", spec={"tools": ["look", "gone"]})
    turn = stage.answer("go")
    assert [spec.name for spec in model.requests[0].tools] == ["look"]
    assert turn.tool_calls[0].outcome.failure is not None
    assert turn.tool_calls[0].outcome.failure.code == ErrorCode.TOOL_UNAVAILABLE
    assert ran == []
    assert outputs(stage)[0]["current"]["orphaned_tools"] == ["gone"]


@pytest.mark.shows("S7")
def test_a_refreshed_catalog_tells_what_there_is_and_what_is_off(stage: Stage) -> None:
    @tool
    def look() -> str:
        """Look."""
        return "seen"

    stage.agents = [agent(look)]
    stage.answer("hello")
    order(stage, "configure_session", spec={"tools": ["look"]})
    order(stage, "refresh_tool_catalog", "k2")
    stage.run_all()
    stage.agents = [agent()]
    order(stage, "refresh_tool_catalog", "k3")
    stage.run_all()
    with_tool, without = outputs(stage)[1:]
    assert (with_tool["tools"], with_tool["orphaned_tools"]) == (["look"], [])
    assert (without["tools"], without["orphaned_tools"]) == ([], ["look"])
    assert with_tool["agent_ref"] != without["agent_ref"]
    assert shown(stage) == ["hello", "You said: hello"]


def test_a_branch_goes_on_from_an_earlier_node(stage: Stage) -> None:
    stage.model = Model()
    stage.answer("one")
    [_, answer] = stage.messages()
    stage.answer("two")
    order(stage, "branch_to_node", node_id=answer.id)
    stage.run_all()
    assert shown(stage) == ["one", "You said: one"]
    order(stage, "branch_to_node", "k2", node_id=None)
    stage.run_all()
    assert shown(stage) == []


def test_a_branch_to_a_node_that_is_not_there_is_said_and_changes_nothing(stage: Stage) -> None:
    stage.model = Model()
    stage.answer("one")
    order(stage, "branch_to_node", node_id="m99.0")
    stage.run_all()
    turn = stage.last()
    assert (turn.ok, [issue.code for issue in turn.errors]) == (False, [ErrorCode.NOT_FOUND])
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    assert shown(stage) == ["one", "You said: one"]


def test_a_branch_to_a_node_of_a_frame_that_was_left_goes_on_in_that_frame(stage: Stage) -> None:
    """The session went to the node and stayed in its frame, in which no node of the way to it lies. It showed nothing
    any more, and what was said next hung from nowhere."""

    @tool
    def move() -> SwitchFrame:
        """Go on elsewhere."""
        return SwitchFrame("the task")

    stage.agents = [agent(move)]
    stage.model = Model(script({"go": [calls(("move", ""))]}))
    stage.answer("one")
    stage.answer("go")
    order(stage, "branch_to_node", node_id="m1.1")
    stage.run_all()
    assert shown(stage) == ["one", "You said: one"]
    with stage.reading() as stores:
        active = [frame.frame_id for frame in stores.frames.frames(SESSION) if frame.status is FrameStatus.ACTIVE]
        assert active == [initial_frame_id(SESSION)]
        path = [stored.node.node_id for stored in stores.graph.path(SESSION).nodes]
    assert path[:2] == ["m1.0", "m1.1"]


@pytest.mark.shows("G8")
def test_appending_below_an_ancestor_off_the_path_is_stale_and_writes_nothing(stage: Stage) -> None:
    stage.model = Model()
    stage.answer("one")
    said = {"nodes": ["told elsewhere", {"role": "assistant", "text": "noted"}]}
    order(stage, "append_session_nodes", "k1", **said, requires_ancestor_node_id="m1.0")
    order(stage, "append_session_nodes", "k2", **said, requires_ancestor_node_id="m9.9")
    stage.run_all()
    appended, stale = outputs(stage)
    assert appended["status"] == "appended"
    assert appended["leaf_node_id"] == appended["node_ids"][-1]
    assert (stale["status"], stale["current_leaf_node_id"]) == ("stale_branch", appended["leaf_node_id"])
    assert shown(stage) == ["one", "You said: one", "told elsewhere", "noted"]


@pytest.mark.shows("G8")
def test_a_node_of_a_branch_that_was_left_is_no_ancestor_on_the_path(stage: Stage) -> None:
    for text in ("one", "two"):
        stage.answer(text)
    order(stage, "branch_to_node", "k1", node_id="m1.1")
    order(stage, "append_session_nodes", "k2", nodes=["noted"], requires_ancestor_node_id="m2.0")
    stage.run_all()
    stale = outputs(stage)[-1]
    assert (stale["status"], stale["current_leaf_node_id"]) == ("stale_branch", "m1.1")
    assert [text_of(message) for message in stage.messages()] == ["one", "You said: one"]


@pytest.mark.shows("P16")
def test_a_plugin_appends_by_a_command_once_the_turn_is_committed(stage: Stage) -> None:
    class Notes(Plugin):
        """Notes each answer behind it."""

        id = "notes"

        def turn_persisted(self, ctx: HookContext, turn: AssembledTurn) -> None:
            order(stage, "append_session_nodes", f"note-{turn.turn_id}", nodes=[f"noted: {turn.text}"])

    stage.agents = [agent(plugins=[Notes()])]
    turn = stage.answer("hello")
    assert (turn.output or {})["status"] == "appended"
    assert [text_of(message) for message in stage.messages()] == [
        "hello",
        "You said: hello",
        "noted: You said: hello",
    ]
    assert [turn.text for turn in stage.results()] == ["You said: hello", ""]


# ---------------------------------------------------------------- when things go wrong


@pytest.mark.shows("K3")
def test_a_command_whose_fence_is_over_writes_nothing(stage: Stage) -> None:
    def take_over(point: CrashPoint) -> None:
        if point is CrashPoint.BEFORE_COMMIT:
            stage.execute("UPDATE lash_fences SET fence = fence + 1")

    order(stage, "configure_session", spec={"max_turns": 1})
    assert stage.run(take_over) is RunVerdict.FENCED
    assert stored_spec(stage) is None
    stage.run_all()
    assert stored_spec(stage) == '{"max_turns":1}'


@pytest.mark.shows("K5")
@pytest.mark.parametrize("point", [CrashPoint.AFTER_COMMIT, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_OPEN])
def test_a_command_takes_effect_once_wherever_its_worker_dies(stage: Stage, point: CrashPoint) -> None:
    stage.answer("one")
    order(stage, "append_session_nodes", nodes=["noted"])
    assert stage.run(DieAt(point)) is None
    stage.run_all()
    assert stage.run() is RunVerdict.NOTHING
    assert [text_of(message) for message in stage.messages()].count("noted") == 1
    assert len(stage.results()) == 2


@pytest.mark.shows("K6")
def test_a_command_that_fails_is_attempted_five_times_and_given_up_and_the_input_behind_it_runs(stage: Stage) -> None:
    broken = order(stage, "reset_session")
    stage.execute("UPDATE lash_batches SET payload = :payload", payload=b"{}")
    stage.send("behind")
    raised = 0
    for _ in range(3 * MAX_ATTEMPTS):
        try:
            stage.run_all()
            break
        except LashError:
            raised += 1
    assert raised == MAX_ATTEMPTS
    dead, answered = stage.results()
    assert [issue.code for issue in dead.errors] == [ErrorCode.ATTEMPTS_EXHAUSTED]
    assert answered.text == "You said: behind"
    assert stage.states()[broken] is BatchState.DEAD


def test_a_command_that_is_cancelled_while_it_runs_changes_nothing(stage: Stage) -> None:
    order(stage, "configure_session", spec={"max_turns": 1})
    stage.run(DieAt(CrashPoint.AFTER_OPEN))
    stage.cancel()
    stage.run_all()
    assert stored_spec(stage) is None
    assert outcome_kind(stage.last().outcome) == "cancelled"


@pytest.mark.shows("S18")
def test_a_command_to_a_deleted_session_is_refused(stage: Stage) -> None:
    stage.answer("hello")
    with stage.reading() as stores:
        stores.sessions.delete(SESSION)
    with pytest.raises(SessionDeleted):
        order(stage, "reset_session")


@pytest.mark.shows("S18")
def test_a_turn_whose_session_is_deleted_under_it_writes_nothing_and_brings_nothing_back(stage: Stage) -> None:
    def delete(call: ModelCall, interrupt: Interrupt) -> None:
        with stage.reading() as stores:
            stores.sessions.delete(SESSION)

    stage.model = Model(before=delete)
    stage.send("hello")
    assert stage.run() is RunVerdict.FENCED
    for table in (tables.nodes, tables.turns, tables.batches, tables.effects, tables.usage):
        assert stage.rows(table) == []
    assert stage.run() is RunVerdict.NOTHING


@pytest.mark.shows("S19")
def test_a_wake_to_a_deleted_session_is_no_failure_and_does_not_bring_it_back(stage: Stage) -> None:
    stage.answer("hello")
    with stage.reading() as stores:
        stores.sessions.delete(SESSION)
    wake = QueuedWake(agent=AGENT, process_id="p1", event_type="done", sequence=1, wake_id="w1", text="it is done")
    with stage.ingress() as ingress:
        assert ingress.wake(SESSION, wake) is None
    assert stage.rows(tables.batches) == []
    assert stage.run() is RunVerdict.NOTHING
    [row] = stage.rows(tables.sessions)
    assert row["deleted_at_ms"] is not None
