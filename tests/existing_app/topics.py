"""An app on RabbitMQ with topics, priorities and a route for everything, which has a Lash."""

from __future__ import annotations

import os

from celery import Celery
from kombu import Exchange, Queue

from lash_tasks import Agent, Lash

_topics = Exchange("topics", "topic")

app = Celery("topics", broker=os.environ["TOPICS_BROKER_URL"], backend="rpc://")
app.conf.update(
    task_default_exchange="topics",
    task_default_exchange_type="topic",
    task_default_routing_key="own.default",
    task_queue_max_priority=10,
    task_default_priority=5,
    task_queues=[Queue("own", _topics, routing_key="own.#")],
    task_default_queue="own",
    task_routes={"*": {"exchange": "topics", "routing_key": "own.all"}},
    task_create_missing_queues=False,
)
lash = Lash([Agent("echo", "scripted:echo")], celery=app)


def _double(number: int) -> int:
    return 2 * number


double = app.task(name="double")(_double)
