"""The fixtures that hand a test its own piece of a real server. `tests/services.py` says which server that is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import databases, services
from tests.codes import codes_that_come_up


def pytest_configure() -> None:
    """End at SIGTERM as at Ctrl-C: with the fixtures undone, so that no server and no database stays behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.exit("SIGTERM", returncode=128 + number))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Hold a test to the error codes that it is marked with."""
    wanted = {str(code) for mark in item.iter_markers("raises_code") for code in mark.args}
    if not wanted:
        return (yield)
    with codes_that_come_up() as seen:
        result = yield
    assert wanted <= seen, f"marked with codes that did not come up: {wanted - seen}"
    return result


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let what tests print travel between processes, also where it is no text that could be."""
    return _carried((yield))


def _carried(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_carried(key): _carried(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(_carried, value))
        case _:
            return value


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of the session's PostgreSQL. A test takes `postgres_url`."""
    with services.postgres_server() as url:
        services.drop_abandoned_databases(url)
        yield url


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[databases.MigratedPostgres]:
    """The session's database with our tables. A test takes `migrated_postgres_url`."""
    with databases.migrated_postgres(postgres_server) as database:
        yield database


@pytest.fixture(scope="session")
def migrated_sqlite() -> Iterator[databases.MigratedSqlite]:
    """The session's file with our tables. A test takes `migrated_sqlite_url`."""
    with databases.migrated_sqlite() as files:
        yield files


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of the session's Redis. A test takes `redis_url`."""
    with services.redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_server() -> str:
    """The URL of the session's RabbitMQ. A test takes `rabbitmq_url`."""
    try:
        return services.rabbitmq_server()
    except services.ServiceMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"RabbitMQ: {error}")


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh, empty database, dropped afterwards. It costs a tenth of a second: most tests want the next."""
    with services.fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
def migrated_postgres_url(migrated_postgres: databases.MigratedPostgres) -> str:
    """A database with our tables and no rows, the only one of its kind in a test."""
    return migrated_postgres.emptied()


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """A Redis database of the test's own, empty before and after. FLUSHALL needs a `PrivateRedis` instead."""
    with services.fresh_redis_database(redis_server) as url:
        yield url


@pytest.fixture
def rabbitmq_url(rabbitmq_server: str) -> Iterator[str]:
    """A virtual host of the test's own; skipped, and named in the summary, where there is no RabbitMQ."""
    with services.fresh_vhost(rabbitmq_server) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'lash.db'}"


@pytest.fixture
def migrated_sqlite_url(migrated_sqlite: databases.MigratedSqlite) -> Iterator[str]:
    """A SQLite file with our tables and no rows."""
    with migrated_sqlite.copy() as url:
        yield url


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """Show a measured figure in the summary of the run, under the test's name."""
    return record_property


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the tests, such as the time from kill to commit; and, loudly, what was left untested."""
    ended = [one for outcome in ("passed", "failed") for one in terminalreporter.stats.get(outcome, [])]
    figures = {f"{one.nodeid.split('::')[-1]}: {name}": value for one in ended for name, value in one.user_properties}
    for figure, value in sorted(figures.items()):
        terminalreporter.write_line(f"{figure} {value:.2f}")
    skipped = [str(one.longrepr) for one in terminalreporter.stats.get("skipped", [])]
    for missing in ("RabbitMQ", "docker-compose"):
        if count := sum(f"{missing}: " in reason for reason in skipped):
            terminalreporter.write_line(f"NOT TESTED: {count} tests need {missing}, and there is none.", red=True)
