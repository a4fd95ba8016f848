"""Inputs on their way into the queue, the agents that make them welcome, and verbs that wait for somebody else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy import text

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import digest, encode
from lash_tasks.domain.ids import BatchId, SessionId
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.messages import TextPart
from lash_tasks.domain.queue import BatchDraft, When, arrival
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fleet import SqlFleet
from tests.conformance.arrange import NO_CONTEXT, SESSION
from tests.services import wait_until

Result = TypeVar("Result")
OTHER_SESSION = SessionId("customer-8")

_numbers = itertools.count(1)


def agent(name: str = "support", **changes: Any) -> AgentSnapshot:
    values: dict[str, Any] = {"name": name, "model": "scripted:echo", "instructions": "Answer briefly."}
    return AgentSnapshot(**(values | changes))


def serve(database: Database, *names: str) -> None:
    """Let a worker have registered these agents; without a name, `support`."""
    SqlFleet(database).register_agents([agent(name) for name in names or ("support",)])


def draft(session_id: SessionId = SESSION, words: str = "hello", **changes: Any) -> BatchDraft:
    """An input with a new id, and with the digest of its words as a client would make it."""
    agent_name = changes.get("agent", "support")
    values: dict[str, Any] = {
        "id": BatchId(f"batch-{next(_numbers)}"),
        "session_id": session_id,
        "agent": agent_name,
        "payload": encode(QueuedInput, QueuedInput(agent_name, (TextPart(words),))),
        "input_digest": digest(words),
        "context_digest": NO_CONTEXT,
    }
    return BatchDraft(**(values | changes))


def sent_under(when: When) -> dict[str, Any]:
    """What a draft has of the rule it is sent under."""
    return asdict(arrival(when, "m" if when is When.MERGE else None))


def start_and_wait(database: Database, beside: ThreadPoolExecutor, action: Callable[[], Result]) -> Future[Result]:
    """Start `action`, which must wait for somebody's lock, and return when it does."""
    future = beside.submit(action)
    if database.dialect == "postgresql":
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")

        def waits() -> bool:
            with database.reading() as connection:
                return bool(connection.execute(waiting).scalar_one())

        wait_until(lambda: future.done() or waits(), 10, "the statement to wait for a lock")
    else:
        wait([future], timeout=0.1)  # SQLite shows nobody waiting
    assert not future.done(), f"it did not wait: {future}"
    return future
