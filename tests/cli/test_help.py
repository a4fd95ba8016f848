"""What `--help` and `--version` say, and how little it takes."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from tests.cli.calling import call, python, run

COMMANDS = {
    "demo": [],
    "up": [],
    "send": [],
    "follow": [],
    "usage": [],
    "doctor": [],
    "bench": [],
    "sessions": ["list", "show", "frames", "create", "rename", "command", "delete"],
    "turns": ["list", "show", "cancel"],
    "queue": ["list", "cancel", "dead", "replay"],
    "db": ["upgrade", "check"],
}
PATHS = [(), *((name,) for name in COMMANDS), *((name, sub) for name, subs in COMMANDS.items() for sub in subs)]
NOT_BUILT = {"API", "console", "processes"}


def offered(text: str) -> list[str]:
    """The first words of a help text's list of commands."""
    _, _, commands = text.partition(" Commands ")
    rows = [line.strip("│ ") for line in commands.splitlines() if line.startswith("│ ") and line[2] != " "]
    return [row.split()[0] for row in rows]


def test_help_offers_the_commands_that_exist_and_no_other() -> None:
    assert sorted(offered(call("--help").stdout)) == sorted(COMMANDS)
    for name, subcommands in COMMANDS.items():
        assert sorted(offered(call(name, "--help").stdout)) == sorted(subcommands)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_help_says_what_the_command_does_and_promises_nothing_unbuilt(path: tuple[str, ...]) -> None:
    printed = call(*path, "--help", COLUMNS="200")

    assert printed.exit_code == 0
    assert printed.stderr == ""
    summary = [line.strip() for line in printed.stdout.splitlines() if line.strip()][1]
    assert summary.endswith(".")
    assert not NOT_BUILT & set(printed.stdout.replace(",", " ").split())
    if path and (len(path) == 2 or not COMMANDS[path[0]]):
        assert "--json" in printed.stdout


def test_help_needs_neither_the_database_library_nor_celery() -> None:
    """They take longer to import than anybody waits for a help text."""
    printed = python(
        "import sys; from lash_tasks.cli.main import app;"
        "print([name for name in ('sqlalchemy', 'celery', 'psycopg', 'redis', 'httpx') if name in sys.modules])"
    )
    assert printed.stdout.strip() == "[]"


def test_version_is_the_distribution_s() -> None:
    assert run("--version").stdout == f"lash-tasks {version('lash-tasks')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("send",),
        ("send", "s", "text", "--no-such-option"),
        ("send", "s", "text", "--when", "sometime"),
        ("send", "s", "text", "--timeout", "soon"),
        ("turns", "list"),
        ("queue", "list", "--limit", "0"),
        ("sessions",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_with_nothing_on_stdout(arguments: tuple[str, ...]) -> None:
    printed = call(*arguments, *(["--json"] if len(arguments) > 1 else []))

    assert printed.exit_code == 2
    assert not printed.stdout or arguments == ("sessions",)  # a group alone prints its help
