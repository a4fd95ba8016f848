"""Every code block of README and docs is run, or checked for what it says.

A page is one story: its files lie in one new directory, its Python blocks are one program there, beside a real worker
of `examples/support.py` on Postgres and Redis. Its shell commands are checked against the commands that exist, and
those that only look are run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from lash_tasks.stores.sql import schema
from tests import services
from tests.cli.calling import SCRIPT, call, environment
from tests.docs.blocks import PAGES, ROOT, Block, blocks, name_of
from tests.docs.commands import check, command_lines
from tests.docs.worker import ready_worker
from tests.endpoint import ModelEndpoint, converse

AT_MOST_NOT_RUN = 6
LIMIT_SECONDS = 50
ONLY_LOOK = {"doctor", "queue list", "queue dead", "sessions list", "turns list", "usage", "db check", "--version"}
LANGUAGES = {"", "console", "dockerfile", "ini", "json", "python", "text", "toml", "yaml"}

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.fixture(scope="module")
def installation(
    postgres_server: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The variables of an installation at work, with a worker of the example and a session that it has answered."""
    directory = tmp_path_factory.mktemp("installation")
    shutil.copy(ROOT / "examples" / "support.py", directory)
    with (
        services.fresh_database(postgres_server) as database,
        services.fresh_redis_database(redis_server) as redis,
        ModelEndpoint(converse) as endpoint,
    ):
        schema.upgrade(database)
        variables = {
            "LASH_DATABASE_URL": database,
            "LASH_REDIS_URL": redis,
            "OPENAI_BASE_URL": endpoint.base_url,
            "OPENAI_API_KEY": "sk-test",
        }
        with ready_worker(worker_of_the_readme(), directory, variables):
            sent = call("send", "customer-7", "Where is order 12?", "--agent", "support", "--wait", **variables)
            assert sent.exit_code == 0, sent
            yield variables


def worker_of_the_readme() -> list[str]:
    """The command that the README says to start a worker with."""
    lines = [
        words for block in blocks(ROOT / "README.md") if block.language == "console" for words in command_lines(block)
    ]
    return next(words for words in lines if words[0] == "celery" and "worker" in words)


@every_page
def test_every_block_is_of_a_language_that_is_run_or_checked(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: write console, python, … or leave the language out"
        assert block.file is None or block.not_run is None


def test_few_blocks_are_not_run() -> None:
    left_alone = [block.place for page in PAGES for block in blocks(page) if block.not_run]
    assert len(left_alone) <= AT_MOST_NOT_RUN, left_alone


@every_page
def test_data_can_be_read(page: Path) -> None:
    for block in blocks(page):
        match block.language:
            case "json":
                json.loads(block.code)
            case "toml":
                tomllib.loads(block.code)
            case "yaml":
                list(yaml.safe_load_all(block.code))


@every_page
def test_commands_exist_with_the_options_that_they_are_given(page: Path) -> None:
    for block in blocks(page):
        if block.language == "console" and not block.not_run:
            for words in command_lines(block):
                check(block, words)


@every_page
def test_python_runs(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    story = [block for block in blocks(page) if block.language == "python" and not block.not_run]
    if not story:
        return
    directory = written(tmp_path, blocks(page))
    statements = [block for block in story if block.file is None]
    variables = request.getfixturevalue("installation") if "Client(" in "".join(b.code for b in statements) else {}
    listed = directory / "blocks.json"
    listed.write_text(json.dumps([{"page": b.page, "line": b.line, "code": b.code} for b in statements]))
    run([sys.executable, str(ROOT / "tests" / "docs" / "run_page.py"), str(listed)], directory, variables)
    if list(directory.glob("test_*.py")):
        run([sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"], directory, {})


@every_page
def test_commands_that_only_look_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    story = [block for block in blocks(page) if block.language == "console" and not block.not_run]
    lines = [words for block in story for words in command_lines(block) if looks(words)]
    if lines:
        directory = written(tmp_path, blocks(page))
        variables = request.getfixturevalue("installation")
        for words in lines:
            if words[1] == "-A":
                run([str(SCRIPT), *words[1:]], directory, variables)
            else:  # needs no process of its own, which takes a second
                printed = call(*words[1:], **variables)
                assert printed.exit_code == 0, (words, printed)


def looks(words: list[str]) -> bool:
    if words[0] != "lash-tasks":
        return False
    rest = words[3:] if words[1:2] == ["-A"] else words[1:]
    return bool({" ".join(rest[:2]), rest[0]} & ONLY_LOOK)


def written(directory: Path, story: list[Block]) -> Path:
    """The directory with the files of a page, and the example under its own name."""
    shutil.copy(ROOT / "examples" / "support.py", directory)
    for block in story:
        if block.file is not None:
            (directory / block.file).parent.mkdir(parents=True, exist_ok=True)
            (directory / block.file).write_text(block.code, encoding="utf-8")
    return directory


def run(arguments: list[str], directory: Path, variables: Mapping[str, str]) -> None:
    done = subprocess.run(
        arguments,
        cwd=directory,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
