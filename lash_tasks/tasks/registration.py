"""Registering the tasks on a Celery app, each with its own options, so that no setting of the app need change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import celery
from celery.exceptions import Reject

from lash_tasks.clock import SystemClock
from lash_tasks.domain.ids import SessionId
from lash_tasks.errors import LashError, StoreUnavailable
from lash_tasks.queues import NO_NAMESPACE, Names, Task
from lash_tasks.runtime.ingress import CancelRequest, SendRequest
from lash_tasks.wiring import WorkerParts

DOORBELL: dict[str, Any] = {"acks_late": False, "ignore_result": True, "serializer": "json", "max_retries": 0}
INGRESS: dict[str, Any] = {
    "acks_late": True,
    "reject_on_worker_lost": True,
    "ignore_result": False,
    "serializer": "json",
    "max_retries": 0,
}
"""Ingress carries the input itself: it is acknowledged when the input is stored, and given back when it cannot be."""
UNAVAILABLE_PAUSE_SECONDS = 1.0


def register(app: celery.Celery, worker: Callable[[], WorkerParts], names: Names = NO_NAMESPACE) -> None:
    """Register the `lash.*` tasks on `app`; `worker` gives the worker of the process they run in. Idempotent."""

    def named(task: Task) -> dict[str, Any]:
        return {"name": names.task(task), "queue": names.queue_of(task)}

    @app.task(**named(Task.RUN_SESSION), **DOORBELL)
    def run_session(session_id: str) -> str:
        return worker().running.sessions.run(SessionId(session_id)).value

    @app.task(**named(Task.RESUME_TURN), **DOORBELL)
    def resume_turn(session_id: str, turn_id: str) -> str:
        # The turn's id is for those who watch; what the session needs next is decided when it is opened.
        return worker().running.sessions.run(SessionId(session_id)).value

    @app.task(bind=True, **named(Task.SEND), **INGRESS)
    def send(self: Any, **kwargs: Any) -> dict[str, Any]:
        with _at_the_door():
            request = SendRequest.parse(kwargs)
            accepted = worker().ingress.accept(request, default_source_key=f"celery:{self.request.id}")
        return {"session_id": accepted.session_id, "input_id": accepted.id, "created": accepted.created}

    @app.task(**named(Task.CANCEL), **INGRESS)
    def cancel(**kwargs: Any) -> dict[str, Any]:
        with _at_the_door():
            return worker().ingress.cancel(CancelRequest.parse(kwargs)).as_json()

    @app.task(**named(Task.RESCUE), **DOORBELL)
    def rescue() -> int:
        return worker().running.maintenance.rescue()

    @app.task(**named(Task.SWEEP), **DOORBELL)
    def sweep() -> int:
        return worker().running.maintenance.sweep()

    @app.task(**named(Task.WAKE_DUE), **DOORBELL)
    def wake_due() -> int:
        return worker().running.maintenance.wake_due()

    @app.task(**named(Task.PRUNE), **DOORBELL)
    def prune() -> int:
        return worker().running.maintenance.prune()


class Refused(Exception):
    """A message that was refused; its one argument is the sentence and the code, so that any Celery client reads it."""


@contextmanager
def _at_the_door() -> Iterator[None]:
    """What goes wrong with an ingress message: a bad one fails its task for good and stores nothing.

    While the database cannot be reached the message goes back to the broker, neither lost nor answered.
    """
    try:
        yield
    except StoreUnavailable as error:
        SystemClock().wait(threading.Event(), UNAVAILABLE_PAUSE_SECONDS)
        raise Reject(str(error), requeue=True) from error
    except LashError as error:
        raise Refused(f"{error.sentence()} ({error.code})") from None
