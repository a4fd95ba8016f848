"""Connections to Redis: what a URL means, how long a call may take, and what its failure is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import ReadOnlyError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from lash_tasks.errors import ConfigurationError, LeaseStoreUnavailable

COMMAND_SECONDS = 1.0
APPEND_SECONDS = 0.25
"""A running turn waits for an append, so a silent Redis may cost it no more."""
BLOCK_SECONDS = 5.0
"""How long one XREAD may block."""
MAX_CONNECTIONS = 1024
"""More than a worker has threads; a thread holds at most one connection of a kind."""
SENTINEL_PORT = 26379

_Open = Callable[[float], Redis]

# redis-py gives these no types, or none that options from a URL fit.
_parse_url: Callable[[str], dict[str, object]] = parse_url
_pool: Callable[..., ConnectionPool] = ConnectionPool
_sentinel_manager: Callable[..., Sentinel] = Sentinel


@dataclass(frozen=True, slots=True, repr=False)
class Connections:
    """One client for each tolerance for waiting. Nothing is connected before the first command.

    Not every redis-py hides passwords in its reprs, so there is none here.
    """

    commands: Redis
    appends: Redis
    blocking: Redis
    _sentinels: tuple[Redis, ...] = ()

    def close(self) -> None:
        for client in (self.commands, self.appends, self.blocking, *self._sentinels):
            client.close()


def connect(url: str) -> Connections:
    """Clients for `redis://`, `rediss://`, `unix://` and `sentinel://host:port,host:port/master_name/db`.

    ConfigurationError for any other URL; it repeats no part of it, for there is a password inside.
    """
    try:
        open_client, sentinels = _sentinel(url) if url.startswith("sentinel://") else (_direct(url), ())
        commands = open_client(COMMAND_SECONDS)
        _refuse_unknown_options(commands)
        return Connections(commands, open_client(APPEND_SECONDS), open_client(BLOCK_SECONDS + 2), sentinels)
    except (ValueError, TypeError, RedisError):
        raise ConfigurationError(
            "LASH_REDIS_URL must be redis://host:port/db, rediss://host:port/db, unix:///path?db=0 or "
            "sentinel://host:port,host:port/master_name/db"
        ) from None


@contextmanager
def reaching_redis(client: Redis) -> Iterator[None]:
    """Any failure of Redis inside is LeaseStoreUnavailable: unreachable, loading, read-only, out of memory, closed.

    When `close` takes its connection away from a thread that reads, redis-py meets a closed file or none at all.
    """
    try:
        yield
    except (RedisError, ValueError, AttributeError) as error:
        if isinstance(error, ReadOnlyError):
            leave_replica(client)
        raise LeaseStoreUnavailable(
            f"Redis cannot be used ({type(error).__name__}); check that LASH_REDIS_URL names a server that runs "
            "and accepts writes"
        ) from error


def leave_replica(client: Redis) -> None:
    """After a failover the name may lead to the new primary, but only a new connection asks for it."""
    client.connection_pool.disconnect(inuse_connections=False)


def _direct(url: str) -> _Open:
    given = _parse_url(url)
    tcp = {} if url.startswith("unix://") else {"socket_keepalive": True}

    def open_client(seconds: float) -> Redis:
        return Redis.from_pool(_pool(**(given | tcp | _options(seconds))))

    return open_client


def _sentinel(url: str) -> tuple[_Open, tuple[Redis, ...]]:
    parts = urlsplit(url)
    master, _, db = parts.path.strip("/").partition("/")
    if not master or parts.query:
        raise ValueError("sentinel://host:port/master_name/db")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    database = {"db": int(db or 0), "username": unquote(user) or None, "password": unquote(password) or None}
    # Several may have to be asked in turn, within the time of one command.
    manager = _sentinel_manager([_host(host) for host in hosts.split(",")], sentinel_kwargs=_options(APPEND_SECONDS))
    master_for: Callable[..., Redis] = manager.master_for

    def open_client(seconds: float) -> Redis:
        return master_for(master, socket_keepalive=True, **(database | _options(seconds)))

    return open_client, tuple(manager.sentinels)


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if parts.hostname is None:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or SENTINEL_PORT


def _options(seconds: float) -> dict[str, object]:
    return {
        "socket_timeout": seconds,
        "socket_connect_timeout": min(seconds, COMMAND_SECONDS),
        "health_check_interval": 25,
        "max_connections": MAX_CONNECTIONS,
        # A second attempt could find that the first took the lease. The pool replaces connections that were closed.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _refuse_unknown_options(client: Redis) -> None:
    """Build a connection without using it: redis-py would notice a wrong option only at the first command."""
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
