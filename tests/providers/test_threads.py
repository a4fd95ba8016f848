"""One provider serves many threads, and leaves nothing behind when they end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from lash_tasks.clock import SystemClock
from lash_tasks.domain.messages import TextPart
from lash_tasks.machine.requests import ModelResponse
from lash_tasks.providers.retrying import RetryPolicy
from lash_tasks.runtime.interrupts import TurnInterrupt
from tests.endpoint import ModelEndpoint, Reply, Step, converse, delta, last_user_text
from tests.providers.parts import RecordingStream, call_of, openai_at
from tests.services import wait_until

THREADS, CALLS = 50, 4


def test_fifty_threads_get_their_own_answers_over_fifty_connections() -> None:
    with ModelEndpoint(converse) as endpoint, ThreadPoolExecutor(THREADS) as pool:
        provider = openai_at(endpoint.base_url, clock=SystemClock())
        together = threading.Barrier(THREADS)

        def conversation(number: int) -> list[tuple[ModelResponse, list[object]]]:
            together.wait(20)
            answers = []
            for turn in range(CALLS):
                stream = RecordingStream()
                call = call_of(f"{number}.{turn}")
                answers.append((provider.complete(call, stream, TurnInterrupt(SystemClock())), stream.of("text")))
            return answers

        results = list(pool.map(conversation, range(THREADS)))
        assert [[response.parts for response, _ in answers] for answers in results] == [
            [(TextPart(f"answer: {number}.{turn}"),) for turn in range(CALLS)] for number in range(THREADS)
        ]
        assert all(streamed == [response.parts[0].text] for answers in results for response, streamed in answers)  # type: ignore[union-attr]  # all are texts
        assert len(endpoint.requests) == THREADS * CALLS
        assert endpoint.accepted == THREADS
        provider.close()


def test_threads_do_not_share_their_failures() -> None:
    """Every third server answer breaks in the middle; each thread retries its own and none sees another's text."""
    lock, count = threading.Lock(), [0]

    def flaky(body: dict[str, object]) -> Reply:
        with lock:
            count[0] += 1
            broken = count[0] % 3 == 0
        return Reply((delta(content="half"), Step.CUT)) if broken else converse(body)

    with ModelEndpoint(flaky) as endpoint, ThreadPoolExecutor(20) as pool:
        policy = RetryPolicy(max_attempts=20, base_seconds=0.001, max_seconds=0.001)
        provider = openai_at(endpoint.base_url, clock=SystemClock(), policy=policy)

        def one(number: int) -> bool:
            answer = provider.complete(call_of(str(number)), RecordingStream(), TurnInterrupt(SystemClock()))
            return answer.parts == (TextPart(f"answer: {number}"),)

        assert all(pool.map(one, range(100)))
        assert {last_user_text(request.body) for request in endpoint.requests} == {str(n) for n in range(100)}
        provider.close()


def test_a_thread_that_ends_closes_its_connection() -> None:
    with ModelEndpoint(converse) as endpoint:
        provider = openai_at(endpoint.base_url, clock=SystemClock())

        def once() -> None:
            provider.complete(call_of(), RecordingStream(), TurnInterrupt(SystemClock()))

        for _ in range(5):
            thread = threading.Thread(target=once)
            thread.start()
            thread.join()
        assert endpoint.accepted == 5
        wait_until(lambda: endpoint.connections == 0, 5, "the connections to close")
        provider.close()


def test_close_closes_the_connections_of_threads_that_live_on() -> None:
    with ModelEndpoint(converse) as endpoint, ThreadPoolExecutor(3) as pool:
        provider = openai_at(endpoint.base_url, clock=SystemClock())
        together = threading.Barrier(3)

        def once(_: int) -> None:
            together.wait(10)
            provider.complete(call_of(), RecordingStream(), TurnInterrupt(SystemClock()))

        list(pool.map(once, range(3)))
        assert endpoint.connections == 3
        provider.close()
        wait_until(lambda: endpoint.connections == 0, 5, "the connections to close")
