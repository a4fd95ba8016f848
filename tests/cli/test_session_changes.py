"""`lash-tasks sessions create`, `command`, `rename` and `delete`."""

from __future__ import annotations

import json

import pytest

from lash_tasks import Lash
from lash_tasks.domain.founding import NewSession
from lash_tasks.domain.frames import read_seeds
from lash_tasks.domain.ids import SessionId
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from tests.cli.conftest import Command
from tests.scene import SESSION, Scene


def test_a_session_is_created_once(scene: Scene, lash_tasks: Command) -> None:
    spec = json.dumps({"model": "openai:gpt", "max_turns": 2})
    created = lash_tasks("sessions", "create", "s1", "--name", "Kim", "--agent", "support", "--spec", spec, "--json")
    assert created.document["name"] == "Kim"
    assert created.document["policy"]["provider_id"] == "openai"
    assert created.document["policy"]["max_turns"] == 2
    refused = lash_tasks("sessions", "create", "s1", "--json").error
    assert refused["code"] == "session_already_exists"
    assert refused["message"].endswith("use another id, or --fresh to begin it anew")
    assert lash_tasks("sessions", "create", "s1", "--fresh", "--json").document["revision"] == 1


def test_a_session_without_an_id_gets_one(scene: Scene, lash_tasks: Command) -> None:
    assert len(lash_tasks("sessions", "create", "--json").document["session_id"]) == 36


def test_a_child_is_shown_with_its_parent(scene: Scene, lash_tasks: Command) -> None:
    lash_tasks("sessions", "create", "p")
    child = lash_tasks("sessions", "create", "c", "--parent", "p", "--start", "current_session", "--json").document
    assert child["relation"] == {"kind": "child", "parent_session_id": "p"}
    assert lash_tasks("sessions", "show", "p", "--json").document["children"] == ["c"]


def test_lists_tell_how_a_session_began(scene: Scene, lash_tasks: Command) -> None:
    SqlSessionRegistry(scene.database).create(
        NewSession(session_id=SessionId("s1"), seeds=read_seeds(["where is\norder 12?", "and 13?"]))
    )
    [row] = lash_tasks("sessions", "list", "--json").lines
    assert (row["first_user_message"], row["user_message_count"]) == ("where is\norder 12?", 2)
    assert "where is order 12?" in lash_tasks("sessions", "list").stdout
    assert row["relation"] == {"kind": "root"}


def test_a_session_is_renamed_and_deleted(scene: Scene, lash_tasks: Command) -> None:
    lash_tasks("sessions", "create", "s1")
    assert lash_tasks("sessions", "rename", "s1", "Kim", "--json").document["name"] == "Kim"
    assert lash_tasks("sessions", "delete", "s1", "--purge", "--json").document["deleted"]
    assert lash_tasks("sessions", "rename", "s1", "Lee", "--json").error["code"] == "session_deleted"
    assert lash_tasks("sessions", "create", "s1", "--json").exit_code == 0


def test_a_session_at_work_is_not_deleted_if_so_wished(scene: Scene, lash_tasks: Command) -> None:
    scene.send("go on")
    scene.start()
    refused = lash_tasks("sessions", "delete", SESSION, "--only-if-idle", "--json")
    assert refused.error["code"] == "session_execution_busy"


def test_a_command_waits_in_the_queue_and_is_no_input(scene: Scene, lash_tasks: Command) -> None:
    arguments = ("sessions", "command", SESSION, "reset_session", "--agent", "support", "--key", "k", "--json")
    sent = lash_tasks(*arguments).document
    assert (sent["created"], sent["status"]) == (True, "queued")
    assert not lash_tasks(*arguments).document["created"]
    [row] = lash_tasks("queue", "list", "--json").lines
    assert (row["kind"], row["idempotency_key"]) == ("command", "command:reset_session:k")


def test_what_a_command_did_is_on_stdout(stack: Lash, lash_tasks: Command) -> None:
    lash_tasks("send", "s", "hello", "--wait")
    printed = lash_tasks("sessions", "command", "s", "reset_session", "--arguments", '{"reason": "done"}', "--wait")

    assert (printed.exit_code, json.loads(printed.stdout)) == (0, {"command": "reset_session", "reason": "done"})
    assert lash_tasks("turns", "show", "s", "2").stdout == printed.stdout


def test_a_command_that_is_not_applied_in_time_can_be_waited_for_again(scene: Scene, lash_tasks: Command) -> None:
    waiting = ("reset_session", "--agent", "support", "--wait", "--timeout", "0", "--json")
    error = lash_tasks("sessions", "command", SESSION, *waiting).error
    [row] = lash_tasks("queue", "list", "--json").lines
    own_key = row["idempotency_key"].rpartition(":")[2]

    assert (error["code"], error["input_id"]) == ("result_timeout", row["input_id"])
    assert f"send again with --key {own_key} --wait" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("reset_session", "--key", " "), "session_command_idempotency_key"),
        (("reset_session", "--arguments", "[]"), "invalid_input"),
        (("fly",), "invalid_input"),
    ],
)
def test_a_bad_command_is_refused(scene: Scene, lash_tasks: Command, arguments: tuple[str, ...], code: str) -> None:
    refused = lash_tasks("sessions", "command", SESSION, *arguments, "--agent", "support", "--json")
    assert refused.error["code"] == code
