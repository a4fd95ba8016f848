"""Names of the Celery queues and tasks, and which task goes where. A leaf: names only.

The names here are those of an application without a namespace; `Names` gives every application its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Queue(StrEnum):
    INGRESS = "lash.ingress"
    TURNS = "lash.turns"
    CHECKPOINTS = "lash.checkpoints"
    MAINTENANCE = "lash.maintenance"


class Task(StrEnum):
    SEND = "lash.send"
    CANCEL = "lash.cancel"
    COMMAND = "lash.command"
    RUN_SESSION = "lash.run_session"
    RESUME_TURN = "lash.resume_turn"
    RESCUE = "lash.rescue"
    SWEEP = "lash.sweep"
    WAKE_DUE = "lash.wake_due"
    PRUNE = "lash.prune"


ROUTES: dict[Task, Queue] = {
    Task.SEND: Queue.INGRESS,
    Task.CANCEL: Queue.INGRESS,
    Task.COMMAND: Queue.INGRESS,
    Task.RUN_SESSION: Queue.TURNS,
    Task.RESUME_TURN: Queue.CHECKPOINTS,
    Task.RESCUE: Queue.MAINTENANCE,
    Task.SWEEP: Queue.MAINTENANCE,
    Task.WAKE_DUE: Queue.MAINTENANCE,
    Task.PRUNE: Queue.MAINTENANCE,
}

PREFIX = "lash."
RESERVED_NAMESPACES = frozenset({"process"})
"""Their queues would be those of somebody's pool: `lash.process.turns`."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one application: `lash.x.turns` in the namespace `x`, `lash.turns` without one."""

    namespace: str = ""

    def of(self, name: str) -> str:
        """A name as this application has it, from what it is without a namespace."""
        return f"{PREFIX}{self.namespace}.{name.removeprefix(PREFIX)}" if self.namespace else name

    def task(self, task: Task) -> str:
        return self.of(task.value)

    def queue(self, queue: Queue) -> str:
        return self.of(queue.value)

    def queue_of(self, task: Task) -> str:
        return self.of(ROUTES[task].value)

    def process_queue(self, pool: str) -> str:
        """The queue of a pool of background processes."""
        return self.of(f"{PREFIX}process.{pool}")

    def beat_entry(self, name: str) -> str:
        """The name of a line of the periodic table, as beat knows it: `lash-x-sweep`."""
        return f"lash-{self.namespace}-{name.removeprefix('lash-')}" if self.namespace else name

    def owns(self, queue: str) -> bool:
        """Whether a queue is one of this application's."""
        return queue in self.worker_queues or queue.startswith(self.process_queue(""))

    @property
    def worker_queues(self) -> tuple[str, ...]:
        """What a worker without `-Q` serves beside the application's own default queue."""
        return tuple(self.queue(queue) for queue in Queue)


NO_NAMESPACE = Names()
