"""A tool switches the frame: the run goes on with its task in a frame that begins with its seeds alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text as sql

from lash_tasks import EnqueueMessages, HookContext, Plugin, PluginMessage, SwitchFrame, tool
from lash_tasks.clock import SystemClock
from lash_tasks.domain.codec import canonical
from lash_tasks.domain.founding import NewSession
from lash_tasks.domain.frames import MAX_FRAME_SWITCHES, FrameRecord, FrameStatus, initial_frame_id
from lash_tasks.domain.hooks import TurnSummary
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.messages import text_of
from lash_tasks.domain.queue import BatchState, CancelVerdict
from lash_tasks.domain.sessions import transcript
from lash_tasks.domain.turns import AgentFrameSwitch, StopKind, TurnStatus, stopped
from lash_tasks.machine.requests import ModelRequest, ModelResponse
from lash_tasks.plugins.plugin import Directives
from lash_tasks.providers.scripted import RULES, last_user_text
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.runtime.ingress import CancelAnswer, CommandRequest
from lash_tasks.runtime.session_runner import STAY_SECONDS, RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.protocols import CommitRefused, Committed, TurnCommit
from lash_tasks.stores.sql import session_changes, tables
from lash_tasks.stores.sql.caller_connections import CallerConnection
from tests.services import wait_until
from tests.turns.doubles import TurnsBetween
from tests.turns.models import Model, call_number, calls
from tests.turns.stage import AGENT, SESSION, DieAt, Stage, agent, emptied

INITIAL = initial_frame_id(SESSION)


@tool
def go_on(
    task: str, frame: str | None = None, seeds: list[str] | None = None, reason: str = "plan_mode"
) -> SwitchFrame:
    """Go on with a task in another frame."""
    return SwitchFrame(task, frame, seeds or [], reason)


@pytest.fixture
def stage(settings: Settings) -> Iterator[Stage]:
    with Stage(settings=emptied(settings), agents=[agent(go_on)]) as made:
        yield made


def switches(stage: Stage, **arguments: Any) -> None:
    """Let the model call `go_on` with these arguments when a user says `go`, and echo everything else."""

    def rule(request: ModelRequest) -> ModelResponse:
        if last_user_text(request) == "go" and call_number(request) == 1:
            return calls(("go_on", canonical(arguments).decode()))
        return RULES["echo"](request)

    stage.model = Model(rule)


def requests(stage: Stage) -> list[list[str]]:
    """The texts of each request that the model got."""
    assert isinstance(stage.model, Model)
    return [
        [part.text for message in one.messages for part in message.parts if part.type == "text"]
        for one in stage.model.requests
    ]


def frames(stage: Stage) -> list[FrameRecord]:
    with stage.reading() as stores:
        return stores.frames.frames(SESSION)


def shown(stage: Stage, frame_id: str) -> list[str]:
    """The texts of a frame."""
    with stage.reading() as stores:
        messages = transcript(stored.node for stored in stores.frames.history(SESSION, frame_id))
    return [text_of(message) for message in messages if text_of(message)]


# ---------------------------------------------------------------- what a switch does


@pytest.mark.shows("F1", "F6")
def test_the_run_goes_on_in_a_frame_that_shows_its_seeds_alone(stage: Stage) -> None:
    switches(stage, task="book it", frame="plan", seeds=["we want a trip"])
    stage.answer("hello")
    stage.answer("go")

    first, second, third = stage.results()
    assert {turn.session_id for turn in (first, second, third)} == {SESSION}
    assert second.outcome == AgentFrameSwitch("plan", "book it")
    assert (third.ok, third.text) == (True, "You said: book it")
    assert requests(stage)[-1] == ["we want a trip", "book it"]
    assert shown(stage, "plan") == ["we want a trip", "book it", "You said: book it"]
    assert shown(stage, INITIAL) == ["hello", "You said: hello", "go"]
    assert [(frame.frame_id, frame.previous_frame_id, frame.status) for frame in frames(stage)] == [
        (INITIAL, None, FrameStatus.SUPERSEDED),
        ("plan", INITIAL, FrameStatus.ACTIVE),
    ]


def test_later_input_goes_on_in_the_frame_also_on_a_worker_that_knows_nothing(stage: Stage) -> None:
    switches(stage, task="book it", frame="plan")
    stage.answer("go")
    stage.answer("thanks")

    assert requests(stage)[-1] == ["book it", "You said: book it", "thanks"]
    stage.assert_usable()


@pytest.mark.parametrize("reached", [nothing_happens, DieAt(CrashPoint.AFTER_COMMIT)], ids=["warm", "cold"])
def test_a_frame_without_seeds_hangs_from_the_frame_before(stage: Stage, reached: Callable[[CrashPoint], None]) -> None:
    switches(stage, task="book it", frame="plan")
    stage.answer("hello")
    stage.send("go")
    stage.run(reached)
    stage.run_all()
    stage.answer("thanks")
    branch = {"kind": "branch_to_node", "arguments": {"node_id": "m3.1"}, "idempotency_key": "k"}
    with stage.ingress() as ingress:
        ingress.command(CommandRequest.parse({"session_id": SESSION, "agent": AGENT, **branch}))
    stage.answer("bye")

    with stage.reading() as stores:
        path = [text_of(stored.node.message) for stored in stores.graph.path(SESSION).nodes if stored.node.message]
        orphans = stores.graph.orphans(SESSION)
    said = [text for text in path if text]
    assert said == ["hello", "You said: hello", "go", "book it", "You said: book it", "bye", "You said: bye"]
    assert [node_id.partition(".")[0] for node_id in orphans] == ["m4", "m4"]
    assert requests(stage)[-1] == ["book it", "You said: book it", "bye"]


def test_a_worker_that_keeps_the_session_warm_forgets_the_frame_it_left(stage: Stage) -> None:
    switches(stage, task="book it", frame="plan", seeds=["so far"])
    stage.send("hello")
    stage.send("go")
    stage.send("thanks")
    with stage.worker() as parts:
        while parts.running.sessions.run(SESSION) is not RunVerdict.NOTHING:
            pass

    assert requests(stage)[1:] == [
        ["hello", "You said: hello", "go"],
        ["so far", "book it"],
        ["so far", "book it", "You said: book it", "thanks"],
    ]


def test_a_worker_that_knows_the_old_frame_learns_that_another_one_has_left_it(stage: Stage) -> None:
    switches(stage, task="book it", frame="plan", seeds=["so far"])
    with stage.worker() as first:
        stage.send("hello")
        first.running.sessions.run(SESSION)
        with stage.worker() as second:
            stage.send("go")
            second.running.sessions.run(SESSION)
        stage.send("thanks")
        first.running.sessions.run(SESSION)

    assert requests(stage)[-1] == ["so far", "book it", "You said: book it", "thanks"]


def test_a_session_with_branches_switches_and_goes_on(stage: Stage) -> None:
    for text in ("one", "two"):
        stage.answer(text)
    branch = {"kind": "branch_to_node", "arguments": {"node_id": "m1.1"}, "idempotency_key": "k"}
    with stage.ingress() as ingress:
        ingress.command(CommandRequest.parse({"session_id": SESSION, "agent": AGENT, **branch}))
    switches(stage, task="book it", frame="plan", seeds=["so far"])
    for text in ("go", "thanks", "bye"):
        stage.answer(text)

    assert requests(stage)[0] == ["one", "You said: one", "go"]
    assert requests(stage)[-1] == [
        "so far",
        "book it",
        "You said: book it",
        "thanks",
        "You said: thanks",
        "bye",
    ]
    assert shown(stage, INITIAL) == ["one", "You said: one", "go"]


def test_what_a_plugin_adds_to_a_turn_that_switched_stays_in_the_frame_before(stage: Stage) -> None:
    class Notes(Plugin):
        id = "notes"

        def after_turn(self, ctx: HookContext, summary: TurnSummary) -> Directives:
            kind = summary.outcome.type
            return EnqueueMessages((PluginMessage(f"seen: {kind}"), PluginMessage("for now")), transient=False)

    stage.agents = [agent(go_on, plugins=[Notes()])]
    switches(stage, task="book it", frame="plan", seeds=["so far"])
    stage.answer("go")

    assert shown(stage, INITIAL) == ["go", "seen: agent_frame_switch", "for now"]
    assert shown(stage, "plan") == ["so far", "book it", "You said: book it", "seen: finished", "for now"]


@pytest.mark.shows("F3")
def test_a_frame_keeps_its_reason_its_cause_and_what_its_turns_are_given(stage: Stage) -> None:
    switches(stage, task="book it", frame="plan", reason="plan_mode")
    stage.answer("go")

    frame = frames(stage)[-1]
    assert (frame.reason, frame.caused_by) == ("plan_mode", {"turn_id": stage.results()[0].turn_id})
    assert frame.assignment == frames(stage)[0].assignment == {"agent": "support"}
    assert frame.created_at.endswith("Z")


@pytest.mark.shows("F2")
def test_a_switch_to_the_frame_that_is_open_goes_on_with_the_task_and_opens_nothing(stage: Stage) -> None:
    switches(stage, task="book it", frame="plan", seeds=["so far"])
    stage.answer("go")
    stage.answer("go")

    assert [frame.frame_id for frame in frames(stage)] == [INITIAL, "plan"]
    assert shown(stage, "plan") == ["so far", "book it", "You said: book it", "go", "book it", "You said: book it"]
    assert requests(stage)[-1][:4] == ["so far", "book it", "You said: book it", "go"]


@pytest.mark.raises_code("frame_superseded")
@pytest.mark.shows("F2")
@pytest.mark.parametrize("older", [INITIAL, "plan"])
def test_a_frame_that_was_left_is_not_opened_again_and_the_model_is_told(stage: Stage, older: str) -> None:
    switches(stage, task="book it", frame="plan")
    stage.answer("go")
    switches(stage, task="pay it", frame="pay")
    stage.answer("go")
    before = frames(stage)

    switches(stage, task="again", frame=older)
    turn = stage.answer("go")
    [call] = turn.tool_calls
    assert turn.ok
    assert call.outcome.failure is not None
    assert (call.outcome.failure.code, call.outcome.control) == ("frame_superseded", None)
    assert frames(stage) == before
    assert [frame.frame_id for frame in before] == [INITIAL, "plan", "pay"]


@pytest.mark.shows("F2")
def test_a_new_frame_inherits_what_the_turns_of_the_one_before_were_given(stage: Stage) -> None:
    switches(stage, task="book it", frame="plan")
    stage.answer("go")
    stage.execute("UPDATE lash_frames SET assignment = :given", given='{"agent":"support","usage_source":"planner"}')
    switches(stage, task="pay it", frame="pay")
    stage.answer("go")

    assert frames(stage)[-1].assignment == {"agent": "support", "usage_source": "planner"}


@pytest.mark.shows("F2")
def test_the_label_of_a_childs_usage_goes_along_into_its_frames(stage: Stage) -> None:
    with stage.reading() as stores:
        stores.registry.create(NewSession(session_id=SessionId("parent")))
        stores.registry.create(NewSession(session_id=SESSION, parent_id=SessionId("parent"), usage_source="planner"))
    switches(stage, task="book it", frame="plan")
    stage.answer("go")

    assert [frame.assignment for frame in frames(stage)] == [{"agent": "support", "usage_source": "planner"}] * 2


# ---------------------------------------------------------------- the run


class Leaping(SystemClock):
    """The machine's clock, as much later as it is put ahead."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@pytest.mark.shows("F4")
def test_a_run_that_takes_long_stays_under_its_lease(stage: Stage) -> None:
    """Longer than a doorbell may keep its thread with one session."""
    stage.clock = clock = Leaping()
    passed = DieAt()

    def reached(point: CrashPoint) -> None:
        passed(point)
        if point is CrashPoint.AFTER_COMMIT:
            clock.ahead += 2 * STAY_SECONDS

    switches(stage, task="book it")
    stage.send("go")
    assert stage.run(reached) is RunVerdict.COMMITTED
    assert (passed.passed[CrashPoint.AFTER_LEASE], passed.passed[CrashPoint.AFTER_COMMIT]) == (1, 2)


@pytest.mark.shows("F4")
def test_a_run_is_two_turns_under_one_lease_each_with_its_stamp(stage: Stage) -> None:
    switches(stage, task="book it")
    stage.send("go", context={"user": 7})
    passed = DieAt()
    assert stage.run(passed) is RunVerdict.COMMITTED

    root, follow_up = stage.turns()
    assert follow_up.turn_id == f"{root.turn_id}:agent-frame:1"
    assert (root.status, follow_up.status) == (TurnStatus.COMMITTED, TurnStatus.COMMITTED)
    assert (passed.passed[CrashPoint.AFTER_LEASE], passed.passed[CrashPoint.AFTER_COMMIT]) == (1, 2)
    stamps = {row["turn_id"]: row["stamp"] for row in stage.rows(tables.turns)}
    assert len(set(stamps.values())) == 2
    assert (follow_up.agent, follow_up.agent_ref) == (root.agent, root.agent_ref)
    first, task = sorted(stage.rows(tables.batches), key=lambda row: row["seq"])
    assert (task["turn_id"], task["state"]) == (follow_up.turn_id, BatchState.CONSUMED)
    assert task["context_digest"] == first["context_digest"]


def test_other_input_waits_until_the_run_is_over(stage: Stage) -> None:
    switches(stage, task="book it")
    for text in ("go", "later"):
        stage.send(text)
    stage.run_all()

    assert [turn.text for turn in stage.results()] == ["", "You said: book it", "You said: later"]


@pytest.mark.shows("F5")
@pytest.mark.parametrize("point", [CrashPoint.AFTER_COMMIT, CrashPoint.AFTER_ANNOUNCE])
def test_a_death_between_the_frames_runs_the_task_exactly_once_and_before_what_waits(
    stage: Stage, point: CrashPoint
) -> None:
    switches(stage, task="book it", seeds=["so far"])
    for text in ("go", "later"):
        stage.send(text)
    assert stage.run(DieAt(point)) is None
    assert [turn.status for turn in stage.turns()] == [TurnStatus.COMMITTED, TurnStatus.RUNNING]
    stage.run_all()

    assert [turn.text for turn in stage.results()] == ["", "You said: book it", "You said: later"]
    assert [request for request in requests(stage) if request[-1] == "book it"] == [["so far", "book it"]]
    assert [turn.attempt for turn in stage.results()] == [1, 1, 1]


def test_a_cancel_that_comes_beside_the_commit_of_a_switch_stops_the_run(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw the turn running and the commit did not see it: what was asked for was lost, and the task was run."""
    if stage.settings.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    cancelled: list[Future[CancelAnswer]] = []

    def apply(connection: CallerConnection, commit: TurnCommit, revision: int, now_ms: int) -> bool:
        fits = session_changes.apply_changes(connection, commit, revision, now_ms)
        cancelled.append(elsewhere.submit(stage.cancel))
        wait_until(lambda: cancelled[0].done() or waits_for_a_lock(stage), 10, "the cancel to wait for the commit")
        return fits

    class Between(TurnsBetween):
        def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
            verdict = super().commit(commit)
            cancelled[0].result()
            return verdict

    monkeypatch.setattr("lash_tasks.stores.sql.turns_postgres.apply_changes", apply)
    switches(stage, task="the task")
    stage.send("go")
    with ThreadPoolExecutor(1) as elsewhere:
        stage.run_all(wrap=lambda stores: replace(stores, turns=Between(stores.turns)))
    assert cancelled[0].result().verdict is CancelVerdict.REQUESTED
    assert [turn.outcome for turn in stage.results()][1:] == [stopped(StopKind.CANCELLED)]


def waits_for_a_lock(stage: Stage) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with stage.reading() as stores, stores.database.reading() as connection:
        return bool(connection.execute(sql(waiting)).scalar())


@pytest.mark.raises_code("max_frame_switches")
@pytest.mark.shows("F6")
def test_a_run_that_never_stops_switching_is_stopped(stage: Stage) -> None:
    switches(stage, task="go")
    turn = stage.answer("go")

    assert len(stage.results()) == MAX_FRAME_SWITCHES + 1
    assert turn.outcome == stopped(StopKind.MAX_TURNS)
    assert [issue.code for issue in turn.errors] == ["max_frame_switches"]
    assert len(frames(stage)) == MAX_FRAME_SWITCHES + 1
    assert set(stage.states().values()) == {BatchState.CONSUMED}


def test_a_follow_up_that_dies_again_and_again_is_a_dead_letter_and_the_session_goes_on(stage: Stage) -> None:
    switches(stage, task="book it")
    stage.send("go")
    assert stage.run(DieAt(CrashPoint.AFTER_COMMIT)) is None
    for _ in range(5):
        assert stage.run(DieAt(CrashPoint.BEFORE_EFFECT)) is None
    stage.run_all()

    assert [issue.code for issue in stage.last().errors] == ["attempts_exhausted"]
    assert sorted(stage.states().values()) == [BatchState.CONSUMED, BatchState.DEAD]
    stage.assert_usable()
