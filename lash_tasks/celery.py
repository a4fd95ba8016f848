"""The Celery application: its settings, and the signals by which a worker process starts, drains and stops us."""

from __future__ import annotations

import os
import re
import signal
import threading
from importlib.metadata import version
from types import FrameType
from typing import Any, NoReturn, Protocol

import celery
from celery import signals
from kombu import Exchange
from kombu import Queue as KombuQueue

from lash_tasks import beat_schedule
from lash_tasks.errors import ConfigurationError, LashError
from lash_tasks.queues import NO_NAMESPACE, Names

DEFAULT_QUEUE = "celery"
DRAIN_SIGNAL = signal.SIGUSR2
"""How a prefork parent tells its children to drain: Celery leaves them waiting for their tasks without a limit."""

TRANSPORT_OPTIONS = {
    "max_retries": 0,  # of a sender: kombu would hold it up for seconds while the broker is down; workers go on trying
}
REDIS_TRANSPORT_OPTIONS = {
    **TRANSPORT_OPTIONS,
    "visibility_timeout": 3600,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    "max_connections": 1024,  # kombu's default of 10 loses acks under load
    "socket_keepalive": True,
    "health_check_interval": 25,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
}


class WorkerHooks(Protocol):
    """What a worker process calls at the turns of its life. The first two may refuse with a LashError."""

    def concerns(self, queues: tuple[str, ...]) -> bool:
        """Whether a process that serves `queues` is to call anything else here."""
        ...

    def start_worker(self, queues: tuple[str, ...], *, runs_tasks: bool) -> None:
        """In a process that serves `queues`; `runs_tasks` is False in a prefork parent."""
        ...

    def drain_worker(self) -> None:
        """Take nothing more and let go of what runs; called in a thread of its own."""
        ...

    def stop_worker(self) -> None: ...


def create_celery(
    name: str, broker_url: str | None, names: Names = NO_NAMESPACE, *, only_sends: bool = False
) -> celery.Celery:
    """An ordinary Celery application with the settings that durable sessions need (docs: the measured facts).

    One that `only_sends` has no fixups: Django's would make it the default app of a process that has another one.
    """
    app = celery.Celery(name, set_as_current=False, fixups=() if only_sends else None)
    app.conf.update(
        broker_url=broker_url or "memory://",
        broker_connection_retry_on_startup=True,
        broker_transport_options=dict(TRANSPORT_OPTIONS),
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_serializer="json",
        task_default_queue=DEFAULT_QUEUE,
        task_queues=[KombuQueue(DEFAULT_QUEUE), *map(declaration, consumable_queues(names))],
        task_create_missing_queues=False,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # AMQP: after a reconnect Celery would raise the prefetch count again from the pool's threads, each reading the
        # answer off the connection that the main thread is reading: the frames mix and the worker hears nothing.
        worker_enable_prefetch_count_reduction=False,
        broker_heartbeat=30,  # AMQP: a broker that is gone without a word is noticed within a minute, not four
        beat_schedule=celery_beat_schedule(names),
    )
    if is_redis(broker_url):
        app.conf.update(broker_transport_options=dict(REDIS_TRANSPORT_OPTIONS), worker_disable_prefetch=True)
    return app


def celery_without_broker(name: str, error: ConfigurationError) -> celery.Celery:
    """An application whose settings are wrong: its module can be imported, and whatever connects raises `error`.

    Celery prints the traceback of what the import of an application raises, and so nobody would read the sentence.
    """

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ConfigurationError(*error.args)

    app = celery.Celery(name, set_as_current=False)
    app.connection_for_read = app.connection_for_write = refuse
    return app


def consumable_queues(names: Names) -> tuple[str, ...]:
    """The queues of ours that a worker without `-Q` serves."""
    return (*names.worker_queues, names.process_queue("default"))


def declaration(queue: str) -> KombuQueue:
    """A queue of ours in the form in which Celery itself declares one that it was only told the name of.

    Everybody who declares it has to agree, foreign clients too. An exchange of its own keeps it off the app's default
    exchange, through which an app with topics would fill it with messages of its own.
    """
    return KombuQueue(queue, Exchange(queue), routing_key=queue)


def is_redis(url: str | None) -> bool:
    return (url or "").partition("://")[0] in ("redis", "rediss", "sentinel", "unix")


def celery_beat_schedule(names: Names = NO_NAMESPACE) -> dict[str, dict[str, Any]]:
    """The periodic table in Celery's form; a message that is not taken within its interval expires."""
    return {
        names.beat_entry(name): {
            "task": names.of(line.task),
            "schedule": line.every_seconds,
            "options": {**straight_to(names.of(line.queue)), "expires": line.every_seconds},
        }
        for name, line in beat_schedule.BEAT_SCHEDULE.items()
    }


def straight_to(queue: str) -> dict[str, Any]:
    """Options that send to a queue, and leave nothing of that open for the app's routes and defaults."""
    return {"queue": queue, "exchange": "", "routing_key": queue, "priority": 0}


# ---------------------------------------------------------------- worker processes


class _Process:
    """The hooks of the one Celery application that this process is a worker of."""

    hooks: WorkerHooks | None = None
    queues: tuple[str, ...] = ()
    prefork = False
    pool: Any = None


def install(app: celery.Celery, hooks: WorkerHooks) -> None:
    """Let workers of `app` start, drain and stop `hooks`."""

    def on_worker_init(sender: Any, **_: Any) -> None:
        if sender.app is not app:
            return
        pool = _pool_name(sender)
        queues = tuple(app.amqp.queues.consume_from)
        try:
            if not hooks.concerns(queues):
                return
            _Process.hooks, _Process.queues, _Process.prefork = hooks, queues, pool == "prefork"
            refuse_dangerous_settings(app, pool)
            if pool != "solo":  # solo has its own "process start" a moment later
                hooks.start_worker(_Process.queues, runs_tasks=not _Process.prefork)
        except LashError as error:
            # Celery logs and swallows what a signal handler raises, except this.
            raise SystemExit(f"lash-tasks: {error}") from None

    signals.worker_init.connect(on_worker_init, weak=False)


def refuse_dangerous_settings(app: celery.Celery, pool: str) -> None:
    """Raise ConfigurationError, one sentence, for what would lose work or never run it."""
    for package in ("celery", "kombu"):
        major, minor = map(int, re.findall(r"\d+", version(package))[:2])
        if (major, minor) < (5, 7):
            raise ConfigurationError(
                f"{package} {version(package)} has workers that stop consuming after a Redis blip; "
                f"install {package}>=5.7"
            )
    if pool in ("gevent", "eventlet", "celery.concurrency.gevent", "celery.concurrency.eventlet"):
        raise ConfigurationError(f"the {pool} pool loses acknowledgements; start the worker with -P threads")
    if app.conf.task_always_eager:
        raise ConfigurationError("task_always_eager runs turns inside their senders; set it to False")
    if "json" not in app.conf.accept_content and "application/json" not in app.conf.accept_content:
        raise ConfigurationError("accept_content lacks json, in which doorbells are written; add 'json' to it")


def _pool_name(worker: Any) -> str:
    pool = worker.pool_cls
    module = pool if isinstance(pool, str) else pool.__module__.rsplit(".", 1)[-1]
    return {"thread": "threads", "processes": "prefork"}.get(module, module)


@signals.worker_process_init.connect(weak=False)
def _on_process_init(**_: Any) -> None:
    """A prefork child, or the one process of a solo worker."""
    hooks = _Process.hooks
    if hooks is None:
        return
    try:
        hooks.start_worker(_Process.queues, runs_tasks=True)
    except LashError as error:
        raise SystemExit(f"lash-tasks: {error}") from None
    if _Process.prefork:
        signal.signal(DRAIN_SIGNAL, _on_drain_signal)


def _on_drain_signal(_signum: int, _frame: FrameType | None) -> None:
    _start_drain()


@signals.worker_ready.connect(weak=False)
def _on_worker_ready(sender: Any, **_: Any) -> None:
    _Process.pool = getattr(sender, "pool", None)


@signals.worker_shutting_down.connect(weak=False)
def _on_shutting_down(**_: Any) -> None:
    """Runs inside the signal handler of the main process: be quick."""
    _start_drain()
    if _Process.prefork and _Process.pool is not None:
        for pid in _Process.pool.info.get("processes", ()):
            os.kill(pid, DRAIN_SIGNAL)


def _start_drain() -> None:
    if _Process.hooks is not None:
        threading.Thread(target=_Process.hooks.drain_worker, name="lash-drain", daemon=True).start()


@signals.worker_process_shutdown.connect(weak=False)
@signals.worker_shutdown.connect(weak=False)
def _on_shutdown(**_: Any) -> None:
    if _Process.hooks is not None:
        _Process.hooks.stop_worker()
