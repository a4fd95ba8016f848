"""A broker that accepts connections and does not answer.

The story: a Redis that hangs (a fork that blocks it, a partition that swallows packets) refuses nothing. Every
`client.send` then waited for it inside kombu, three socket timeouts long, though its input was committed already:
thirty threads were held up for 60 to 90 seconds each, and so were the workers' threads that rang after a turn.
"""

from __future__ import annotations

import threading

import pytest
import redis

from lash_tasks.celery import create_celery
from lash_tasks.clock import SystemClock
from lash_tasks.dispatch import CeleryDoorbell
from lash_tasks.domain.ids import SessionId
from lash_tasks.queues import Queue
from tests.services import PrivateRedis, wait_until

SILENT_SECONDS = 4
SENDERS = 30

pytestmark = pytest.mark.timeout(180)


def test_a_broker_that_does_not_answer_holds_nobody_up_and_gets_its_rings_later(private_redis: PrivateRedis) -> None:
    app, clock = create_celery("test", private_redis.url), SystemClock()
    doorbell = CeleryDoorbell(app, clock)
    waited: list[float] = []

    def ring(number: int) -> None:
        began = clock.monotonic()
        doorbell.ring_session(SessionId(f"session-{number}"))
        waited.append(clock.monotonic() - began)

    with redis.Redis.from_url(private_redis.url, socket_timeout=60) as connection:
        ring(0)
        assert connection.llen(Queue.TURNS) == 1, "a ring is out when ring_session returns"
        connection.client_pause(SILENT_SECONDS * 1000)
        senders = [threading.Thread(target=ring, args=(number,)) for number in range(1, SENDERS + 1)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert max(waited) < 2.0
        ring(SENDERS + 1)
        assert waited[-1] < 0.2, "nobody waits for a broker that is known to be slow"
        wait_until(lambda: connection.llen(Queue.TURNS) == SENDERS + 2, 60, "the broker to get every ring")
        ring(SENDERS + 2)
        wait_until(lambda: connection.llen(Queue.TURNS) == SENDERS + 3, 20, "the next ring")
    app.close()
