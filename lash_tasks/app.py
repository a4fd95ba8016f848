"""The `Lash` class: an application's agents, and the Celery app or embedded stack that runs them."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import celery
from celery import signals

from lash_tasks.celery import create_celery, install
from lash_tasks.clock import SystemClock
from lash_tasks.dispatch import CeleryDoorbell
from lash_tasks.embedded import EmbeddedStack
from lash_tasks.errors import ConfigurationError
from lash_tasks.ports import Provider
from lash_tasks.queues import Names
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.settings import Settings
from lash_tasks.tools.agents import Agent
from lash_tasks.wiring import Deps, WorkerParts, check_worker_settings, open_worker

if TYPE_CHECKING:
    from lash_tasks.client import Client


class Lash:
    """One application.

    `agents` are what it serves; `deps` names a context manager that is entered around every tool attempt in the
    tool's own thread; `providers` adds model endpoints by name. With `embedded=True` everything runs in this
    process on SQLite: use it as a context manager, or `start()` and `stop()` it. Otherwise `lash.celery` is an
    ordinary Celery app for workers, beat and Flower. Constructing a Lash reads no environment and opens nothing.
    `reached` is called at every named crash point; fault tests die there.
    """

    def __init__(
        self,
        agents: Sequence[Agent] = (),
        *,
        deps: Deps | None = None,
        providers: Mapping[str, Provider] | None = None,
        embedded: bool = False,
        settings: Settings | None = None,
        name: str = "lash",
        reached: Callable[[CrashPoint], None] = nothing_happens,
    ) -> None:
        self.name = name
        self._reached = reached
        self.embedded = embedded
        self.deps = deps
        self.providers = dict(providers or {})
        self.agents = _by_name(agents)
        self._settings = settings
        self._lock = threading.RLock()
        self._celery: celery.Celery | None = None
        self._worker: WorkerParts | None = None
        self._stack: EmbeddedStack | None = None
        self._client: Client | None = None

    @property
    def settings(self) -> Settings:
        """The settings given, else those of the environment, read once."""
        with self._lock:
            if self._settings is None:
                self._settings = Settings.from_environment()
            return self._settings

    # ------------------------------------------------------------ Celery

    @property
    def _names(self) -> Names:
        return Names(self.settings.namespace)

    @property
    def celery(self) -> celery.Celery:
        """The Celery app of this application; made at the first use."""
        with self._lock:
            if self._celery is None:
                self._celery = create_celery(self.name, self.settings.effective_broker_url(), self._names)
                self._celery.lash = self
                signals.import_modules.connect(self._register_tasks, sender=self._celery, weak=False)
                install(self._celery, self)
            return self._celery

    def _register_tasks(self, **_: Any) -> None:
        # By name, because the tasks stand above the application that they belong to.
        importlib.import_module("lash_tasks.tasks").register(self._celery, lambda: self.worker, self._names)

    @property
    def worker(self) -> WorkerParts:
        """The worker of this process; ConfigurationError outside of one."""
        if self._worker is None:
            raise ConfigurationError(
                "no worker runs in this process; start one with: celery -A <module> worker -P threads"
            )
        return self._worker

    def start_worker(self, queues: tuple[str, ...], *, runs_tasks: bool) -> None:
        """Called in a Celery worker process. A prefork parent (`runs_tasks` False) checks, and keeps nothing open."""
        if self.settings.dialect == "sqlite":
            raise ConfigurationError(
                "Celery workers need a networked database; set LASH_DATABASE_URL to postgresql://…, "
                "or run lash-tasks up for the embedded stack"
            )
        if not runs_tasks:
            check_worker_settings(self.settings)
            return
        clock = SystemClock()
        with self._lock:
            self._worker = open_worker(
                self.settings,
                agents=self.agents,
                providers=self.providers,
                deps=self.deps,
                doorbell=CeleryDoorbell(self.celery, clock, self._names),
                queues=queues,
                clock=clock,
                reached=self._reached,
            )
            self._worker.running.start()

    def drain_worker(self) -> None:
        if self._worker is not None:
            self._worker.running.drain()

    def stop_worker(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    # ------------------------------------------------------------ embedded

    def start(self) -> Self:
        """Start the embedded stack. Raises ConfigurationError when another process has its database."""
        with self._lock:
            if self._stack is None:
                stack = EmbeddedStack(
                    self.settings,
                    agents=self.agents,
                    providers=self.providers,
                    deps=self.deps,
                    reached=self._reached,
                )
                stack.start()
                self._stack, self._client = stack, None
        return self

    def stop(self) -> None:
        """Stop the embedded stack: drain, then close. Idempotent."""
        with self._lock:
            stack, self._stack, self._client = self._stack, None, None
        if stack is not None:
            stack.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def client(self) -> Client:
        """A client of the running embedded stack, or of the database and broker in the settings."""
        client_class: type[Client] = importlib.import_module("lash_tasks.client").Client
        with self._lock:
            if self._client is None and self._stack is not None:
                self._client = client_class.from_parts(self._stack.client_parts)
            elif self._client is None:
                self._client = client_class(self.settings.embedded() if self.embedded else self.settings)
            return self._client


def find_lash(target: object) -> Lash | None:
    """The Lash that `target` is or carries: a Lash, a Celery app with one installed, or a module with one of these."""
    if isinstance(target, Lash):
        return target
    carried = getattr(target, "lash", None)
    if isinstance(carried, Lash):
        return carried
    if hasattr(target, "__dict__"):
        found = [value for value in vars(target).values() if isinstance(value, Lash)]
        if found:
            return found[0]
    return None


def _by_name(agents: Sequence[Agent]) -> dict[str, Agent]:
    by_name: dict[str, Agent] = {}
    for agent in agents:
        if agent.name in by_name:
            raise ConfigurationError(f"two agents are named {agent.name!r}; give one another name")
        by_name[agent.name] = agent
    return by_name
