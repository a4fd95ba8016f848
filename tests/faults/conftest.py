"""The cluster that a fault test runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endpoint import ModelEndpoint, Stalling
from tests.faults.cluster import Cluster
from tests.services import PrivateRedis

LEASE_TTL = 3.0


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
