"""What `lash-tasks doctor` looks at: each look is one finding, with advice where something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import text

from lash_tasks.celery import create_celery
from lash_tasks.cli.application import MAKE_DATABASE, missing_file
from lash_tasks.cli.output import counted
from lash_tasks.clock import SystemClock
from lash_tasks.domain.queue import BatchState
from lash_tasks.errors import ConfigurationError, LeaseStoreUnavailable, SchemaBehind, StoreUnavailable
from lash_tasks.observation.held import LivingCode
from lash_tasks.queues import ROUTES, Names
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import Stores, open_stores
from lash_tasks.stores.sql import schema

CLOCK_SKEW_MS = 2000
LONG_WAIT_MS = 30_000
LOOK_AT_INPUTS = 1000
LOOK_AT_TURNS = 1000
SHOW_TURNS = 5


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do about it."""

    check: str
    health: Health
    message: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order in which trouble should be mended."""
    stores = _opened(settings)
    if isinstance(stores, Finding):
        yield stores
        return
    try:
        database = _database(stores)
        yield database
        schema_finding = _schema(stores) if database.health is Health.OK else None
        if schema_finding is not None:
            yield schema_finding
            yield _clocks(stores)
        if settings.dialect == "postgresql":
            yield _redis(settings, stores)
            yield _broker(settings)
        if schema_finding is not None and schema_finding.health is Health.OK:
            living = LivingCode(stores.fleet)
            yield from _workers(settings, living)
            yield _waiting(stores, living)
            if living.workers:
                yield _held(stores, living)
    finally:
        stores.close()


def _opened(settings: Settings) -> Stores | Finding:
    """The stores, or why there are none: a SQLite file is opened at once, a server at the first use."""
    try:
        missing = missing_file(settings)
        if missing is not None:
            return Finding("database", Health.FAILED, f"there is none at {missing}", MAKE_DATABASE)
        return open_stores(settings, allow_memory_leases=True)
    except StoreUnavailable as error:
        return Finding("database", Health.FAILED, error.sentence(), "check LASH_DATABASE_URL and who may open the file")
    except ConfigurationError as error:
        return Finding("settings", Health.FAILED, error.sentence(), "mend it: nothing starts with it")


def _database(stores: Stores) -> Finding:
    try:
        with stores.database.reading() as connection:
            connection.execute(text("SELECT 1"))
    except StoreUnavailable as error:
        return Finding("database", Health.FAILED, error.sentence(), "check LASH_DATABASE_URL and that the server runs")
    return Finding("database", Health.OK, f"{stores.database.dialect} answers")


def _schema(stores: Stores) -> Finding:
    try:
        schema.check(stores.database.engine)
    except ConfigurationError as error:
        return Finding("schema", Health.FAILED, error.sentence(), "check LASH_DATABASE_SCHEMA and LASH_NAMESPACE")
    except SchemaBehind as error:
        problem, _, advice = error.sentence().partition("; ")
        return Finding("schema", Health.FAILED, problem, advice)
    where = "" if stores.database.schema is None else f" in {stores.database.schema}"
    return Finding("schema", Health.OK, f"at {schema.current(stores.database.engine)}{where}")


def _clocks(stores: Stores) -> Finding:
    with stores.database.reading() as connection:
        statement = text(f"SELECT {stores.database.now_sql}")
        there = int(connection.execute(statement, {"now_ms": stores.database.now_override()}).scalar_one())
    skew = abs(there - SystemClock().now_ms())
    if skew > CLOCK_SKEW_MS:
        return Finding(
            "clocks", Health.WARNING, f"this machine and the database differ by {skew / 1000:.1f} s", "run NTP on both"
        )
    return Finding("clocks", Health.OK, f"{skew} ms apart")


def _redis(settings: Settings, stores: Stores) -> Finding:
    if settings.redis_url is None:
        return Finding("redis", Health.FAILED, "LASH_REDIS_URL is not set", "set it: workers need it for leases")
    try:
        stores.leases.held(["doctor"])
    except LeaseStoreUnavailable as error:
        return Finding("redis", Health.FAILED, error.sentence(), "check LASH_REDIS_URL and that the server runs")
    return Finding("redis", Health.OK, "answers")


def _broker(settings: Settings) -> Finding:
    url = settings.effective_broker_url()
    if url is None:
        return Finding("broker", Health.FAILED, "no broker is configured", "set LASH_BROKER_URL or LASH_REDIS_URL")
    app = create_celery("lash-doctor", url, only_sends=True)
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
    except ImportError as error:
        return Finding("broker", Health.FAILED, f"cannot be used: {error}", "install what kombu needs for this broker")
    except Exception as error:
        reason = f"cannot be reached ({type(error).__name__})"
        return Finding("broker", Health.FAILED, reason, "check LASH_BROKER_URL and that the server runs")
    finally:
        app.close()
    return Finding("broker", Health.OK, "answers")


def _workers(settings: Settings, living: LivingCode) -> Iterator[Finding]:
    live = living.workers
    agents = ", ".join(sorted(living.agents)) or "none"
    if not live:
        start = "lash-tasks -A <module> up" if settings.dialect == "sqlite" else "celery -A <module> worker -P threads"
        yield Finding("workers", Health.FAILED, "no worker lives", f"start one: {start}")
        return
    yield Finding("workers", Health.OK, f"{len(live)} live; agents: {agents}")
    if settings.dialect == "sqlite":
        return
    served = {queue for worker in live for queue in worker.queues}
    names = Names(settings.namespace)
    missing = sorted({names.queue(queue) for queue in ROUTES.values()} - served)
    if missing:
        advice = f"add them to a worker: -Q {','.join(missing)}"
        yield Finding("queues", Health.FAILED, f"nobody serves {', '.join(missing)}", advice)
    else:
        yield Finding("queues", Health.OK, "every queue is served")


def _waiting(stores: Stores, living: LivingCode) -> Finding:
    batches = stores.queue.waiting(limit=LOOK_AT_INPUTS)
    now_ms = SystemClock().now_ms()
    ready = [batch for batch in batches if batch.state is BatchState.READY and batch.available_at_ms <= now_ms]
    served = living.agents or {agent.name for agent in stores.fleet.agents()}
    held = sorted({batch.agent for batch in ready} - served)
    if held:
        return Finding("waiting work", Health.WARNING, f"held: nobody serves {', '.join(held)}", "deploy these agents")
    left = [] if living.workers else stores.work.abandoned(None, LOOK_AT_TURNS)
    oldest_ms = max((now_ms - batch.available_at_ms for batch in ready), default=0)
    parts = [f"{counted(len(left), 'unfinished turn')} whose worker is gone"] if left else []
    if ready:
        parts.append(f"{counted(len(ready), 'input')} in the queue, the oldest for {oldest_ms / 1000:.1f} s")
    message = "; ".join(parts) or "nothing waits"
    if not left and oldest_ms <= LONG_WAIT_MS:
        return Finding("waiting work", Health.OK, message)
    more = "start more workers or raise their concurrency"
    return Finding(
        "waiting work", Health.WARNING, message, more if living.workers else "start a worker: it takes this up"
    )


def _held(stores: Stores, living: LivingCode) -> Finding:
    held = list(living.held(stores.work, LOOK_AT_TURNS))
    if not held:
        return Finding("held turns", Health.OK, "every unfinished turn has a worker with its code")
    named = "; ".join(f"turn {one.turn_id} of session {one.session_id}: {one.why}" for one in held[:SHOW_TURNS])
    more = f"; and {len(held) - SHOW_TURNS} more" if len(held) > SHOW_TURNS else ""
    return Finding(
        "held turns",
        Health.WARNING,
        f"held: {named}{more}",
        "start a worker of the version that began them, or cancel them: lash-tasks turns cancel SESSION TURN",
    )
