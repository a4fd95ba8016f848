"""Clients in other processes write the same file and are heard at once, although nothing rings for them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lash_tasks import Client, Settings, embedded
from tests.embedded.application import AGENT, Model, application

PATIENCE = 20.0
HEARD_WITHIN_MS = 500
"""Of the median, on a machine that runs other tests beside; alone it is a few."""

SENDER = """
import json, sys
from lash_tasks import Client, Settings
from lash_tasks.clock import SystemClock
with Client(Settings(database_url=sys.argv[1])) as client:
    stored = {}
    for number in range(11):
        receipt = client.send("s", f"message {number}", agent=sys.argv[2])
        stored[f"message {number}"] = SystemClock().now_ms()
        assert receipt.result(timeout=20).text == f"You said: message {number}"
print(json.dumps(stored))
"""


def test_input_of_another_process_is_heard_without_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SWEEP_SECONDS", 3600.0)  # what is heard now was not found by the sweep
    model = Model(tmp_path)
    with application(tmp_path, model):
        command = [sys.executable, "-c", SENDER, f"sqlite:///{tmp_path / 'lash.db'}", AGENT]
        sender = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert sender.returncode == 0, sender.stderr

    stored = json.loads(sender.stdout)
    delays = [at - stored[text] for at, text in model.calls]
    assert len(delays) == 11
    assert statistics.median(delays) <= HEARD_WITHIN_MS, delays


def test_delayed_input_is_found_by_a_sweep_that_comes_more_often_than_the_fleet_s(tmp_path: Path) -> None:
    """Nothing is written when its time comes, and the passes of the periodic table come with the full second."""
    model = Model(tmp_path)
    with application(tmp_path, model) as lash:
        due = datetime.now(tz=UTC).replace(microsecond=300_000) + timedelta(seconds=1)
        receipt = lash.client.send("s", "later", agent=AGENT, available_at=due)
        assert receipt.result(timeout=PATIENCE).ok

    ((called_at, _),) = model.calls
    assert 0 <= called_at - due.timestamp() * 1000 < 600


def test_input_that_merges_is_answered_once_and_soon_after_it_has_been_quiet(tmp_path: Path) -> None:
    model = Model(tmp_path)
    with application(tmp_path, model) as lash:
        began = datetime.now(tz=UTC)
        parts = [
            lash.client.send("s", text, agent=AGENT, when="merge", merge_key="m", quiet=1) for text in ("a", "b", "c")
        ]
        sent = datetime.now(tz=UTC)
        turns = {part.result(timeout=PATIENCE).turn_id for part in parts}

    ((called_at, text),) = model.calls
    assert (len(turns), text) == (1, "c")
    assert (began + timedelta(seconds=1)).timestamp() * 1000 <= called_at <= (sent.timestamp() + 5) * 1000


def test_a_client_of_another_process_cancels_what_waits(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with (
        application(tmp_path) as lash,
        Client(Settings(database_url=f"sqlite:///{tmp_path / 'lash.db'}")) as other,
    ):
        first = lash.client.send("s", "call slow", agent=AGENT)
        second = lash.client.send("s", "never mind", agent=AGENT)
        assert other.cancel("s", input_id=second.input_id).verdict == "cancelled"
        (tmp_path / "hold").unlink()
        assert first.result(timeout=PATIENCE).ok
        assert str(second.status()) == "cancelled"
