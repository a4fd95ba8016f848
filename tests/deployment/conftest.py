"""Saying loudly what could not be tested."""

from __future__ import annotations

import pytest

COMPOSE = "docker-compose:"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if COMPOSE in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line("NOT TESTED: docker-compose.yml was not checked by docker-compose.", red=True)
