"""Where a benchmark runs: a Postgres database of its own, an empty Redis database, and what both servers tell."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from redis import Redis
from redis.exceptions import RedisError

from lash_tasks.bench.accounting import is_local
from lash_tasks.errors import ConfigurationError

DATABASE_PREFIX = "lash_bench_"
REDIS_OWNER = "lash:bench:owner"
OWNER_SECONDS = 3600
REDIS_DATABASES = 16


@dataclass(frozen=True, slots=True)
class Meter:
    """What the database server has counted up to `at_ms` of its own clock. WAL is of the whole server."""

    at_ms: int
    wal: int
    transactions: int


class BenchDatabase:
    """What can be read of the benchmark's database and its server, through connections that it does not count.

    Safe from any thread.
    """

    def __init__(self, server_url: str, url: str) -> None:
        self.url = plain(url)
        self.name = urlsplit(url).path.lstrip("/")
        # A connection to another database, because its own transactions must not be counted.
        self._beside = psycopg.connect(plain(server_url), autocommit=True, application_name="lash-bench")
        self._own_pid = self._beside.info.backend_pid
        self._is_local = is_local(self._own_pid, "postgres")

    def meter(self) -> Meter:
        row = self._beside.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,"
            " (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint, xact_commit"
            " FROM pg_stat_database WHERE datname = %s",
            (self.name,),
        ).fetchone()
        assert row is not None
        return Meter(*row)

    def processes(self) -> Mapping[int, str]:
        """The server's own processes and the backends of the benchmark's database; empty if they are elsewhere."""
        if not self._is_local:
            return {}
        rows = self._beside.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s OR datname IS NULL OR pid = %s",
            (self.name, self._own_pid),
        ).fetchall()
        return {pid: "postgres" for (pid,) in rows}

    def settings(self) -> dict[str, str]:
        names = ["server_version", "fsync", "full_page_writes", "synchronous_commit", "wal_compression"]
        rows = self._beside.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (names,)).fetchall()
        return {"database": self.name, **{str(name): str(setting) for name, setting in rows}}

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection to the database itself, for before and after what is measured."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            yield connection

    def close(self) -> None:
        self._beside.close()


class BenchRedis:
    """The process of the Redis server, where it runs on this machine."""

    def __init__(self, url: str) -> None:
        with Redis.from_url(url) as client:
            server = client.info("server")
        self.version = str(server["redis_version"])
        self._pid = int(server["process_id"])
        self._is_local = is_local(self._pid, "redis", "valkey")

    def processes(self) -> Mapping[int, str]:
        return {self._pid: "redis"} if self._is_local else {}


@contextmanager
def bench_database(server_url: str) -> Iterator[str]:
    """The URL of a new, empty database on the server, dropped at the end. ConfigurationError where that may not be."""
    name = f"{DATABASE_PREFIX}{secrets.token_hex(6)}"
    try:
        with psycopg.connect(plain(server_url), autocommit=True, connect_timeout=10) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigurationError(
            "the benchmark makes a database of its own, and the user of LASH_DATABASE_URL may not: "
            "give it CREATEDB, or use --private-postgres"
        ) from None
    except psycopg.OperationalError as error:
        raise ConfigurationError(f"LASH_DATABASE_URL: {str(error).strip()}") from None
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(plain(server_url), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def bench_redis(server_url: str) -> Iterator[str]:
    """The URL of a Redis database that was empty, and is again at the end: the one named, else one beside it."""
    parts = urlsplit(server_url)
    if parts.scheme not in ("redis", "rediss"):
        raise ConfigurationError("LASH_REDIS_URL: the benchmark needs a plain redis:// or rediss:// server")
    named = int(parts.path.lstrip("/") or 0) if parts.path.lstrip("/").isdigit() or parts.path in ("", "/") else 0
    token = secrets.token_hex(8)
    for number in (named, *(n for n in range(REDIS_DATABASES - 1, 0, -1) if n != named)):
        url = parts._replace(path=f"/{number}").geturl()
        if _claim(url, token):
            break
    else:
        raise ConfigurationError(
            "the benchmark needs an empty Redis database and none of this server's is: point LASH_REDIS_URL at another"
        )
    try:
        yield url
    finally:
        with Redis.from_url(url) as client:
            if client.get(REDIS_OWNER) == token.encode():
                client.flushdb()


def _claim(url: str, token: str) -> bool:
    """Mark an empty database as ours; False where there is something in it, or no such database."""
    with Redis.from_url(url, socket_connect_timeout=5) as client:
        try:
            client.ping()
            if client.dbsize() or not client.set(REDIS_OWNER, token, nx=True, ex=OWNER_SECONDS):
                return False
            if client.dbsize() == 1:
                return True
            client.delete(REDIS_OWNER)  # somebody else came at the same moment
            return False
        except RedisError as error:
            if "DB index is out of range" in str(error):
                return False
            raise ConfigurationError(f"LASH_REDIS_URL: {error}") from None


def plain(url: str) -> str:
    """A URL of ours as psycopg reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
