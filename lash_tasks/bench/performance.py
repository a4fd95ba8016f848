"""A whole benchmark: servers and database, the scenes in their order, as often as was asked for."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from lash_tasks.bench import control
from lash_tasks.bench.children import endpoint
from lash_tasks.bench.figures import medians
from lash_tasks.bench.places import BenchDatabase, BenchRedis, bench_database, bench_redis
from lash_tasks.bench.scenes import Scene, Sizes, play
from lash_tasks.bench.stage import Progress, Stage
from lash_tasks.clock import SystemClock
from lash_tasks.errors import ConfigurationError
from lash_tasks.settings import Settings
from lash_tasks.stores.sql import schema

FORMAT = 1
KEPT_VARIABLES = frozenset({"LASH_DATABASE_OPTIONS"})


def perform(settings: Settings, scenes: Sequence[Scene], sizes: Sizes, runs: int, progress: Progress) -> dict[str, Any]:
    """Run the scenes, and return what is printed and stored. ConfigurationError says what is missing."""
    with _stage(settings, progress) as stage:
        every: list[dict[str, Any]] = []
        for number in range(1, runs + 1):
            if runs > 1:
                progress.say(f"run {number} of {runs}")
            every.append({scene.value: play(scene, stage, sizes) for scene in scenes})
        return {
            "format": FORMAT,
            "at_ms": SystemClock().now_ms(),
            "versions": {name: version(name) for name in ("lash-tasks", "celery", "httpx", "psycopg", "redis")},
            "machine": _machine(),
            "postgres": stage.database.settings(),
            "redis": {"server_version": stage.redis.version},
            "sizes": asdict(sizes),
            "runs": every,
            "medians": medians(every),
        }


@contextmanager
def _stage(settings: Settings, progress: Progress) -> Iterator[Stage]:
    server_url = settings.require_database_url()
    if settings.dialect != "postgresql":
        raise ConfigurationError("the benchmark measures workers on Postgres; set LASH_DATABASE_URL to postgresql://…")
    if settings.redis_url is None:
        raise ConfigurationError("Set LASH_REDIS_URL")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lash-bench-")))
        redis_url = stack.enter_context(bench_redis(settings.redis_url))
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
            environment=_environment(url, redis_url, endpoint_url),
            directory=directory,
            progress=progress,
        )
        stack.enter_context(stage.accountant.working())
        yield stage


def _environment(database_url: str, redis_url: str, endpoint_url: str) -> Mapping[str, str]:
    """The environment of workers and driver: ours for what is ours, the caller's for the rest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LASH_") or name in KEPT_VARIABLES}
    return {
        **kept,
        "LASH_DATABASE_URL": database_url,
        "LASH_REDIS_URL": redis_url,
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
