"""What a `Lash` brings into a Celery app that is not its own: queues and beat entries, and no other setting."""

from __future__ import annotations

from typing import Any

import celery
from celery.local import Proxy

from lash_tasks.celery import celery_beat_schedule, consumable_queues, declaration
from lash_tasks.errors import ConfigurationError
from lash_tasks.queues import Names


def adopted(app: object, lash: object) -> celery.Celery:
    """The app behind `app`, which may be a proxy, with `lash` installed; ConfigurationError if it has another one."""
    if isinstance(app, Proxy):
        app = app._get_current_object()
    if not isinstance(app, celery.Celery):
        raise ConfigurationError(f"celery= must be your celery.Celery, not {app!r}")
    if getattr(app, "lash", lash) is not lash:
        raise ConfigurationError(f"the Celery app {app.main!r} has a Lash; give all agents to one")
    app.lash = lash
    return app


def bring_queues(app: celery.Celery, names: Names) -> None:
    """Let workers of `app` serve our queues beside its own, and find them under `-Q` and `-X`.

    Celery makes its table of queues from the settings when it is first asked for it. Ours are put into the table, so
    that it does not matter whether the app lists its queues, and when.
    """
    amqp = app.amqp
    if "queues" in vars(amqp):
        _add(amqp.queues, names)
        return
    make = amqp.queues_cls

    def make_with_ours(*args: Any, **options: Any) -> Any:
        queues = make(*args, **options)
        _add(queues, names)
        return queues

    amqp.queues_cls = make_with_ours


def _add(queues: Any, names: Names) -> None:
    for name in consumable_queues(names):
        if name not in queues:  # else the app lists it among its own, and serves it already
            queue = queues.select_add(declaration(name))
            queue.queue_arguments = None  # the table has added the app's own, on which other declarations do not agree


def bring_beat_entries(app: celery.Celery, names: Names) -> None:
    """Add the periodic table to the app's schedule. An entry that the app has under the same name stays."""
    app.conf.beat_schedule = {**celery_beat_schedule(names), **(app.conf.beat_schedule or {})}
