"""Registering the tasks on a Celery app, each with its own options, so that no setting of the app need change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import celery
from celery.exceptions import Reject

from lash_tasks.celery import straight_to
from lash_tasks.clock import SystemClock
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.queue import Enqueued
from lash_tasks.errors import InvalidInput, LashError, StoreUnavailable
from lash_tasks.queues import NO_NAMESPACE, Names, Task
from lash_tasks.runtime.ingress import CancelRequest, CommandRequest, SendRequest
from lash_tasks.tasks.ingress_messages import HIDDEN, IngressRequest, shown
from lash_tasks.wiring import WorkerParts

NO_LIMIT_SECONDS = 10 * 365 * 86_400
"""Stands in the way of the app's time limits: a turn has a deadline of its own, and may be longer."""


class Refused(Exception):
    """A message that was refused; its one argument is the sentence and the code, so that any Celery client reads it."""


COMMON: dict[str, Any] = {
    "serializer": "json",
    "rate_limit": 0,
    "time_limit": NO_LIMIT_SECONDS,
    "soft_time_limit": NO_LIMIT_SECONDS,
    "max_retries": 0,
    "acks_on_failure_or_timeout": True,
    "acks_on_failure": True,
    "acks_on_timeout": True,
    "retry_on_worker_lost": False,
    "track_started": False,
    "store_errors_even_if_ignored": False,
}
"""Said of every task, because what a task leaves open is filled in from the app's settings."""
DOORBELL: dict[str, Any] = {**COMMON, "acks_late": False, "reject_on_worker_lost": False, "ignore_result": True}
INGRESS: dict[str, Any] = {
    **COMMON,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "ignore_result": False,
    "throws": (Refused,),  # the sender's mistake: one line of the log, and no traceback
}
"""Ingress carries the input itself: it is acknowledged when the input is stored, and given back when it cannot be."""
UNAVAILABLE_PAUSE_SECONDS = 1.0


class OwnTask(celery.Task):
    """Not the app's own task class, and without its `task_annotations`: both are about tasks of its own."""

    home: str
    """The queue that it is sent to. Celery's own attribute for that is going away, in favour of routes in the app."""

    @classmethod
    def annotate(cls) -> None:
        """Keep the options that the task was registered with."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return super().apply_async(args, kwargs, **{**straight_to(self.home), **options})


class IngressTask(OwnTask):
    """A task whose message carries what a user says."""

    Request = IngressRequest

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        hidden = {"argsrepr": HIDDEN if args else "()", "kwargsrepr": shown(kwargs or {})}
        return super().apply_async(args, kwargs, **{**hidden, **options})


def register(app: celery.Celery, worker: Callable[[], WorkerParts], names: Names = NO_NAMESPACE) -> None:
    """Register the `lash.*` tasks on `app` alone, once; `worker` gives the worker of the process they run in."""

    def named(task: Task, base: type[OwnTask] = OwnTask) -> dict[str, Any]:
        return {"name": names.task(task), "home": names.queue_of(task), "base": base, "shared": False}

    @app.task(**named(Task.RUN_SESSION), **DOORBELL)
    def run_session(session_id: str) -> str:
        return worker().running.sessions.run(SessionId(session_id)).value

    @app.task(**named(Task.RESUME_TURN), **DOORBELL)
    def resume_turn(session_id: str, turn_id: str) -> str:
        # The turn's id is for those who watch; what the session needs next is decided when it is opened.
        return worker().running.sessions.run(SessionId(session_id)).value

    @app.task(bind=True, **named(Task.SEND, IngressTask), **INGRESS)
    def send(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with _at_the_door(args):
            request = SendRequest.parse(kwargs)
            accepted = worker().ingress.accept(request, default_source_key=f"celery:{self.request.id}")
        return _receipt(accepted)

    @app.task(bind=True, **named(Task.COMMAND, IngressTask), **INGRESS)
    def command(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with _at_the_door(args):
            request = CommandRequest.parse(kwargs)
            return _receipt(worker().ingress.command(request, default_key=f"celery:{self.request.id}"))

    @app.task(**named(Task.CANCEL, IngressTask), **INGRESS)
    def cancel(*args: Any, **kwargs: Any) -> dict[str, Any]:
        with _at_the_door(args):
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


def _receipt(accepted: Enqueued) -> dict[str, Any]:
    return {"session_id": accepted.session_id, "input_id": accepted.id, "created": accepted.created}


@contextmanager
def _at_the_door(args: tuple[Any, ...]) -> Iterator[None]:
    """What goes wrong with an ingress message: a bad one fails its task for good and stores nothing.

    While the database cannot be reached the message goes back to the broker, neither lost nor answered.
    """
    try:
        if args:
            raise InvalidInput("args", "must be empty; give the arguments by name, as kwargs")
        yield
    except StoreUnavailable as error:
        SystemClock().wait(threading.Event(), UNAVAILABLE_PAUSE_SECONDS)
        raise Reject(str(error), requeue=True) from error
    except LashError as error:
        raise Refused(f"{error.sentence()} ({error.code})") from None
