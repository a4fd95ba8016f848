"""`lash-tasks demo`: the main job with nothing but Python, and a worker killed in the middle of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.calling import run

pytestmark = pytest.mark.timeout(120)


def test_the_demo_holds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    printed = run("demo", cwd=tmp_path, TMPDIR=str(tmp_path))

    assert printed.exit_code == 0, printed
    headline, *lines = printed.stdout.splitlines()
    assert headline == "The demo held:"
    assert len(lines) == 7
    assert all(line.startswith("  yes  ") for line in lines)
    assert "The child is killed (SIGKILL) in the middle of a turn" in printed.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_demo_needs_no_settings_and_minds_none(tmp_path: Path) -> None:
    elsewhere = {
        "LASH_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "LASH_REDIS_URL": "redis://127.0.0.1:1",
    }
    printed = run("demo", "--json", cwd=tmp_path, **elsewhere)

    assert printed.exit_code == 0, printed
    assert printed.document["ok"] is True
    assert set(printed.document["proved"].values()) == {True}
    assert printed.stderr == ""
