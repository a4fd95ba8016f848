"""Are the command lines of a page commands that exist, with options that they take?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import celery
import pytest
import typer
import yaml
from celery.bin.base import CLIContext
from celery.bin.celery import celery as celery_command
from click.testing import CliRunner
from packaging.requirements import Requirement

from lash_tasks.cli.main import app
from lash_tasks.queues import Names
from lash_tasks.settings import VARIABLES
from tests.docs.blocks import ROOT, Block

OTHERS = {".", "cd", "createdb", "curl", "git", "kill", "python", "python3", "pytest", "psql", "redis-cli"}
"""Commands that are not ours and that a reader knows."""
OUR_OWN_APPLICATIONS = {"BOOKSHOP_BROKER_URL", "CELERY_BROKER_URL", "DATABASE_URL", "OPENAI_API_KEY", "VLLM_KEY"}


def command_lines(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, each as its words, without assignments before it and without comments."""
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="&;|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&;|"):
                while words and re.match(r"[A-Z_]+=", words[0]):
                    check_assignment(block, words.pop(0))
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def check_assignment(block: Block, word: str) -> None:
    name = word.partition("=")[0]
    assert name in {*VARIABLES.values(), *OUR_OWN_APPLICATIONS}, f"{block.place}: no setting is called {name}"


def check(block: Block, words: list[str]) -> None:
    """Fail for a command that does not exist in this form."""
    name = words[0].rpartition("/")[2]
    match name:
        case "lash-tasks":
            _check_click(block, typer.main.get_command(app), words[1:])
        case "celery":
            _check_click(block, celery_command, words[1:], CLIContext(celery.Celery(set_as_current=False), True, None))
            _check_queues(block, words)
        case "export":
            for word in words[1:]:
                check_assignment(block, word)
        case "pip":
            _check_pip(block, words)
        case "docker-compose":
            services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
            unknown = [
                word for word in words[2:] if not word.startswith("-") and "=" not in word and word not in services
            ]
            assert not unknown, f"{block.place}: docker-compose.yml has no service {unknown}"
        case _:
            assert name in OTHERS, f"{block.place}: nothing is known of the command {name!r}"


def _check_click(block: Block, command: Any, words: list[str], obj: object = None) -> None:
    """Let the command parse its words and do nothing."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as directory, chdir(directory):
        for one in _with_subcommands(command):
            patch.setattr(one, "callback", None)
        for word in words:
            if word.endswith(".json"):
                Path(word).touch()  # a file of the reader's
        result = CliRunner().invoke(command, words, obj=obj)
    problem = result.output[-500:] or repr(result.exception)
    assert result.exit_code == 0, f"{block.place}: {shlex.join(words)}: {problem}"


def _with_subcommands(command: Any) -> Iterator[Any]:
    yield command
    for one in getattr(command, "commands", {}).values():
        yield from _with_subcommands(one)


def _check_queues(block: Block, words: list[str]) -> None:
    if "-Q" not in words:
        return
    for queue in words[words.index("-Q") + 1].split(","):
        if queue.startswith("lash."):
            parts = queue.split(".")
            names = Names(parts[1] if len(parts) == 3 and parts[1] != "process" else "")
            assert names.owns(queue), f"{block.place}: there is no queue {queue}"


def _check_pip(block: Block, words: list[str]) -> None:
    extras = {"flower", "api", "bench", "test"}
    for word in words[2:]:
        if not word.startswith((".", "-")):
            wanted = Requirement(word)
            unknown = wanted.extras - extras if wanted.name == "lash-tasks" else set()
            assert not unknown, f"{block.place}: lash-tasks has no extra {unknown}"
