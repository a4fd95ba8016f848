"""The servers that other tests stand on: private ones come back after a kill, shared ones hand out clean pieces."""

from __future__ import annotations

from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from tests import services
from tests.services import PrivatePostgres, PrivateRedis, fresh_database, fresh_redis_database, wait_until, with_path


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_a_killed_redis_comes_back_empty_on_its_port() -> None:
    with PrivateRedis() as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        server.start()
        assert client.get("key") is None


def test_a_killed_postgres_comes_back_with_what_it_had_committed() -> None:
    with PrivatePostgres() as server:
        rows(server.url, "CREATE TABLE kept (n int)")
        rows(server.url, "INSERT INTO kept VALUES (7)")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            rows(server.url, "SELECT 1")
        server.start()
        assert rows(server.url, "SELECT n FROM kept") == [(7,)]
        server.restart()
        assert rows(server.url, "SELECT n FROM kept") == [(7,)]


@pytest.mark.parametrize("server", [PrivateRedis, PrivatePostgres])
def test_a_stopped_server_leaves_no_process_and_no_files(server: type[services.PrivateServer]) -> None:
    before = set(psutil.Process().children())
    with server():
        started = set(psutil.Process().children()) - before
        directories = {Path(process.cwd()) for process in started}
        assert directories
        assert all(directory.is_dir() for directory in directories)
    assert not [process for process in started if process.is_running()]
    assert not [directory for directory in directories if directory.exists()]


def test_two_tests_never_share_a_redis_database(redis_server: str) -> None:
    with fresh_redis_database(redis_server) as one, fresh_redis_database(redis_server) as two:
        assert one != two
        with redis.Redis.from_url(one) as first, redis.Redis.from_url(two) as second:
            first.set("key", "value")
            assert second.get("key") is None


def test_a_redis_database_with_foreign_keys_is_left_alone() -> None:
    with PrivateRedis() as server:
        for number in range(1, 16):
            with redis.Redis.from_url(with_path(server.url, str(number))) as client:
                client.set("somebody", "else")
        with fresh_redis_database(server.url) as url:
            assert str(server.port) not in url
        with redis.Redis.from_url(with_path(server.url, "15")) as client:
            assert client.get("somebody") == b"else"


def test_a_redis_database_that_a_killed_run_left_full_is_used_again() -> None:
    with PrivateRedis() as server, redis.Redis.from_url(server.url) as registry:
        with fresh_redis_database(server.url) as url, redis.Redis.from_url(url) as client:
            client.set("left", "behind")
            used = registry.keys("lash-tests:used:*")
            full = client.dump("left")
        assert isinstance(used, list)
        assert full is not None
        number = int(used[0].rsplit(b":")[-1])
        with redis.Redis.from_url(with_path(server.url, str(number))) as client:
            client.restore("left", 0, full)
        registry.set(used[0], "a run that was killed")
        for other in set(range(1, 16)) - {number}:
            registry.set(f"lash-tests:claim:{other}", "taken")
        with fresh_redis_database(server.url) as again, redis.Redis.from_url(again) as client:
            assert again == url
            assert client.dbsize() == 0


def test_a_fresh_database_is_empty_and_goes_even_while_somebody_is_connected(postgres_server: str) -> None:
    with fresh_database(postgres_server) as url:
        assert rows(url, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []
        lingering = psycopg.connect(url.replace("+psycopg", ""))
    name = url.rsplit("/", 1)[-1]
    assert rows(postgres_server, f"SELECT 1 FROM pg_database WHERE datname = '{name}'") == []
    lingering.close()


def test_databases_of_killed_runs_are_dropped_and_those_in_use_are_not(postgres_server: str) -> None:
    rows(postgres_server, "CREATE DATABASE lash_test_1000000_abcd")
    with fresh_database(postgres_server) as url:
        services.drop_abandoned_databases(postgres_server)
        assert rows(url, "SELECT 1") == [(1,)]
    assert rows(postgres_server, "SELECT 1 FROM pg_database WHERE datname = 'lash_test_1000000_abcd'") == []


def test_a_named_server_that_does_not_answer_is_an_error_not_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = services.free_port()
    monkeypatch.setenv("LASH_TEST_POSTGRES_URL", f"postgresql+psycopg://postgres@127.0.0.1:{nowhere}/postgres")
    monkeypatch.setenv("LASH_TEST_REDIS_URL", f"redis://127.0.0.1:{nowhere}/0")
    monkeypatch.setenv("LASH_TEST_RABBITMQ_URL", f"amqp://guest:guest@127.0.0.1:{nowhere}//")
    with pytest.raises(services.ServiceMissing, match="LASH_TEST_POSTGRES_URL"), services.postgres_server():
        pass
    with pytest.raises(services.ServiceMissing, match="LASH_TEST_REDIS_URL"), services.redis_server():
        pass
    with pytest.raises(services.ServiceMissing, match="LASH_TEST_RABBITMQ_URL"):
        services.rabbitmq_server()


def test_waiting_ends_with_the_value_or_names_what_did_not_happen() -> None:
    states = iter([None, None, "there"])
    assert wait_until(lambda: next(states), 5, "the third state") == "there"
    with pytest.raises(AssertionError, match=r"waited 0.05 s for a train"):
        wait_until(lambda: False, 0.05, "a train")
