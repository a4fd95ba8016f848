"""Two processes that reach for sessions that nobody had before: of each, one of them gets it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import pytest

from lash_tasks.clock import FakeClock, SystemClock
from lash_tasks.domain.ids import LeaseToken, SessionId, WorkerId, fence_scope
from lash_tasks.stores.protocols import NotOpened, OpenedTurn, OpenRequest
from lash_tasks.stores.redis import open_redis_stores
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.turns import SqlTurnStore
from tests.conformance.arrange import SUPPORT, Scene

ROUNDS = 100
SESSIONS = [SessionId(f"session-{number}") for number in range(ROUNDS)]
LONG_MS = 120_000
Answers = list[str]
_processes = multiprocessing.get_context("spawn")


def take_leases(url: str, name: str, together: Barrier, answers: Queue[Answers]) -> None:
    stores = open_redis_stores(url)
    mine = []
    for session_id in SESSIONS:
        together.wait(30)
        mine.append("won" if stores.leases.acquire(fence_scope(session_id), LeaseToken(name), LONG_MS) else "lost")
    stores.close()
    answers.put(mine)


def open_turns(url: str, name: str, together: Barrier, answers: Queue[Answers]) -> None:
    database = Database.open(url)
    turns = SqlTurnStore(database, worker_ttl_ms=LONG_MS)
    mine = []
    for session_id in SESSIONS:
        request = OpenRequest(session_id=session_id, worker=WorkerId(name), agents=SUPPORT, machine_version=1)
        together.wait(30)
        opened = turns.open(request)
        mine.append(f"won under fence {opened.fence}" if isinstance(opened, OpenedTurn) else opened.value)
    database.close()
    answers.put(mine)


def race(url: str, reach: Callable[[str, str, Barrier, Queue[Answers]], None]) -> list[list[str]]:
    """What the two got, round by round, sorted."""
    together, answers = _processes.Barrier(2), _processes.Queue()
    racers = [_processes.Process(target=reach, args=(url, name, together, answers)) for name in ("alice", "bob")]
    for racer in racers:
        racer.start()
    got = [answers.get(timeout=100) for _ in racers]
    for racer in racers:
        racer.join(20)
    return [sorted(pair) for pair in zip(*got, strict=True)]


@pytest.mark.shows("L6")
@pytest.mark.timeout(120)
def test_of_two_processes_one_gets_the_lease(redis_url: str) -> None:
    assert race(redis_url, take_leases) == [["lost", "won"]] * ROUNDS


@pytest.mark.shows("L6")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_of_two_processes_one_opens_the_turn(request: pytest.FixtureRequest, backend: str) -> None:
    url: str = request.getfixturevalue(f"migrated_{backend}_url")
    now = FakeClock(SystemClock().now_ms())
    database = Database.open(url, now_ms=now.now_ms)
    scene = Scene(database, now)
    for worker in ("alice", "bob"):
        scene.beat(WorkerId(worker))
    for session_id in SESSIONS:
        scene.send(session_id=session_id)

    assert race(url, open_turns) == [[NotOpened.HOLDER_LIVES, "won under fence 1"]] * ROUNDS
    database.close()
