"""With `--json` stdout holds one document or JSON lines and nothing else, whatever becomes of the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from lash_tasks.stores.sql import schema
from tests.cli.calling import call, run
from tests.cli.conftest import Command
from tests.scene import SESSION, Scene

READS = [
    ("sessions", "list"),
    ("sessions", "show", SESSION),
    ("turns", "list", "--session", SESSION),
    ("turns", "list", "--session", "nobody"),
    ("turns", "show", SESSION, "1"),
    ("turns", "show", SESSION, "3"),
    ("queue", "list"),
    ("queue", "dead"),
    ("db", "check"),
    ("db", "upgrade"),
    ("send", SESSION, "hello"),
]


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_a_command_prints_json_and_nothing_else(scene: Scene, lash_tasks: Command, arguments: tuple[str, ...]) -> None:
    scene.send("one")
    scene.answer("first")
    scene.send("two")
    scene.commit(scene.start(), "second", dead_reason="attempts_exhausted")
    scene.send("three")
    scene.start()

    printed = lash_tasks(*arguments, "--json")

    assert printed.exit_code == 0
    assert printed.stderr == ""
    assert all(isinstance(line, dict) for line in printed.lines)
    assert bool(printed.lines) == ("nobody" not in arguments)


REFUSALS = [
    (("sessions", "show", "nobody"), "not_found", None),
    (("sessions", "show", "x" * 201), "invalid_input", "session_id"),
    (("sessions", "delete", "nobody"), "not_found", None),
    (("turns", "list", "--session", ""), "invalid_input", "session_id"),
    (("turns", "show", SESSION, "7"), "not_found", None),
    (("turns", "show", SESSION, "99999999999999999999"), "not_found", None),
    (("queue", "cancel", SESSION, "nothing"), "not_found", None),
    (("queue", "replay", "nothing"), "not_found", None),
    (("send", SESSION, " "), "invalid_input", "text"),
    (("send", SESSION, "hello", "--agent", "nobody"), "unknown_agent", "agent"),
    (("send", SESSION, "hello", "--agent", ""), "invalid_input", "agent"),
    (("sessions", "list", "--after", ""), "invalid_input", "after"),
    (("sessions", "create", "s", "--spec", ""), "invalid_input", "spec"),
    (("sessions", "command", SESSION, "reset_session", "--arguments", ""), "invalid_input", "arguments"),
    (("queue", "list", "--session", ""), "invalid_input", "session_id"),
    (("queue", "dead", "--session", ""), "invalid_input", "session_id"),
    (("usage", "--session", ""), "invalid_input", "session_id"),
    (("send", SESSION, "x" * 1_100_000), "payload_too_large", "text"),
    (("send", "two\nlines", "hello"), "invalid_input", "session_id"),
    (("send", SESSION, "hello", "--key", "k" * 201), "invalid_input", "idempotency_key"),
    (("send", SESSION, "hello", "--at", "tomorrow"), "invalid_input", "at"),
    (("send", SESSION, "hello", "--wait", "--timeout", "0.1"), "result_timeout", None),
    (("follow", SESSION, "--cursor", "elsewhere"), "invalid_input", "cursor"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "field"), REFUSALS, ids=[" ".join(arguments)[:40] for arguments, _, _ in REFUSALS]
)
def test_a_refusal_has_its_code_its_sentence_and_the_field(
    scene: Scene, lash_tasks: Command, arguments: tuple[str, ...], code: str, field: str | None
) -> None:
    printed = lash_tasks(*arguments, "--json")

    assert printed.error["code"] == code
    assert printed.error.get("field") == field
    assert printed.stderr == ""


NEED_A_DATABASE = [
    ("sessions", "list"),
    ("turns", "list", "--session", "s"),
    ("queue", "list"),
    ("send", "s", "hello"),
    ("follow", "s"),
    ("db", "upgrade"),
    ("db", "check"),
    ("doctor",),
]


@pytest.mark.parametrize("arguments", NEED_A_DATABASE, ids=" ".join)
def test_without_a_database_every_command_says_which_variable_to_set(arguments: tuple[str, ...]) -> None:
    assert call(*arguments, "--json").error == {"code": "configuration", "message": "Set LASH_DATABASE_URL"}


LOOK_AT_A_DATABASE = pytest.mark.parametrize("arguments", [*NEED_A_DATABASE[:5], ("db", "check")], ids=" ".join)


@LOOK_AT_A_DATABASE
def test_a_database_file_that_is_not_there_is_not_made(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "misspelt" / "lash.db"
    error = call(*arguments, "--json", LASH_DATABASE_URL=f"sqlite:///{path}").error

    assert error["code"] == "configuration"
    assert error["message"] == f"there is no database at {path}; start lash-tasks up, or mend LASH_DATABASE_URL"
    assert not path.parent.exists()


@pytest.mark.parametrize("arguments", [("queue", "list"), ("db", "check"), ("db", "upgrade")], ids=" ".join)
def test_a_database_in_memory_is_refused(arguments: tuple[str, ...]) -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite://lash.db", "sqlite://shop/lash.db", "sqlite://a:b/c"):
        error = call(*arguments, "--json", LASH_DATABASE_URL=url).error
        assert error["message"] == "LASH_DATABASE_URL names no file; write sqlite:///path/to/lash.db"


@LOOK_AT_A_DATABASE
def test_a_schema_that_is_behind_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, lash_tasks: Command, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "lash.db").touch()
    error = lash_tasks(*arguments, "--json").error

    assert error["code"] == "schema_behind"
    assert error["message"].endswith("run: lash-tasks db upgrade")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LASH_DATABASE_URL", "mysql://localhost/lash"),
        ("LASH_DATABASE_URL", "postgresql://user:sesame@host:port/lash"),
        ("LASH_DATABASE_OPTIONS", "pool_size=3"),
        ("LASH_REDIS_URL", "http://localhost"),
        ("LASH_LEASE_TTL", "soon"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(lash_tasks: Command, variable: str, value: str) -> None:
    error = lash_tasks("queue", "list", "--json", **{variable: value}).error

    assert error["code"] == "configuration"
    assert variable in error["message"]
    assert "sesame" not in error["message"]


def test_a_database_that_cannot_be_reached_is_an_error_like_any_other() -> None:
    error = call("queue", "list", "--json", LASH_DATABASE_URL="postgresql://postgres@127.0.0.1:1/lash").error

    assert error["code"] == "store_unavailable"


def test_what_nobody_foresaw_has_the_form_of_a_refusal_and_its_traceback_on_stderr(
    scene: Scene, lash_tasks: Command
) -> None:
    with scene.database.transaction() as connection:
        connection.execute(text("DROP TABLE lash_dead_letters"))
    printed = lash_tasks("queue", "dead", "--json")

    assert printed.error["code"] == "internal_error"
    assert "Traceback" in printed.stderr
    assert "no such table: lash_dead_letters" in printed.stderr


def test_for_a_person_a_refusal_is_one_sentence_on_stderr(scene: Scene, lash_tasks: Command) -> None:
    printed = lash_tasks("sessions", "show", "nobody")

    assert (printed.exit_code, printed.stdout, printed.stderr) == (1, "", "error: there is no session 'nobody'\n")


def test_the_console_script_keeps_to_the_same_rules(sqlite_url: str) -> None:
    assert run("queue", "list", "--json").error["message"] == "Set LASH_DATABASE_URL"
    upgraded = run("db", "upgrade", "--json", LASH_DATABASE_URL=sqlite_url)
    assert (upgraded.exit_code, upgraded.document, upgraded.stderr) == (0, {"revision": schema.head()}, "")
    assert run("queue", "list", "--json", LASH_DATABASE_URL=sqlite_url).lines == []
