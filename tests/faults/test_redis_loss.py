"""Redis loses everything in mid-load: nothing is lost, nothing is committed twice, no running turn is dropped."""

from __future__ import annotations

import pytest
import redis

from tests.faults.cluster import Cluster
from tests.faults.load import run_with_loss
from tests.services import PrivateRedis

pytestmark = pytest.mark.timeout(180)


def test_a_flushall_in_mid_load_changes_latency_only(cluster: Cluster, private_redis: PrivateRedis) -> None:
    def flush() -> None:
        with redis.Redis.from_url(private_redis.url) as connection:
            connection.flushall()

    run_with_loss(cluster, flush)


def test_a_redis_restart_in_mid_load_changes_latency_only(cluster: Cluster, private_redis: PrivateRedis) -> None:
    run_with_loss(cluster, private_redis.restart)
