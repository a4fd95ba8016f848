"""The `Lash` class: an application's agents, and the Celery app or embedded stack that runs them."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import celery as celery_package
from celery import signals

from lash_tasks import django
from lash_tasks.adoption import adopted, bring_beat_entries, bring_queues
from lash_tasks.celery import celery_without_broker, create_celery, install
from lash_tasks.clock import SystemClock
from lash_tasks.dispatch import CeleryDoorbell
from lash_tasks.embedded import EmbeddedStack
from lash_tasks.errors import ConfigurationError
from lash_tasks.providers.named import NamedProvider, checked_providers
from lash_tasks.providers.registry import SHIPPED
from lash_tasks.queues import Names
from lash_tasks.roster import Roster
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.runtime.phases import PhaseProbe
from lash_tasks.settings import Settings, checked_settings
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.calling import OpenDeps
from lash_tasks.wiring import WorkerParts, check_worker_settings, open_client_parts, open_worker

if TYPE_CHECKING:
    from lash_tasks.client import Client


class Lash:
    """One application.

    `agents` are what it serves: objects, or import strings such as `"shop.agents:support"`, resolved when Celery
    imports its modules. `deps` names a context manager that is entered around every tool attempt in the tool's own
    thread; `providers` adds model endpoints by name: `OpenAI(...)`, `Anthropic(...)`, or an object with a Provider's
    methods. With `embedded=True` everything runs in this process on SQLite: use it as a context manager, or `start()`
    and `stop()` it. Otherwise `lash.celery` is an ordinary Celery app for workers, beat and Flower: one of our own, or
    with `celery=` yours, which gets our tasks, queues and beat entries, and keeps its settings. Constructing a Lash
    reads no environment and no settings, and opens nothing.
    `probe` is told when each phase of a turn begins and ends. `reached` is called at every named crash point; fault
    tests die there.
    """

    def __init__(
        self,
        agents: Sequence[Agent | str] = (),
        *,
        celery: celery_package.Celery | None = None,
        deps: OpenDeps | None = None,
        providers: Mapping[str, NamedProvider] | None = None,
        embedded: bool = False,
        settings: Settings | None = None,
        name: str = "lash",
        probe: PhaseProbe | None = None,
        reached: Callable[[CrashPoint], None] = nothing_happens,
    ) -> None:
        if embedded and celery is not None:
            raise ConfigurationError("embedded=True runs without Celery; leave out celery= or embedded=")
        if deps is not None and not callable(deps):
            raise ConfigurationError(f"deps= must be a function that opens a context manager, not {deps!r}")
        if probe is not None and not all(callable(getattr(probe, method, None)) for method in ("begin", "end")):
            raise ConfigurationError(f"probe= must be an object with begin and end, not {probe!r}")
        self.name = name
        self._reached = reached
        self.probe = probe
        self.embedded = embedded
        self.deps = deps
        self.providers = checked_providers({} if providers is None else providers)
        self._roster = Roster(agents)
        self._autodiscovers = False
        self._settings = checked_settings(settings)
        self._lock = threading.RLock()
        self._celery: celery_package.Celery | None = None
        self._adopts = celery is not None
        self._registered = False
        self._worker: WorkerParts | None = None
        self._stack: EmbeddedStack | None = None
        self._client: Client | None = None
        if celery is not None:
            self._install(adopted(celery, self))

    @property
    def agents(self) -> dict[str, Agent]:
        """The agents by name; imports those that are named by strings or to be discovered. ConfigurationError."""
        return self._roster.agents()

    def autodiscover(self) -> None:
        """In a Django project: serve the agents that stand in the `agents.py` of the installed apps.

        Every `Agent` that is a module-level name there counts, under whatever name; one that another module imports is
        the same agent. Two agents of one name are refused. The modules are imported when Celery imports its own, after
        Django is set up, so this may stand beside `app.autodiscover_tasks()` in the project's `celery.py`.
        """
        self._autodiscovers = True
        self._roster.discover()

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
    def celery(self) -> celery_package.Celery:
        """The Celery app of this application: the one that was given, else one made at the first use.

        Settings that are wrong end its worker and its beat at their start, and make every sender raise
        ConfigurationError.
        """
        with self._lock:
            if self._celery is None:
                try:
                    app = create_celery(self.name, self.settings.effective_broker_url(), self._names)
                except ConfigurationError as error:
                    app = celery_without_broker(self.name, error)
                self._install(adopted(app, self))
            return self._celery

    def _install(self, app: celery_package.Celery) -> None:
        self._celery = app
        signals.import_modules.connect(self._on_import_modules, sender=app, weak=False)
        install(app, self)
        if app.loader.worker_initialized:  # this is one of the modules that Celery imports: the signal is over
            self._register()

    def _on_import_modules(self, **_: Any) -> None:
        try:
            self._register()
        except ConfigurationError as error:
            # Celery would print the traceback of anything else.
            raise SystemExit(f"lash-tasks: {error}") from None
        self._roster.agents()

    def _register(self) -> None:
        with self._lock:
            if self._registered:
                return
            if self._adopts:
                bring_queues(self._celery, self._names)
                bring_beat_entries(self._celery, self._names)
            # By name, because the tasks stand above the application that they belong to.
            importlib.import_module("lash_tasks.tasks").register(self._celery, lambda: self.worker, self._names)
            self._registered = True

    @property
    def worker(self) -> WorkerParts:
        """The worker of this process; ConfigurationError outside of one."""
        if self._worker is None:
            raise ConfigurationError(
                "no worker runs in this process; start one with: celery -A <module> worker -P threads"
            )
        return self._worker

    def concerns(self, queues: tuple[str, ...]) -> bool:
        """A worker that serves none of our queues is the app's own affair."""
        return any(self._names.owns(queue) for queue in queues)

    def start_worker(self, queues: tuple[str, ...], *, runs_tasks: bool) -> None:
        """Called in a Celery worker process. A prefork parent (`runs_tasks` False) checks, and keeps nothing open."""
        if self.settings.dialect == "sqlite":
            raise ConfigurationError(
                "Celery workers need a networked database; set LASH_DATABASE_URL to postgresql://…, "
                "or run lash-tasks up for the embedded stack"
            )
        agents = self._agents_to_run()
        if not runs_tasks:
            check_worker_settings(self.settings)
            return
        clock = SystemClock()
        with self._lock:
            self._worker = open_worker(
                self.settings,
                agents=agents,
                providers=self.providers,
                deps=self._deps_to_run(),
                doorbell=CeleryDoorbell(self.celery, clock, self._names),
                queues=queues,
                clock=clock,
                probe=self.probe,
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

    @property
    def _in_django(self) -> bool:
        return self._autodiscovers or (self._celery is not None and django.serves(self._celery))

    def _agents_to_run(self) -> dict[str, Agent]:
        """The agents of this process; ConfigurationError for one whose model no provider of the application serves."""
        known = {*SHIPPED, *self.providers}
        for agent in self.agents.values():
            for model in (agent.model, *agent.fallbacks):
                provider = model.partition(":")[0]
                if provider not in known:
                    raise ConfigurationError(
                        f"agent {agent.name!r}: there is no provider {provider!r} for its model {model!r}; name it in "
                        f"Lash(providers=…), or use one of {', '.join(sorted(known))}"
                    )
        tidy = django.tidy_agent if self._in_django else None
        return {name: tidy(agent) if tidy else agent for name, agent in self.agents.items()}

    def _deps_to_run(self) -> OpenDeps | None:
        return django.tidy_deps(self.deps) if self._in_django else self.deps

    # ------------------------------------------------------------ embedded

    def start(self) -> Self:
        """Start the embedded stack. Raises ConfigurationError when another process has its database."""
        with self._lock:
            if self._stack is None:
                stack = EmbeddedStack(
                    self.settings,
                    agents=self._agents_to_run(),
                    providers=self.providers,
                    deps=self._deps_to_run(),
                    probe=self.probe,
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

    def embedded_copy(
        self, settings: Settings, *, providers: Mapping[str, NamedProvider], deps: OpenDeps | None = None
    ) -> Lash:
        """The same agents embedded, on other settings and with other providers; this application stays as it is."""
        agents = list(self.agents.values())
        copy = Lash(
            agents,
            deps=deps or self.deps,
            providers=providers,
            embedded=True,
            settings=settings,
            name=self.name,
            probe=self.probe,
            reached=self._reached,
        )
        copy._autodiscovers = self._in_django
        return copy

    @property
    def client(self) -> Client:
        """A client of the running embedded stack, or of the database in the settings; it rings through `celery=`."""
        # By name, because the client stands above the application, as the tasks do.
        client_class: type[Client] = importlib.import_module("lash_tasks.client").Client
        with self._lock:
            if self._client is None and self._stack is not None:
                self._client = client_class.from_parts(self._stack.client_parts)
            elif self._client is None:
                settings = self.settings.embedded() if self.embedded else self.settings
                parts = open_client_parts(settings, app=self._celery if self._adopts else None)
                self._client = client_class.from_parts(parts)
            return self._client


def find_lash(target: object) -> Lash | None:
    """The Lash that `target` is or carries: a Lash, a Celery app with one installed, or a module with one of these."""
    if isinstance(target, Lash):
        return target
    held = vars(target).values() if hasattr(target, "__dict__") else ()
    carriers = [target, *(value for value in held if isinstance(value, celery_package.Celery))]
    found = [value for value in (*(getattr(one, "lash", None) for one in carriers), *held) if isinstance(value, Lash)]
    return found[0] if found else None
