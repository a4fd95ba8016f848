"""The composition root: which classes stand behind the Protocols, for clients and for workers."""

from __future__ import annotations

import os
import secrets
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import celery

from lash_tasks.celery import create_celery
from lash_tasks.clock import Clock, SystemClock
from lash_tasks.dispatch import CeleryDoorbell, SilentDoorbell
from lash_tasks.domain.ids import LeaseToken, WorkerId
from lash_tasks.ports import Doorbell
from lash_tasks.providers import open_providers
from lash_tasks.providers.named import NamedProvider
from lash_tasks.queues import Names
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.runtime.gatekeeper import Gatekeeper
from lash_tasks.runtime.ingress import Ingress
from lash_tasks.runtime.live_writer import LiveWriter
from lash_tasks.runtime.phases import PhaseProbe
from lash_tasks.runtime.registrar import Registrar
from lash_tasks.runtime.running_worker import RunningWorker
from lash_tasks.runtime.services import RuntimeServices
from lash_tasks.runtime.session_runner import in_turn
from lash_tasks.runtime.worker import Worker
from lash_tasks.settings import Settings, checked_settings
from lash_tasks.stores.bundle import Stores, open_stores
from lash_tasks.stores.protocols import Pruning, WorkerRecord
from lash_tasks.stores.sql import schema
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.calling import OpenDeps
from lash_tasks.tools.dispatch import ToolDispatcher
from lash_tasks.tools.hooks import HookDispatcher
from lash_tasks.tools.rounds import RoundExecutor

DAY_MS = 86_400_000
ROUND_THREADS = 64


def new_id() -> str:
    """An id that nothing else has."""
    return uuid.uuid4().hex


def new_session_id() -> str:
    """An id for a session that was given none."""
    return str(uuid.uuid4())


def new_token() -> LeaseToken:
    return LeaseToken(secrets.token_hex(16))


# ---------------------------------------------------------------- clients


@dataclass(frozen=True, kw_only=True)
class ClientParts:
    """What a `Client` works with."""

    settings: Settings
    stores: Stores
    doorbell: Doorbell
    ingress: Ingress
    registrar: Registrar
    clock: Clock
    in_worker: Callable[[], bool]
    close: Callable[[], None]


def open_client_parts(settings: Settings | None = None, *, app: celery.Celery | None = None) -> ClientParts:
    """Parts for a service that sends and reads. ConfigurationError and SchemaBehind come now, not at the first call.

    With `app` they ring through its broker, otherwise through that of the settings.
    """
    settings = checked_settings(settings) or Settings.from_environment()
    settings.require_database_url()
    if settings.dialect == "sqlite":
        settings = settings.embedded()
    clock = SystemClock()
    stores = _open_current(settings, allow_memory_leases=True)
    doorbell, close_doorbell = _client_doorbell(settings, app, clock)

    def close() -> None:
        close_doorbell()
        stores.close()

    return client_parts(settings, stores, doorbell, clock, close)


def _client_doorbell(
    settings: Settings, app: celery.Celery | None, clock: Clock
) -> tuple[Doorbell, Callable[[], None]]:
    """The doorbell of a client, and how to close what was opened for it."""
    names = Names(settings.namespace)
    broker_url = settings.effective_broker_url()
    if app is not None and settings.dialect != "sqlite":
        return CeleryDoorbell(app, clock, names), lambda: None
    if broker_url is None:
        return SilentDoorbell(), lambda: None
    own = create_celery("lash-client", broker_url, names, only_sends=True)
    return CeleryDoorbell(own, clock, names), own.close


def client_parts(
    settings: Settings, stores: Stores, doorbell: Doorbell, clock: Clock, close: Callable[[], None]
) -> ClientParts:
    """Parts over stores that somebody else has opened."""
    return ClientParts(
        settings=settings,
        stores=stores,
        doorbell=doorbell,
        ingress=open_ingress(settings, stores, doorbell, clock),
        registrar=Registrar(
            registry=stores.registry,
            sessions=stores.sessions,
            fleet=stores.fleet,
            new_session_id=new_session_id,
            max_payload_bytes=settings.max_payload_bytes,
        ),
        clock=clock,
        in_worker=_in_worker,
        close=close,
    )


def open_ingress(
    settings: Settings, stores: Stores, doorbell: Doorbell, clock: Clock, live: LiveWriter | None = None
) -> Ingress:
    return Ingress(
        queue=stores.queue,
        turns=stores.turns,
        sessions=stores.sessions,
        registry=stores.registry,
        doorbell=doorbell,
        live=live or LiveWriter(stores.live),
        clock=clock,
        new_id=new_id,
        max_payload_bytes=settings.max_payload_bytes,
    )


def _in_worker() -> bool:
    """Whether this thread belongs to a Celery task or to a turn, where waiting for a result may wait for itself."""
    return in_turn.get() or bool(celery.current_task)


# ---------------------------------------------------------------- workers


@dataclass(frozen=True, kw_only=True)
class WorkerParts:
    """A worker process and what it stands on."""

    running: RunningWorker
    stores: Stores
    ingress: Ingress
    close: Callable[[], None]


def open_worker(
    settings: Settings,
    *,
    agents: Mapping[str, Agent],
    providers: Mapping[str, NamedProvider],
    deps: OpenDeps | None,
    doorbell: Doorbell,
    queues: Sequence[str],
    stores: Stores | None = None,
    clock: Clock | None = None,
    reached: Callable[[CrashPoint], None] = nothing_happens,
    probe: PhaseProbe | None = None,
) -> WorkerParts:
    """A worker process, not yet started. Raises ConfigurationError and SchemaBehind."""
    clock = clock or SystemClock()
    stores = stores or _open_current(settings)
    registry = open_providers(settings, clock, providers)
    tools = ToolDispatcher(agents, deps=deps, clock=clock)
    rounds = RoundExecutor(ROUND_THREADS)
    worker = Worker(WorkerId(f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"), clock)
    gatekeeper = Gatekeeper(stores.admissions, registry, worker, clock, new_id, settings.lease_ttl_ms)
    services = RuntimeServices(
        clock=clock,
        turns=stores.turns,
        frames=stores.frames,
        sessions=stores.sessions,
        queue=stores.queue,
        graph=stores.graph,
        fleet=stores.fleet,
        work=stores.work,
        blobs=stores.blobs,
        leases=stores.leases,
        slots=stores.slots,
        live=LiveWriter(stores.live),
        doorbell=doorbell,
        agents=agents,
        providers=registry,
        gatekeeper=gatekeeper,
        tools=tools,
        hooks=HookDispatcher(agents, tools.caller),
        rounds=rounds,
        new_token=new_token,
        new_id=new_id,
        lease_ttl_ms=settings.lease_ttl_ms,
        reached=reached,
        probe=probe,
    )
    running = RunningWorker(
        services,
        worker,
        _record(worker.id, queues, clock),
        _pruning(settings),
        settings.drain_grace,
        Names(settings.namespace),
    )

    def close() -> None:
        running.stop()
        rounds.close()
        tools.close()
        registry.close()
        stores.close()

    return WorkerParts(
        running=running,
        stores=stores,
        ingress=open_ingress(settings, stores, doorbell, clock, services.live),
        close=close,
    )


def check_worker_settings(settings: Settings) -> None:
    """Raise what `open_worker` would refuse, and leave nothing open."""
    _open_current(settings).close()


def _open_current(settings: Settings, *, allow_memory_leases: bool = False) -> Stores:
    """The stores, over a database whose schema is what this code needs."""
    stores = open_stores(settings, allow_memory_leases=allow_memory_leases)
    try:
        schema.check(stores.database.engine)
    except BaseException:
        stores.close()
        raise
    return stores


def _record(worker: WorkerId, queues: Sequence[str], clock: Clock) -> WorkerRecord:
    now_ms = clock.now_ms()
    return WorkerRecord(
        worker=worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        queues=tuple(queues),
        version=version("lash-tasks"),
        started_at_ms=now_ms,
        seen_at_ms=now_ms,
        live=True,
    )


def _pruning(settings: Settings) -> Pruning:
    keep = settings.retention_days
    return Pruning(
        keys_after_ms=round(settings.key_retention_days * DAY_MS),
        journals_after_ms=None if keep is None else round(keep * DAY_MS),
    )
