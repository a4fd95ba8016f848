"""The embedded wiring: worker, ticker and client in one process, which holds a lock on its SQLite file."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from sqlalchemy.engine import make_url

from lash_tasks.clock import Clock, SystemClock
from lash_tasks.errors import ConfigurationError
from lash_tasks.providers.named import NamedProvider
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.runtime.local import LocalDoorbell
from lash_tasks.runtime.phases import PhaseProbe
from lash_tasks.runtime.ticker import Periodic
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import open_stores
from lash_tasks.stores.sql import schema
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.calling import OpenDeps
from lash_tasks.wiring import client_parts, open_worker

TURN_THREADS = 16
FOREIGN_WRITES_SECONDS = 0.02
SWEEP_SECONDS = 0.2


class EmbeddedStack:
    """Everything in one process. `start` and `stop` once each; a stack that could not start has let go of its file.

    Raises ConfigurationError for a database that is no SQLite file, or that another process has.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        agents: Mapping[str, Agent],
        providers: Mapping[str, NamedProvider],
        deps: OpenDeps | None,
        threads: int = TURN_THREADS,
        probe: PhaseProbe | None = None,
        reached: Callable[[CrashPoint], None] = nothing_happens,
    ) -> None:
        settings = settings.embedded()
        self._path = _database_file(settings)
        self._threads = threads
        self._stopped = False
        self._clock = SystemClock()
        self._doorbell = LocalDoorbell()
        with ExitStack() as opened:
            self._lock = opened.enter_context(_lock(self._path))
            self._stores = open_stores(settings)
            opened.callback(self._stores.close)
            schema.upgrade(self._stores.database.engine)
            self._worker = open_worker(
                settings,
                agents=agents,
                providers=providers,
                deps=deps,
                doorbell=self._doorbell,
                queues=("embedded",),
                stores=self._stores,
                clock=self._clock,
                probe=probe,
                reached=reached,
            )
            opened.pop_all()
        self._lookout = _Lookout(self._path, self._look_for_work, self._clock)
        self.client_parts = client_parts(settings, self._stores, self._doorbell, self._clock, close=lambda: None)

    def start(self) -> None:
        """Bury the former owner, take up what it left, and answer doorbells."""
        try:
            for record in self._stores.fleet.workers():
                # Holding the lock proves that its process is dead, so its turns need not wait for a TTL.
                self._stores.fleet.leave(record.worker, crashed=True)
            self._doorbell.answer(self._worker.running.sessions.run, self._threads)
            lookout = Periodic("lookout", FOREIGN_WRITES_SECONDS, self._lookout.look, self._clock)
            self._worker.running.start(tick=True, extra=(lookout,))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Drain, end the threads, close the files, release the lock. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._worker.running.drain()
        self._doorbell.close()
        self._worker.close()
        self._lookout.close()
        self._lock.close()

    def _look_for_work(self) -> None:
        """Ring for everything that waits; the local doorbell does not mind being rung twice."""
        maintenance = self._worker.running.maintenance
        for runnable in [*maintenance.abandoned(), *self._stores.work.ready(maintenance.agents)]:
            self._doorbell.ring_session(runnable.session_id)


class _Lookout:
    """Calls `look_for_work` when another connection has committed to the SQLite file, and as often as the sweep is due.

    To ask whether somebody has committed costs microseconds; nothing else tells of a client in another process.
    """

    def __init__(self, path: Path, look_for_work: Callable[[], None], clock: Clock) -> None:
        self._path = path
        self._look_for_work = look_for_work
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None
        self._due = 0.0

    def look(self) -> None:
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, check_same_thread=False)
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        now = self._clock.monotonic()
        if version != self._seen or now >= self._due:
            self._seen, self._due = version, now + SWEEP_SECONDS
            self._look_for_work()

    def close(self) -> None:
        """Close the file, once no thread looks any more."""
        if self._connection is not None:
            self._connection.close()


def _database_file(settings: Settings) -> Path:
    """Where the database lies; links are followed, so that one file has one lock."""
    if settings.dialect != "sqlite":
        raise ConfigurationError(
            "the embedded stack is one process on SQLite; for Postgres start Celery workers, "
            "or set LASH_DATABASE_URL to sqlite:///…"
        )
    name = make_url(settings.require_database_url()).database
    if name in (None, "", ":memory:"):
        raise ConfigurationError(
            "the embedded stack keeps its work in a file; set LASH_DATABASE_URL to sqlite:///<path>"
        )
    return Path(str(name)).resolve()


def _lock(database: Path) -> IO[str]:
    """Lock `<database>.lock` for this process; ConfigurationError if another one has it."""
    database.parent.mkdir(parents=True, exist_ok=True)
    handle = open(f"{database}.lock", "a+", encoding="utf-8")  # noqa: SIM115 - it is held while the stack lives
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        owner = handle.read().strip()
        handle.close()
        raise ConfigurationError(
            f"{database} is in use by {f'process {owner}' if owner else 'another process'}; "
            "stop it, or set LASH_DATABASE_URL to another file"
        ) from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle
