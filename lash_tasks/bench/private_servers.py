"""Servers of the benchmark's own, from the binaries of this machine, for figures that nobody else has a part in."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from lash_tasks.bench.children import BenchFailed
from lash_tasks.clock import SystemClock
from lash_tasks.errors import ConfigurationError

START_SECONDS = 30.0
STOP_SECONDS = 15.0


@contextmanager
def private_postgres(directory: Path) -> Iterator[str]:
    """The URL of a PostgreSQL that keeps what it commits (`fsync` on) and writes no full pages.

    Full pages are the same for everybody and come after every checkpoint, so they would hide what a turn writes.
    ConfigurationError where there is no PostgreSQL to start.
    """
    binaries = _postgres_binaries()
    home = directory / "postgres"
    home.mkdir()
    user = _server_user()
    if user is not None:
        directory.chmod(0o755)
        shutil.chown(home, user)
    initdb = [str(binaries / "initdb"), "--pgdata", str(home / "data"), "--username", "postgres"]
    made = subprocess.run(
        [*initdb, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"],
        cwd=home,
        user=user,
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise BenchFailed(f"initdb failed:\n{made.stderr[-2000:]}")
    port = _free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        "fsync": "on",
        "full_page_writes": "off",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    command = [str(binaries / "postgres"), "-D", str(home / "data"), *options]
    with _running("PostgreSQL", command, home, user, answers):
        yield url


@contextmanager
def private_redis(directory: Path) -> Iterator[str]:
    """The URL of a Redis that keeps nothing on disk. ConfigurationError where there is none to start."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise ConfigurationError("--private-redis needs redis-server or valkey-server on the PATH; install one")
    home = directory / "redis"
    home.mkdir()
    port = _free_port()
    url = f"redis://127.0.0.1:{port}/0"

    def answers() -> bool:
        with Redis.from_url(url, socket_connect_timeout=2) as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False

    command = [
        binary,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(home),
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    with _running("Redis", command, home, None, answers):
        yield url


@contextmanager
def _running(
    name: str, command: Sequence[str], home: Path, user: str | None, answers: Callable[[], bool]
) -> Iterator[None]:
    clock, never = SystemClock(), threading.Event()
    log = home / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=home, user=user, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = clock.monotonic() + START_SECONDS
        while not answers():
            if process.poll() is not None or clock.monotonic() > deadline:
                raise BenchFailed(f"the private {name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            clock.wait(never, 0.05)
        yield
    finally:
        process.send_signal(2)  # both end at once, and in order
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _postgres_binaries() -> Path:
    """The directory with `postgres` and `initdb`: the newest of Debian's, else the one on the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if debian:
        return debian[-1].parent
    found = shutil.which("postgres")
    if found is None or shutil.which("initdb") is None:
        raise ConfigurationError(
            "--private-postgres needs postgres and initdb on the PATH; install a PostgreSQL server"
        )
    return Path(found).resolve().parent


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root; root runs it as somebody else."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
