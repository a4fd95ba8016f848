"""An embedded stack starts, answers, and leaves nothing behind when it stops."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from lash_tasks import Agent, Client, Lash, Settings
from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import ConfigurationError
from tests.embedded.application import AGENT, application, lines
from tests.services import wait_until

PATIENCE = 20.0


def open_files(directory: Path) -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(directory))]


def test_a_stack_answers_as_long_as_its_context_lasts(sqlite_url: str) -> None:
    settings = Settings(database_url=sqlite_url)
    with Lash([Agent("support", "scripted:echo")], embedded=True, settings=settings) as lash:
        turn = lash.client.send("customer-7", "hello", agent="support").result(timeout=PATIENCE)

    assert turn.ok
    assert turn.text == "You said: hello"


def test_a_stack_that_stops_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with application(tmp_path) as lash:
        both = "call slow and call soon"
        assert len(lash.client.send("s", both, agent=AGENT).result(timeout=PATIENCE).tool_calls) == 2
        assert any(path.endswith("lash.db.lock") for path in open_files(tmp_path))

    assert [thread.name for thread in threading.enumerate() if thread not in before] == []
    assert open_files(tmp_path) == []


def test_a_stack_can_be_stopped_and_started_again(tmp_path: Path) -> None:
    lash = application(tmp_path)
    for said in ("one", "two", "three"):
        lash.start()
        lash.start()  # idempotent
        assert lash.client.send("s", said, agent=AGENT).result(timeout=PATIENCE).text == f"You said: {said}"
        lash.stop()
        lash.stop()  # idempotent

    with application(tmp_path) as lash:
        turns = lash.client.stores.sessions.turns(SessionId("s"))
        assert [turn.result.text for turn in turns if turn.result] == [
            f"You said: {n}" for n in ("one", "two", "three")
        ]


def test_what_runs_when_the_stack_stops_ends_within_its_grace(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    lash = application(tmp_path).start()
    receipt = lash.client.send("s", "call slow", agent=AGENT)
    wait_until(lambda: lines(tmp_path / "tool-runs"), PATIENCE, "the tool to begin")
    threading.Timer(0.2, (tmp_path / "hold").unlink).start()
    lash.stop()

    with application(tmp_path) as again:
        assert again.client.receipt("s", input_id=receipt.input_id).result(timeout=PATIENCE).ok
    assert len(lines(tmp_path / "tool-runs")) == 1


def test_without_a_database_url_the_file_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LASH_DATABASE_URL", raising=False)
    lash = Lash([Agent("support", "scripted:echo")], embedded=True)
    with lash:
        assert lash.client.send("s", "hello", agent="support").result(timeout=PATIENCE).ok

    assert sorted(path.name for path in (tmp_path / ".lash").iterdir()) == ["lash.db", "lash.db.lock"]


def test_servers_of_another_wiring_are_left_alone(tmp_path: Path) -> None:
    """A Redis and a broker in the environment belong to somebody else: on SQLite everything is in this process."""
    nowhere = "redis://127.0.0.1:1/0"
    url = f"sqlite:///{tmp_path / 'lash.db'}"
    settings = Settings(database_url=url, redis_url=nowhere, broker_url=nowhere)
    with (
        Lash([Agent("support", "scripted:echo")], embedded=True, settings=settings) as lash,
        Client(settings) as client,
    ):
        assert lash.client.send("s", "hello", agent="support").result(timeout=PATIENCE).ok
        assert client.send("s", "hello again", agent="support").result(timeout=PATIENCE).ok


# ---------------------------------------------------------------- refusals


def test_a_second_process_is_refused_and_told_which_one_has_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.embedded.application", str(tmp_path)]
    with application(tmp_path):
        second = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    last = second.stderr.strip().splitlines()[-1]
    assert second.returncode == 1
    assert f"lash.db is in use by process {os.getpid()}; stop it" in last


def test_a_file_has_one_owner_whatever_name_it_goes_by(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    (there / "lash.db").symlink_to(here / "lash.db")
    with application(here), pytest.raises(ConfigurationError, match="in use by process"):
        application(there).start()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://localhost/lash", "set LASH_DATABASE_URL to sqlite:///…"),
        ("sqlite://", "set LASH_DATABASE_URL to sqlite:///<path>"),
        ("sqlite:///:memory:", "set LASH_DATABASE_URL to sqlite:///<path>"),
    ],
)
def test_only_a_sqlite_file_will_do(url: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lash = Lash([Agent("support", "scripted:echo")], embedded=True, settings=Settings(database_url=url))
    with pytest.raises(ConfigurationError) as refused:
        lash.start()

    assert str(refused.value).endswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_lets_go_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "lash.db").write_text("this is no database " * 100)
    lash = application(tmp_path)
    with pytest.raises(ConfigurationError, match="names a file that is no SQLite database"):
        lash.start()
    (tmp_path / "lash.db").unlink()

    with lash:
        assert lash.client.send("s", "hello", agent=AGENT).result(timeout=PATIENCE).ok
    assert open_files(tmp_path) == []
