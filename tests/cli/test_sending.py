"""`lash-tasks send`: what is stored, what is refused, and what `--wait` prints."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lash_tasks import Lash
from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.ids import WorkerId
from lash_tasks.stores.protocols import WorkerRecord
from lash_tasks.stores.sql.fleet import SqlFleet
from tests.cli.conftest import Command
from tests.embedded.application import AGENT
from tests.scene import SESSION, Scene

TURN_KEYS = {
    "session_id",
    "turn_id",
    "turn_index",
    "status",
    "outcome",
    "assistant_output",
    "tool_calls",
    "token_usage",
    "errors",
    "committed_at_ms",
}


def test_send_with_wait_prints_the_committed_turn(stack: Lash, lash_tasks: Command) -> None:
    turn = lash_tasks("send", "s", "call soon", "--agent", AGENT, "--wait", "--json").document

    assert set(turn) >= TURN_KEYS
    assert (turn["session_id"], turn["turn_index"], turn["status"]) == ("s", 1, "committed")
    assert turn["outcome"]["type"] == "finished"
    assert turn["assistant_output"] == {
        "safe_text": "soon returned: done",
        "raw_text": "soon returned: done",
        "state": "usable",
    }
    assert [call["tool"] for call in turn["tool_calls"]] == ["soon"]


def test_for_a_person_only_the_answer_is_on_stdout(stack: Lash, lash_tasks: Command) -> None:
    printed = lash_tasks("send", "s", "call soon", "--wait")

    assert printed.exit_code == 0
    assert printed.stdout == "soon returned: done\n"
    assert "accepted as" in printed.stderr
    assert "turn 1 finished" in printed.stderr


SALES = AgentSnapshot(name="sales", model="scripted:echo", instructions="Sell.")


def serve(scene: Scene, *agents: AgentSnapshot) -> None:
    """Let a worker live that serves these agents."""
    fleet = SqlFleet(scene.database)
    fleet.register_agents(agents)
    serving = {agent.name: agent.ref() for agent in agents}
    worker = WorkerRecord(
        worker=WorkerId("w1"),
        host="here",
        pid=1,
        queues=(),
        version="0",
        started_at_ms=0,
        seen_at_ms=0,
        live=True,
        agents=serving,
    )
    fleet.beat(worker, {})


def test_the_only_agent_need_not_be_named(scene: Scene, lash_tasks: Command) -> None:
    assert lash_tasks("send", SESSION, "hello", "--json").document["status"] == "queued"


def test_a_session_goes_on_with_its_agent_unless_another_is_named(scene: Scene, lash_tasks: Command) -> None:
    scene.send("hello")
    serve(scene, SALES)
    assert lash_tasks("send", SESSION, "and again", "--json").document["created"]
    assert lash_tasks("send", SESSION, "buy", "--agent", "sales", "--json").document["created"]

    assert [row["agent"] for row in lash_tasks("queue", "list", "--json").lines] == ["support", "support", "sales"]


def test_an_agent_that_no_worker_serves_any_more_is_not_counted(scene: Scene, lash_tasks: Command) -> None:
    serve(scene, SALES)
    assert lash_tasks("send", "new", "hello", "--json").document["created"]
    (waiting,) = lash_tasks("queue", "list", "--json").lines

    assert waiting["agent"] == "sales"


def test_of_several_agents_one_must_be_named_and_those_without_a_worker_are_marked(
    scene: Scene, lash_tasks: Command
) -> None:
    serve(scene, SALES, replace(SALES, name="refunds"))
    error = lash_tasks("send", "new", "hello", "--json").error

    assert (error["code"], error["field"]) == ("invalid_input", "agent")
    assert error["message"].endswith("name one with --agent; known agents: refunds, sales, support (no worker)")


def test_the_same_key_returns_the_first_receipt_and_another_text_is_refused(scene: Scene, lash_tasks: Command) -> None:
    send = ("send", SESSION, "hello", "--key", "msg-1", "--json")
    first, second = lash_tasks(*send).document, lash_tasks(*send).document

    assert (first["created"], second["created"]) == (True, False)
    assert first["input_id"] == second["input_id"]
    assert len(lash_tasks("queue", "list", "--json").lines) == 1
    refused = lash_tasks("send", SESSION, "goodbye", "--key", "msg-1", "--json").error
    assert refused["code"] == "idempotency_conflict"


@pytest.mark.parametrize("zone", [UTC, None], ids=["utc", "local time"])
def test_delayed_input_waits_for_its_time(scene: Scene, lash_tasks: Command, zone: object) -> None:
    moment = datetime.now(tz=UTC).replace(microsecond=0) + timedelta(hours=1)
    written = moment.isoformat() if zone else moment.astimezone().replace(tzinfo=None).isoformat()
    sent = lash_tasks("send", SESSION, "later", "--at", written, "--json").document

    (waiting,) = lash_tasks("queue", "list", "--json").lines
    assert waiting["input_id"] == sent["input_id"]
    assert waiting["available_at_ms"] == moment.timestamp() * 1000


def test_reject_is_refused_while_the_session_has_work(scene: Scene, lash_tasks: Command) -> None:
    reject = ("send", SESSION, "now or never", "--when", "reject", "--json")
    assert lash_tasks(*reject).document["created"]

    assert lash_tasks(*reject).error["code"] == "session_execution_busy"
    assert len(lash_tasks("queue", "list", "--json").lines) == 1


def test_a_turn_that_did_not_finish_is_shown_and_is_exit_code_1(stack: Lash, lash_tasks: Command) -> None:
    send = ("send", "s", "hello", "--model", "watched:nothing", "--key", "msg-1", "--wait")
    printed = lash_tasks(*send)
    assert printed.exit_code == 1
    assert "there is no scripted model 'nothing'" in printed.stdout
    assert "turn 1 stopped (provider_error)" in printed.stdout

    in_json = lash_tasks(*send, "--json")
    assert in_json.exit_code == 1
    assert in_json.document["outcome"]["stop"]["type"] == "provider_error"


def test_a_wait_that_ends_too_soon_says_how_to_find_the_input_again(scene: Scene, lash_tasks: Command) -> None:
    printed = lash_tasks("send", SESSION, "hello", "--wait", "--timeout", "0", "--key", "msg 1", "--json")
    error = printed.document["error"]
    (waiting,) = lash_tasks("queue", "list", "--json").lines

    assert printed.exit_code == 1
    assert (error["code"], error["session_id"]) == ("result_timeout", SESSION)
    assert error["input_id"] == waiting["input_id"]
    assert error["message"].endswith(
        "the work goes on: send again with --key 'msg 1' --wait, or look at lash-tasks turns list --session customer-7"
    )
    without_key = lash_tasks("send", SESSION, "hello", "--wait", "--timeout", "0").stderr
    assert "the work goes on: look at lash-tasks turns list" in without_key
