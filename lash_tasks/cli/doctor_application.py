"""What `lash-tasks doctor` looks at in the application that it is named: the settings of its Celery app.

What is dangerous keeps a worker from starting; what is here beside it is unwise on an app that is not our own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any

from celery import Celery
from kombu import Connection

from lash_tasks.app import Lash
from lash_tasks.celery import is_redis, refuse_dangerous_settings
from lash_tasks.cli.application import load_application
from lash_tasks.cli.doctor_checks import Finding, Health
from lash_tasks.errors import ConfigurationError, LashError
from lash_tasks.settings import Settings

REDIS_VISIBILITY_SECONDS = 3600
"""Kombu's default."""


def examine_application(name: str | None, settings: Settings) -> Iterator[Finding]:
    """Findings about the application that `-A` or LASH_APP names; of its Celery app where Celery has a part."""
    if not name:
        return
    with_celery = settings.dialect != "sqlite"
    try:
        with redirect_stdout(sys.stderr):
            lash = load_application(name)
            agents = sorted(lash.agents)
            if with_celery:
                lash.celery.conf.broker_url  # noqa: B018 - reads the app's settings, wherever they are
    except LashError as error:
        yield Finding("application", Health.FAILED, error.sentence(), "mend it, or leave out -A and LASH_APP")
        return
    except Exception as error:  # whatever a user's module does
        problem = f"{name} cannot be imported ({type(error).__name__}: {error})"
        yield Finding("application", Health.FAILED, problem, "mend it, or leave out -A and LASH_APP")
        return
    yield Finding("application", Health.OK, f"agents: {', '.join(agents) or 'none'}")
    if with_celery:
        yield from _celery(lash, settings)


def _celery(lash: Lash, settings: Settings) -> Iterator[Finding]:
    app = lash.celery
    found = [*_danger(app), *(one for look in _LOOKS for one in look(app)), *_broker(app, settings)]
    yield from found or [Finding("celery", Health.OK, "its settings suit long turns")]


def _danger(app: Celery) -> Iterator[Finding]:
    try:
        refuse_dangerous_settings(app, str(app.conf.worker_pool))
    except ConfigurationError as error:
        yield Finding("celery", Health.FAILED, error.sentence(), "change it: workers refuse to start")


def _unwise(setting: str, message: str, advice: str) -> Iterator[Finding]:
    yield Finding(f"celery: {setting}", Health.WARNING, message, advice)


def _prefetching(app: Celery) -> Iterator[Finding]:
    multiplier = app.conf.worker_prefetch_multiplier
    if multiplier != 1:
        message = f"{multiplier}: workers hoard messages behind long turns"
        advice = "set it to 1, or start workers of the lash queues with --prefetch-multiplier 1"
        yield from _unwise("worker_prefetch_multiplier", message, advice)
    if is_redis(_broker_url(app)) and not app.conf.worker_disable_prefetch:
        message = "not set: a worker whose threads are all busy takes messages that another one could answer"
        yield from _unwise("worker_disable_prefetch", message, "set it to True (brokers on Redis only)")


def _connections(app: Celery) -> Iterator[Finding]:
    options = _transport_options(app)
    if is_redis(_broker_url(app)) and "max_connections" not in options:
        message = "no max_connections: kombu's default of 10 loses acknowledgements under load"
        advice = "set max_connections to the worker's concurrency + 64"
        yield from _unwise("broker_transport_options", message, advice)


def _visibility(app: Celery) -> Iterator[Finding]:
    if not is_redis(_broker_url(app)):
        return
    options = _transport_options(app)
    timeout = options.get("visibility_timeout", REDIS_VISIBILITY_SECONDS)
    if options.get("unacked_restore_throttle") != 1:
        message = f"what a killed worker had taken late is delivered again after {timeout} s and up to 100 s more"
        advice = "set unacked_restore_throttle to 1 in broker_transport_options; turns do not wait for it"
        yield from _unwise("unacked_restore_throttle", message, advice)
    if app.conf.task_acks_late:
        message = f"tasks of yours that take longer than visibility_timeout ({timeout} s) run again; ours never do"
        advice = "set it on the tasks that need it, or raise visibility_timeout above your longest task"
        yield from _unwise("task_acks_late", message, advice)


def _key_prefix(app: Celery) -> Iterator[Finding]:
    prefix = _transport_options(app).get("global_keyprefix")
    if prefix and is_redis(_broker_url(app)):
        message = f"{prefix!r}: Client() in other services rings without it, and its turns wait for the sweep"
        yield from _unwise("global_keyprefix", message, "leave it out, or send through lash.client, which has it too")


def _reconnecting(app: Celery) -> Iterator[Finding]:
    amqp = _broker_url(app).partition("://")[0] in ("amqp", "amqps", "pyamqp")
    if amqp and app.conf.worker_enable_prefetch_count_reduction:
        message = "after a reconnect the threads pool garbles the connection, and the worker hears nothing for minutes"
        yield from _unwise("worker_enable_prefetch_count_reduction", message, "set it to False")


def _connection_loss(app: Celery) -> Iterator[Finding]:
    if app.conf.worker_cancel_long_running_tasks_on_connection_loss:
        message = "a short loss of the broker cancels what is acknowledged late, lash.send among it"
        yield from _unwise("worker_cancel_long_running_tasks_on_connection_loss", message, "set it to False")


def _events(app: Celery) -> Iterator[Finding]:
    if not app.conf.worker_send_task_events:
        message = "not set: Flower shows no running turns"
        yield from _unwise("worker_send_task_events", message, "set it to True, or start workers with -E")


_LOOKS: tuple[Callable[[Celery], Iterator[Finding]], ...] = (
    _prefetching,
    _connections,
    _visibility,
    _key_prefix,
    _reconnecting,
    _connection_loss,
    _events,
)


def _broker(app: Celery, settings: Settings) -> Iterator[Finding]:
    """Whether clients of other services ring where the workers listen."""
    url = settings.effective_broker_url()
    if url is None:
        return
    ours, theirs = Connection(url), app.connection_for_write()
    if _place(ours) != _place(theirs):
        message = f"the app's is {theirs.as_uri()}, and Client() rings at {ours.as_uri()}: its turns wait for the sweep"
        yield Finding("celery: broker", Health.WARNING, message, "set LASH_BROKER_URL to the app's broker")


def _place(connection: Any) -> tuple[object, ...]:
    parameters: Mapping[str, Any] = connection.info()
    host = str(parameters["hostname"] or "localhost").rpartition("@")[2]
    virtual_host = str(parameters["virtual_host"]).strip("/") or "0"
    return str(parameters["transport"]).removeprefix("py"), host, parameters["port"], virtual_host


def _broker_url(app: Celery) -> str:
    url = app.conf.broker_write_url
    return str(url[0] if isinstance(url, list | tuple) and url else url or "amqp://")


def _transport_options(app: Celery) -> Mapping[str, Any]:
    options: Mapping[str, Any] = app.conf.broker_transport_options or {}
    return options
