"""Names of the Celery queues and tasks, and which task goes where. A leaf: names only."""

from __future__ import annotations

from enum import StrEnum


class Queue(StrEnum):
    INGRESS = "lash.ingress"
    TURNS = "lash.turns"
    CHECKPOINTS = "lash.checkpoints"
    MAINTENANCE = "lash.maintenance"


def process_queue(pool: str) -> str:
    """The queue of a pool of background processes."""
    return f"lash.process.{pool}"


class Task(StrEnum):
    SEND = "lash.send"
    CANCEL = "lash.cancel"
    RUN_SESSION = "lash.run_session"
    RESUME_TURN = "lash.resume_turn"
    RESCUE = "lash.rescue"
    SWEEP = "lash.sweep"
    WAKE_DUE = "lash.wake_due"
    PRUNE = "lash.prune"


ROUTES: dict[Task, Queue] = {
    Task.SEND: Queue.INGRESS,
    Task.CANCEL: Queue.INGRESS,
    Task.RUN_SESSION: Queue.TURNS,
    Task.RESUME_TURN: Queue.CHECKPOINTS,
    Task.RESCUE: Queue.MAINTENANCE,
    Task.SWEEP: Queue.MAINTENANCE,
    Task.WAKE_DUE: Queue.MAINTENANCE,
    Task.PRUNE: Queue.MAINTENANCE,
}

WORKER_QUEUES: tuple[str, ...] = tuple(Queue)
"""What a worker without `-Q` serves beside the application's own default queue."""
