"""A thread of ours keeps a connection of Django's as long as a thread of Django's would, and no longer."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.django_project.conftest import EXAMPLE
from tests.faults.cluster import ROOT, Cluster


def test_a_connection_is_kept_until_it_is_too_old_or_broken(project: Cluster) -> None:
    """In a process of its own, because Django can be set up only once in one."""
    program = subprocess.run(
        [sys.executable, "-m", "tests.django_project.connections"],
        cwd=ROOT,
        env={
            **project.environment,
            "PYTHONPATH": f"{ROOT}:{EXAMPLE}",
            "DJANGO_SETTINGS_MODULE": "tests.django_project.settings",
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert program.returncode == 0, program.stderr[-3000:]
    calls = json.loads(program.stdout)

    assert set(calls) == {"plain", "coroutine", "instructions"}
    for name, (first, second, after_age, broken, after_break) in calls.items():
        assert first == second, f"{name}: kept between calls"
        assert after_age != second, f"{name}: replaced once it is too old"
        assert broken == "failed", f"{name}: Django finds out when it uses it"
        assert isinstance(after_break, int), f"{name}: replaced once it is known to be broken"
