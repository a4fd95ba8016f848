"""A stack that is killed loses nothing, and the next one waits for nothing: its lock proves the former owner dead."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lash_tasks import Client, Settings
from lash_tasks.errors import LashError
from lash_tasks.observation.receipts import ReceiptState
from tests.embedded.application import AGENT, application, lines
from tests.services import wait_until

pytestmark = pytest.mark.timeout(300)  # on a busy machine a Python process takes long to start

PATIENCE = 60.0
"""A small part of the application's lease: what is answered within it has not waited for one."""


@contextmanager
def child(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The application in a process of its own, killed at the latest when the context ends."""
    command = [sys.executable, "-m", "tests.embedded.application", str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: serves(directory), PATIENCE, "the child to start")
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def client(directory: Path) -> Client:
    return Client(Settings(database_url=f"sqlite:///{directory / 'lash.db'}"))


def serves(directory: Path) -> bool:
    try:
        with client(directory) as sender:
            return AGENT in sender.agents()
    except LashError:
        return False


def test_a_turn_whose_process_was_killed_goes_on_without_waiting_for_its_lease(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with child(tmp_path) as process, client(tmp_path) as sender:
        receipt = sender.send("s", "call slow", agent=AGENT)
        wait_until(lambda: lines(tmp_path / "tool-runs"), PATIENCE, "the tool to begin")
        assert receipt.status().state is ReceiptState.RUNNING
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / "hold").unlink()

    with application(tmp_path) as lash:
        turn = lash.client.receipt("s", input_id=receipt.input_id).result(timeout=PATIENCE)

    assert turn.text == "slow returned: done"
    assert lines(tmp_path / "model-calls") == ["call slow", "call slow"]  # one before the tool, one after it
    first, second = lines(tmp_path / "tool-runs")
    assert first == second, "both attempts carry the same idempotency key"


def test_what_was_sent_while_nobody_ran_is_answered_at_the_start(tmp_path: Path) -> None:
    with child(tmp_path) as process, client(tmp_path) as sender:
        process.kill()
        process.wait()
        receipts = [sender.send(f"s{number % 3}", f"message {number}", agent=AGENT) for number in range(9)]
        assert {receipt.status().state for receipt in receipts} == {ReceiptState.QUEUED}

        with application(tmp_path):
            texts = [receipt.result(timeout=PATIENCE).text for receipt in receipts]

    assert texts == [f"You said: message {number}" for number in range(9)]


def test_a_second_death_without_progress_counts_as_an_attempt(tmp_path: Path) -> None:
    """Though no lease has to expire first, or a poisoned turn would be tried for ever."""
    (tmp_path / "hold").touch()
    for runs in (1, 2):
        with child(tmp_path) as process, client(tmp_path) as sender:
            receipt = sender.send("s", "call slow", agent=AGENT, idempotency_key="poison")
            wait_until(lambda: len(lines(tmp_path / "tool-runs")) == runs, PATIENCE, "the tool to begin")  # noqa: B023
            process.kill()
            process.wait()
    (tmp_path / "hold").unlink()

    with application(tmp_path) as lash:
        turn = lash.client.receipt("s", input_id=receipt.input_id).result(timeout=PATIENCE)

    assert turn.ok
    assert turn.attempt == 2  # the first death came after a recorded model call and did not count
    assert len(lines(tmp_path / "tool-runs")) == 3
