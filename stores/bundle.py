"""All stores of one application, opened from its settings."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from lash_tasks.errors import ConfigurationError
from lash_tasks.settings import Settings
from lash_tasks.stores.protocols import (
    Admissions,
    AttachmentStore,
    BlobStore,
    Fleet,
    FrameStore,
    GraphStore,
    InputQueue,
    Leases,
    LiveReplay,
    SessionRegistry,
    SessionStore,
    Slots,
    TurnStore,
    WorkStore,
)
from lash_tasks.stores.sql.attachments import SqlAttachmentStore
from lash_tasks.stores.sql.blobs import SqlBlobStore
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fleet import SqlFleet
from lash_tasks.stores.sql.frames import SqlFrameStore
from lash_tasks.stores.sql.graph import SqlGraphStore
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from lash_tasks.stores.sql.sessions import SqlSessionStore
from lash_tasks.stores.sql.turns import SqlTurnStore
from lash_tasks.stores.sql.work import SqlWorkStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Every store, over one database and one Redis or its stand-ins."""

    queue: InputQueue
    turns: TurnStore
    sessions: SessionStore
    frames: FrameStore
    graph: GraphStore
    registry: SessionRegistry
    fleet: Fleet
    work: WorkStore
    blobs: BlobStore
    attachments: AttachmentStore
    leases: Leases
    slots: Slots
    live: LiveReplay
    admissions: Admissions
    database: Database
    _close_shared: Callable[[], None] = field(repr=False)

    def close(self) -> None:
        """Close every connection, once nothing uses the stores any more. Idempotent."""
        self._close_shared()
        self.database.close()


def open_stores(
    settings: Settings, *, allow_memory_leases: bool = False, now_ms: Callable[[], int] | None = None
) -> Stores:
    """The stores that the settings name. Servers are connected to at the first use; the schema is not looked at.

    ConfigurationError if no database is set, or if it is Postgres without a Redis: leases inside one process keep no
    other process away. A client takes none, so it may say `allow_memory_leases`. `now_ms` replaces the database's
    clock, for tests.
    """
    settings.require_database_url()
    if settings.redis_url is None and settings.dialect == "postgresql" and not allow_memory_leases:
        raise ConfigurationError("Set LASH_REDIS_URL: workers on Postgres keep out of each other's way through Redis")
    leases, slots, live, admissions, close_shared = _shared(settings.redis_url, settings.namespace)
    database = open_database(settings, now_ms=now_ms)
    return Stores(
        queue=SqlInputQueue(database),
        turns=SqlTurnStore(database, worker_ttl_ms=settings.lease_ttl_ms),
        sessions=SqlSessionStore(database),
        frames=SqlFrameStore(database),
        graph=SqlGraphStore(database),
        registry=SqlSessionRegistry(database),
        fleet=SqlFleet(database, worker_ttl_ms=settings.lease_ttl_ms),
        work=SqlWorkStore(database, worker_ttl_ms=settings.lease_ttl_ms, blobs_after=secrets.token_hex(2)),
        blobs=SqlBlobStore(database),
        attachments=SqlAttachmentStore(database),
        leases=leases,
        slots=slots,
        live=live,
        admissions=admissions,
        database=database,
        _close_shared=close_shared,
    )


def open_database(settings: Settings, *, now_ms: Callable[[], int] | None = None) -> Database:
    """The database of the settings, and the schema in it that is this application's."""
    return Database.open(
        settings.require_database_url(),
        options=settings.database_options,
        schema=settings.effective_schema(),
        namespace=settings.namespace,
        now_ms=now_ms,
    )


def _shared(redis_url: str | None, namespace: str) -> tuple[Leases, Slots, LiveReplay, Admissions, Callable[[], None]]:
    """What workers share beside SQL. The client library of Redis is imported only where there is one."""
    if redis_url is None:
        from lash_tasks.stores.memory import open_memory_stores

        memory = open_memory_stores()
        return memory.leases, memory.slots, memory.live, memory.admissions, memory.close
    from lash_tasks.stores.redis import open_redis_stores

    redis = open_redis_stores(redis_url, namespace=namespace)
    return redis.leases, redis.slots, redis.live, redis.admissions, redis.close
