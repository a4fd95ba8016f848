"""The limits of a provider hold over all workers, through real turns against a real endpoint."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lash_tasks import Agent, Limits, OpenAI
from lash_tasks.domain.codec import JsonObject
from lash_tasks.domain.ids import SessionId
from lash_tasks.runtime.ingress import SendRequest
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.runtime.worker import Doing
from lash_tasks.settings import Settings
from lash_tasks.stores.protocols import AdmissionRequest, NotYet
from lash_tasks.stores.redis import open_redis_stores
from lash_tasks.wiring import WorkerParts, open_worker
from tests.endpoint import ModelEndpoint, Reply, error_reply, last_user_text, text_reply
from tests.services import PrivateRedis, wait_until

pytest_plugins = ["tests.redis_keys"]

SUPPORT = Agent("support", "vllm:small", instructions="Answer.")


class NoDoorbell:
    """The test runs the sessions itself."""

    def ring_session(self, session_id: SessionId) -> None: ...

    def ring_turn(self, session_id: SessionId, turn_id: str) -> None: ...


@contextmanager
def fleet(settings: Settings, endpoint: ModelEndpoint, limits: Limits, workers: int = 2) -> Iterator[list[WorkerParts]]:
    """Workers with nothing in common but SQL and Redis, each with its threads."""
    provider = OpenAI(base_url=endpoint.base_url, limits=limits)
    parts = [
        open_worker(
            settings,
            agents={SUPPORT.name: SUPPORT},
            providers={"vllm": provider},
            deps=None,
            doorbell=NoDoorbell(),
            queues=(),
        )
        for _ in range(workers)
    ]
    for one in parts:
        one.running.start(tick=False)
    yield parts
    for one in parts:
        one.close()


def run_all(parts: list[WorkerParts], sessions: list[str]) -> list[RunVerdict]:
    """Send a text to each session, and run them side by side on the workers in turn."""
    for session in sessions:
        request = SendRequest.parse({"session_id": session, "agent": "support", "text": f"hello {session}"})
        parts[0].ingress.accept(request)
    with ThreadPoolExecutor(len(sessions)) as pool:
        return list(
            pool.map(
                lambda number: parts[number % len(parts)].running.sessions.run(SessionId(sessions[number])),
                range(len(sessions)),
            )
        )


@pytest.fixture
def settings(migrated_postgres_url: str, redis_url: str) -> Settings:
    return Settings(database_url=migrated_postgres_url, redis_url=redis_url)


class Busy:
    """Answers after a moment, and counts who is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = self.most = 0

    def __call__(self, request: JsonObject) -> Reply:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        threading.Event().wait(0.05)
        with self._lock:
            self.inside -= 1
        return text_reply(f"answer: {last_user_text(request)}")


def test_two_workers_together_ask_no_more_at_a_time_than_the_limit(settings: Settings) -> None:
    busy = Busy()
    with ModelEndpoint(busy) as endpoint, fleet(settings, endpoint, Limits(concurrency=2)) as parts:
        assert set(run_all(parts, [f"s{number}" for number in range(16)])) == {RunVerdict.COMMITTED}
        assert len(endpoint.requests) == 16
    assert busy.most == 2


def test_the_threads_of_an_embedded_worker_keep_the_limit_as_well(migrated_sqlite_url: str) -> None:
    busy, settings = Busy(), Settings(database_url=migrated_sqlite_url)
    with ModelEndpoint(busy) as endpoint, fleet(settings, endpoint, Limits(concurrency=2), workers=1) as parts:
        assert set(run_all(parts, [f"s{number}" for number in range(8)])) == {RunVerdict.COMMITTED}
    assert busy.most == 2


def test_a_refusal_of_one_worker_holds_the_other(settings: Settings) -> None:
    asked: list[float] = []

    def script(request: JsonObject) -> Reply:
        asked.append(time.perf_counter())
        if len(asked) == 1:
            return error_reply(429, "slow down", Retry_After="1")
        return text_reply("yes")

    with (
        ModelEndpoint(script) as endpoint,
        fleet(settings, endpoint, Limits(concurrency=10)) as parts,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(run_all, parts[:1], ["first"])
        wait_until(lambda: _paused(settings), 10, "the pause")
        run_all(parts[1:], ["second"])
        first.result()
    assert len(asked) == 3
    assert all(at - asked[0] >= 0.95 for at in asked[1:])


def request(ticket: str, *, concurrency: int | None = 1, ttl_ms: int = 60_000) -> AdmissionRequest:
    return AdmissionRequest(
        provider="vllm",
        ticket=ticket,
        tokens=0,
        concurrency=concurrency,
        requests_per_minute=None,
        tokens_per_minute=None,
        ttl_ms=ttl_ms,
    )


def _paused(settings: Settings) -> bool:
    assert settings.redis_url is not None
    stores = open_redis_stores(settings.redis_url)
    answer = stores.admissions.admit(request("a look", concurrency=None))
    stores.admissions.leave("vllm", "a look")
    stores.close()
    return isinstance(answer, NotYet)


def test_a_worker_that_drains_gives_a_waiting_turn_up_at_once(settings: Settings) -> None:
    let_go = threading.Event()

    def script(request: JsonObject) -> Reply:
        let_go.wait(20)
        return text_reply("yes")

    with (
        ModelEndpoint(script) as endpoint,
        fleet(settings, endpoint, Limits(concurrency=1)) as (one, two),
        ThreadPoolExecutor(2) as pool,
    ):
        holder = pool.submit(run_all, [one], ["first"])
        wait_until(lambda: endpoint.requests, 10, "the first call")
        waiting = pool.submit(run_all, [two], ["second"])
        wait_until(lambda: _doing(two) == [Doing.WAITING], 10, "the second call to wait")
        assert two.running.drain()
        assert waiting.result(5) == [RunVerdict.YIELDED]
        let_go.set()
        assert holder.result(10) == [RunVerdict.COMMITTED]
        assert one.running.sessions.run(SessionId("second")) is RunVerdict.COMMITTED


def _doing(parts: WorkerParts) -> list[Doing]:
    return [engagement.doing for engagement in parts.running.worker.engagements()]


HOLDER = """
import select, sys
from lash_tasks.stores.protocols import AdmissionRequest
from lash_tasks.stores.redis import open_redis_stores
request = AdmissionRequest(provider="vllm", ticket="theirs", tokens=0, concurrency=1, requests_per_minute=None,
                           tokens_per_minute=None, ttl_ms=500)
admissions = open_redis_stores(sys.argv[1]).admissions
assert admissions.admit(request) is None
print("inside", flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:  # until the end of the process that started it
    admissions.renew("vllm", ["theirs"], 500)
"""


def test_the_place_of_a_killed_process_comes_back(redis_url: str) -> None:
    stores = open_redis_stores(redis_url)
    program = [sys.executable, "-c", HOLDER, redis_url]
    holder = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"inside\n"
        began = time.perf_counter()
        while time.perf_counter() - began < 1:
            assert stores.admissions.admit(request("ours")) is not None
    finally:
        holder.kill()
        holder.communicate()
    wait_until(lambda: stores.admissions.admit(request("ours")) is None, 5, "the place of the dead")
    stores.close()


def test_without_redis_calls_go_on_without_limits(
    private_redis: PrivateRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stores = open_redis_stores(private_redis.url)
    assert stores.admissions.admit(request("a")) is None
    assert stores.admissions.admit(request("b")) is not None
    private_redis.kill()
    for ticket in "bcd":
        began = time.perf_counter()
        assert stores.admissions.admit(request(ticket)) is None
        stores.admissions.renew("vllm", [ticket], 1000)
        stores.admissions.leave("vllm", ticket)
        assert time.perf_counter() - began < 2
    assert caplog.text.count("Limits of providers are not kept") == 1
    private_redis.start()
    wait_until(lambda: stores.admissions.admit(request("e")) or "kept again" in caplog.text, 10, "Redis")
    assert stores.admissions.admit(request("f")) is not None
    stores.close()
