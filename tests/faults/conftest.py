"""The cluster that a fault test runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.endpoint import ModelEndpoint, Stalling
from tests.faults.cluster import Cluster
from tests.services import PrivateRedis

LEASE_TTL = 3.0
_FIGURES = pytest.StashKey[dict[str, float]]()


@pytest.fixture
def endpoint() -> Iterator[ModelEndpoint]:
    with ModelEndpoint(Stalling()) as endpoint:
        yield endpoint


@pytest.fixture
def private_redis() -> Iterator[PrivateRedis]:
    """A Redis of the test's own, to be flushed, killed and restarted."""
    with PrivateRedis() as server:
        yield server


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str, private_redis: PrivateRedis, endpoint: ModelEndpoint) -> Cluster:
    """Own database, own Redis, counting endpoint; a lease lives for LEASE_TTL seconds."""
    return Cluster(tmp_path, postgres_url, private_redis.url, endpoint, LEASE_TTL)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Show a measured figure in the summary of the run, under the test's name."""
    figures = request.config.stash.setdefault(_FIGURES, {})

    def show(name: str, value: float) -> None:
        figures[f"{request.node.name}: {name}"] = value

    return show


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The figures of the fault tests, such as the time from kill to commit."""
    for name, value in sorted(config.stash.get(_FIGURES, {}).items()):
        terminalreporter.write_line(f"{name} {value:.2f}")
