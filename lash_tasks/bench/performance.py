"""A whole benchmark: servers and database, the scenes in their order, as often as was asked for."""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from lash_tasks.bench import control
from lash_tasks.bench.children import endpoint
from lash_tasks.bench.figures import medians
from lash_tasks.bench.places import BenchDatabase, BenchRedis, bench_database, bench_redis
from lash_tasks.bench.private_servers import private_postgres, private_redis
from lash_tasks.bench.profiling import require_profiler
from lash_tasks.bench.scenes import Scene, play
from lash_tasks.bench.sizes import Sizes
from lash_tasks.bench.stage import Progress, Stage
from lash_tasks.clock import SystemClock
from lash_tasks.errors import ConfigurationError
from lash_tasks.settings import Settings
from lash_tasks.stores.sql import schema

FORMAT = 1
KEPT_VARIABLES = frozenset({"LASH_DATABASE_OPTIONS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done, and where."""

    settings: Settings
    scenes: Sequence[Scene]
    sizes: Sizes
    runs: int = 1
    private_postgres: bool = False
    private_redis: bool = False
    profiles: Path | None = None
    """Where the workers' profiles go; such a run has figures of its own."""


def perform(order: Order, progress: Progress) -> dict[str, Any]:
    """Run the scenes, and return what is printed and stored. ConfigurationError says what is missing."""
    if order.profiles is not None:
        require_profiler()
    with _ended_in_order(), _stage(order, progress) as stage:
        every: list[dict[str, Any]] = []
        for number in range(1, order.runs + 1):
            if order.runs > 1:
                progress.say(f"run {number} of {order.runs}")
            every.append({scene.value: play(scene, stage, order.sizes) for scene in order.scenes})
        return {
            "format": FORMAT,
            "at_ms": SystemClock().now_ms(),
            "versions": {name: version(name) for name in ("lash-tasks", "celery", "httpx", "psycopg", "redis")},
            "machine": _machine(),
            "postgres": stage.database.settings(),
            "redis": {"server_version": stage.redis.version},
            "sizes": asdict(order.sizes),
            "profiled": order.profiles is not None,
            "runs": every,
            "medians": medians(every),
        }


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """End at SIGTERM as at Ctrl-C: with the workers stopped and the database dropped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _stage(order: Order, progress: Progress) -> Iterator[Stage]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lash-bench-")))
        server_url, redis_server_url = _servers(order, directory, stack)
        redis_url = stack.enter_context(bench_redis(redis_server_url))
        url = stack.enter_context(bench_database(server_url))
        progress.say("creating the tables")
        schema.upgrade(url)
        database = BenchDatabase(server_url, url)
        stack.callback(database.close)
        with database.connected() as connection:
            connection.execute(control.TABLES)
        child, endpoint_url = stack.enter_context(endpoint(directory / "endpoint.log"))
        stage = Stage(
            database=database,
            redis=BenchRedis(redis_url),
            endpoint=child,
            endpoint_url=endpoint_url,
            environment=_environment(url, redis_url, endpoint_url, order.sizes.lease_ttl),
            directory=directory,
            progress=progress,
            keeps_workers=order.sizes.keeps_workers,
            profiles=order.profiles,
        )
        yield stack.enter_context(stage.open())


def _servers(order: Order, directory: Path, stack: ExitStack) -> tuple[str, str]:
    """The URLs of Postgres and Redis, started where they are to be private."""
    if order.private_postgres:
        server_url = stack.enter_context(private_postgres(directory))
    else:
        server_url = order.settings.require_database_url()
        if order.settings.dialect != "postgresql":
            raise ConfigurationError(
                "the benchmark measures workers on Postgres; set LASH_DATABASE_URL to postgresql://…, "
                "or use --private-postgres"
            )
    if order.private_redis:
        return server_url, stack.enter_context(private_redis(directory))
    if order.settings.redis_url is None:
        raise ConfigurationError("Set LASH_REDIS_URL, or use --private-redis")
    return server_url, order.settings.redis_url


def _environment(database_url: str, redis_url: str, endpoint_url: str, lease_ttl: float) -> Mapping[str, str]:
    """The environment of workers and driver: ours for what is ours, the caller's for the rest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LASH_") or name in KEPT_VARIABLES}
    return {
        **kept,
        "LASH_DATABASE_URL": database_url,
        "LASH_REDIS_URL": redis_url,
        "LASH_LEASE_TTL": str(lease_ttl),
        "OPENAI_BASE_URL": endpoint_url,
        "OPENAI_API_KEY": "bench",
    }


def _machine() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "processors": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
    }
