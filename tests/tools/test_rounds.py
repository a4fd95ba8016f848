"""The calls of a round overlap while threads are free, run in their caller otherwise, and never deadlock."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial

import pytest

from lash_tasks.ports import Interrupted, InterruptReason
from lash_tasks.tools.rounds import RoundExecutor
from lash_tasks.tools.threads import DaemonPool
from tests.services import wait_until
from tests.tools.calls import PATIENCE
from tests.tools.conftest import lash_threads

request_id: ContextVar[str] = ContextVar("request_id", default="none")


class Rounds:
    def __init__(self) -> None:
        self.made: list[RoundExecutor] = []

    def __call__(self, max_threads: int) -> RoundExecutor:
        self.made.append(RoundExecutor(max_threads))
        return self.made[-1]


@pytest.fixture
def rounds() -> Iterator[Rounds]:
    """Executors for one test. Afterwards each is closed and not one of its threads is left."""
    made = Rounds()
    yield made
    for executor in made.made:
        executor.close()
    wait_until(lambda: not lash_threads(), 10, f"the threads {lash_threads()} to end")


def give(value: int) -> int:
    return value


def throw(error: BaseException) -> int:
    raise error


def where() -> int:
    return threading.get_ident()


def test_results_and_errors_come_back_in_order(rounds: Rounds) -> None:
    interrupted, broken = Interrupted(InterruptReason.LOST), KeyboardInterrupt()
    jobs: list[Callable[[], int]] = [
        partial(give, 0),
        partial(throw, interrupted),
        partial(give, 2),
        partial(throw, broken),
        partial(give, 4),
    ]
    assert rounds(3).run(jobs) == [0, interrupted, 2, broken, 4]
    assert rounds(3).run([]) == []


def test_jobs_overlap(rounds: Rounds) -> None:
    barrier = threading.Barrier(5)

    def meet() -> str:
        barrier.wait(PATIENCE)
        return threading.current_thread().name

    names = rounds(4).run([meet] * 5)
    assert len(set(names)) == 5
    assert threading.current_thread().name in names
    assert sum(str(name).startswith("lash-tool-round-") for name in names) == 4


def test_a_single_job_runs_in_the_caller(rounds: Rounds) -> None:
    executor = rounds(4)
    assert executor.run([where]) == [threading.get_ident()]
    assert not lash_threads()


def test_jobs_run_in_the_caller_when_no_thread_is_free(rounds: Rounds) -> None:
    executor = rounds(1)
    both_busy, release = threading.Barrier(3), threading.Event()

    def block() -> None:
        both_busy.wait(PATIENCE)
        assert release.wait(PATIENCE)

    other = threading.Thread(target=executor.run, args=([block, block],))
    other.start()
    try:
        both_busy.wait(PATIENCE)
        assert executor.run([where] * 3) == [threading.get_ident()] * 3
    finally:
        release.set()
        other.join(PATIENCE)
    assert not other.is_alive()


def test_a_round_that_found_no_free_thread_leaves_nothing_behind(rounds: Rounds) -> None:
    """Helpers queued for later would keep arguments and results of finished rounds for as long as all threads work."""

    class Arguments:
        pass

    executor = rounds(1)
    both_busy, release = threading.Barrier(3), threading.Event()

    def block() -> None:
        both_busy.wait(PATIENCE)
        assert release.wait(PATIENCE)

    def run() -> weakref.ref[Arguments]:
        arguments = Arguments()
        executor.run([partial(id, arguments)] * 3)
        return weakref.ref(arguments)

    other = threading.Thread(target=executor.run, args=([block, block],))
    other.start()
    try:
        both_busy.wait(PATIENCE)
        kept = run()
        gc.collect()
        assert kept() is None
    finally:
        release.set()
        other.join(PATIENCE)


def test_a_thread_that_has_finished_is_offered_again() -> None:
    pool = DaemonPool("lash-tool-test", 1)
    ran: list[str] = []
    for _ in range(3):
        wait_until(lambda: pool.offer(lambda: ran.append(threading.current_thread().name)), 10, "a free thread")
    wait_until(lambda: len(ran) == 3, 10, "three jobs")
    pool.close()
    assert ran == ["lash-tool-test-1"] * 3


def test_many_callers_on_few_threads_all_finish(rounds: Rounds) -> None:
    """64 turns of 8 calls on 4 threads, each call with a round of its own inside."""
    executor = rounds(4)
    start = threading.Barrier(64)
    results: dict[int, list[object]] = {}

    def job(caller: int, index: int) -> tuple[int, int]:
        assert executor.run([partial(give, 1), partial(give, 2)]) == [1, 2]
        return caller, index

    def call(caller: int) -> None:
        start.wait(PATIENCE)
        results[caller] = [*executor.run([partial(job, caller, index) for index in range(8)])]

    threads = [threading.Thread(target=call, args=(caller,), daemon=True) for caller in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {caller: [(caller, index) for index in range(8)] for caller in range(64)}
    assert len(lash_threads()) <= 4


def test_each_job_sees_a_copy_of_the_callers_context_variables(rounds: Rounds) -> None:
    barrier = threading.Barrier(3)

    def read(name: str) -> str:
        seen = request_id.get()
        request_id.set(name)
        barrier.wait(PATIENCE)
        assert request_id.get() == name
        return seen

    token = request_id.set("r-1")
    try:
        assert rounds(2).run([partial(read, name) for name in "abc"]) == ["r-1"] * 3
        assert request_id.get() == "r-1"
    finally:
        request_id.reset(token)


def test_a_closed_executor_runs_in_the_caller(rounds: Rounds) -> None:
    executor = rounds(4)
    executor.close()
    assert executor.run([where] * 3) == [threading.get_ident()] * 3


def test_a_pool_keeps_to_its_bound_and_drops_what_has_not_begun_when_it_closes() -> None:
    pool = DaemonPool("lash-tool-test", 1)
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()
    ran: list[str] = []

    def block() -> None:
        begun.set()
        assert release.wait(PATIENCE)
        ended.set()

    assert pool.offer(block)
    assert begun.wait(PATIENCE)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("lash-tool-test"))
    assert not pool.offer(lambda: ran.append("offered"))
    assert pool.submit(lambda: ran.append("submitted"))
    assert lash_threads() == ["lash-tool-test-1"]
    pool.close()
    release.set()
    assert ended.wait(PATIENCE)
    wait_until(lambda: not lash_threads(), 10, "the thread to end")
    assert not pool.submit(lambda: ran.append("late"))
    assert ran == []


def test_a_pool_of_no_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="max_threads must be at least 1"):
        DaemonPool("lash-tool-test", 0)
