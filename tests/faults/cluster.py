"""Starting, stopping and watching real Celery workers over servers of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import celery
from sqlalchemy import text as sql

from lash_tasks.client import Client
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.messages import text_of
from lash_tasks.domain.turns import AssembledTurn
from lash_tasks.settings import VARIABLES, Settings
from lash_tasks.stores.bundle import open_database
from lash_tasks.stores.sql import schema
from tests.endpoint import ModelEndpoint, call_number, last_user_text
from tests.services import wait_until

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "tests.faults.application"
START_SECONDS = 40.0
API_KEY = "sk-test-sentinel-key"


class WorkerProcess:
    """One `celery worker` process; a context manager that leaves nothing running."""

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        log: Path,
        arguments: list[str],
        *,
        application: str = APPLICATION,
        directory: Path = ROOT,
    ) -> None:
        self.name = name
        self.log = log
        self._ready = False
        command = [sys.executable, "-m", "celery", "-A", application, "worker", "-n", f"{name}@%h", "-l", "INFO"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                cwd=directory,
                env=dict(environment),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> Self:
        def ready() -> bool:
            assert self.running, f"{self.name} ended:\n{self.text()[-4000:]}"
            return self.ready

        wait_until(ready, START_SECONDS, f"{self.name} to be ready")
        return self

    @property
    def ready(self) -> bool:
        """Whether it serves its queues; looked up until it is."""
        self._ready = self._ready or " ready." in self.text()
        return self._ready

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """SIGKILL the worker and, with a prefork pool, its children."""
        if self.running:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Cluster:
    """A database, a Redis, a model endpoint, and whatever workers a test starts. `more` are further settings."""

    def __init__(
        self,
        directory: Path,
        postgres_url: str,
        redis_url: str,
        endpoint: ModelEndpoint,
        ttl: float,
        **more: str,
    ) -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.settings = Settings.model_validate(
            {"database_url": postgres_url, "redis_url": redis_url, "lease_ttl": ttl, **more}
        )
        self.tool_log = directory / "tools.log"
        self.hold = directory / "hold"
        self.die_once = directory / "die-once"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LASH_DATABASE_URL": postgres_url,
            "LASH_REDIS_URL": redis_url,
            "LASH_LEASE_TTL": str(ttl),
            **{VARIABLES[field]: value for field, value in more.items()},
            "OPENAI_BASE_URL": endpoint.base_url,
            "OPENAI_API_KEY": API_KEY,
            "LASH_TEST_TOOL_LOG": str(self.tool_log),
            "LASH_TEST_HOLD": str(self.hold),
            "LASH_TEST_DIE_ONCE": str(self.die_once),
        }
        database = open_database(self.settings)
        schema.upgrade(database.engine)
        database.close()
        self._workers = 0

    @contextmanager
    def worker(
        self,
        *arguments: str,
        pool: str = "threads",
        concurrency: int = 8,
        environment: Mapping[str, str] | None = None,
        application: str = APPLICATION,
        directory: Path = ROOT,
    ) -> Iterator[WorkerProcess]:
        """A ready worker, killed at the end if the test has not ended it."""
        self._workers += 1
        options = ["-P", pool, "-c", str(concurrency), *arguments]
        log = self.directory / f"w{self._workers}.log"
        variables = {**self.environment, **(environment or {})}
        with WorkerProcess(
            f"w{self._workers}", variables, log, options, application=application, directory=directory
        ) as process:
            yield process.wait_until_ready()

    @contextmanager
    def two_workers(self, **environment: str) -> Iterator[list[WorkerProcess]]:
        """A ready pair, started side by side."""
        self._workers += 2
        numbers = (self._workers - 1, self._workers)
        with ExitStack() as stack:
            pair = [
                stack.enter_context(self.start_worker(f"w{number}", concurrency=8, **environment)) for number in numbers
            ]
            for process in pair:
                process.wait_until_ready()
            yield pair

    def start_worker(self, name: str, *, concurrency: int, **environment: str) -> WorkerProcess:
        """A worker with threads that may not be ready yet; whoever starts it kills it."""
        options = ["-P", "threads", "-c", str(concurrency)]
        return WorkerProcess(name, {**self.environment, **environment}, self.directory / f"{name}.log", options)

    def client(self) -> Client:
        return Client(self.settings)

    def stranger(self) -> celery.Celery:
        """A Celery app on the same broker that knows nothing of ours; whoever opens it closes it."""
        return celery.Celery("stranger", broker=self.settings.effective_broker_url(), set_as_current=False)

    # ------------------------------------------------------------ what happened

    def model_calls(self) -> Counter[tuple[str, int]]:
        """How often the endpoint was asked, by the user's text and the number of the call in its turn."""
        return Counter((last_user_text(seen.body), call_number(seen.body)) for seen in self.endpoint.requests)

    def tool_runs(self) -> list[dict[str, Any]]:
        if not self.tool_log.exists():
            return []
        return [json.loads(line) for line in self.tool_log.read_text(encoding="utf-8").splitlines()]

    def tool_counts(self) -> Counter[str]:
        return Counter(run["text"] for run in self.tool_runs())

    def driver(self, client: Client, workers: Sequence[WorkerProcess]) -> WorkerProcess:
        """The worker that drives the one turn there is."""

        def holder() -> str | None:
            with client.stores.database.reading() as connection:
                return connection.execute(sql("SELECT holder FROM lash_turns WHERE status = 'running'")).scalar()

        name = wait_until(holder, 20, "a turn to be driven")
        return next(worker for worker in workers if f":{worker.pid}:" in str(name))

    def count(self, client: Client, what: str) -> int:
        """`SELECT count(*) FROM <what>`."""
        with client.stores.database.reading() as connection:
            return int(connection.execute(sql(f"SELECT count(*) FROM {what}")).scalar_one())

    def fence(self, client: Client, session: str) -> int:
        """The session's fence: every opening of a turn and every commit raises it by one."""
        with client.stores.database.reading() as connection:
            query = sql("SELECT fence FROM lash_fences WHERE scope = :scope")
            return int(connection.execute(query, {"scope": f"session:{session}"}).scalar_one())

    def said(self, client: Client, session: str) -> list[tuple[str, str]]:
        """The role and text of each message of the history."""
        messages = (stored.node.message for stored in client.stores.sessions.history(SessionId(session)))
        return [(message.role.value, text_of(message)) for message in messages if message is not None]

    def turns(self, client: Client, session: str) -> list[AssembledTurn]:
        """The committed turns of a session, oldest first."""
        records = client.stores.sessions.turns(SessionId(session), limit=1000)
        return [record.result for record in records if record.result is not None]

    def answers(self, client: Client, session: str) -> list[str]:
        return [turn.text for turn in self.turns(client, session)]

    def unfinished(self, client: Client) -> int:
        return len(client.stores.queue.waiting(limit=10_000))
