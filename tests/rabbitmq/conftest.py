"""The cluster of the fault tests, with a RabbitMQ of the test's own as its broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endpoint import ModelEndpoint
from tests.faults import conftest as faults
from tests.faults.cluster import Cluster
from tests.faults.conftest import LEASE_TTL
from tests.rabbitmq.server import PrivateRabbitMQ
from tests.services import PrivateRedis, ServiceMissing

endpoint = faults.endpoint
private_redis = faults.private_redis


@pytest.fixture
def rabbitmq() -> Iterator[PrivateRabbitMQ]:
    try:
        server = PrivateRabbitMQ()
    except ServiceMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"RabbitMQ: {error}")
    with server:
        yield server


@pytest.fixture
def cluster(
    tmp_path: Path, postgres_url: str, private_redis: PrivateRedis, rabbitmq: PrivateRabbitMQ, endpoint: ModelEndpoint
) -> Cluster:
    """Own database, own Redis for leases, own RabbitMQ for messages, counting endpoint."""
    return Cluster(tmp_path, postgres_url, private_redis.url, endpoint, LEASE_TTL, broker_url=rabbitmq.url)
