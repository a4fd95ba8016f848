"""The client against real databases, with a worker in this process where the test needs one."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from lash_tasks.client import Client, Receipt
from lash_tasks.clock import SystemClock
from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.ids import SessionId, blob_ref
from lash_tasks.domain.inputs import ImageRefItem, TextItem, TurnInput
from lash_tasks.domain.queue import CancelVerdict
from lash_tasks.domain.turns import StopKind, stopped
from lash_tasks.domain.usage import UsageTotal
from lash_tasks.errors import (
    ConfigurationError,
    ErrorCode,
    IdempotencyConflict,
    InputCancelled,
    InvalidInput,
    NotFound,
    ResultTimeout,
    SchemaBehind,
    SessionDeleted,
)
from lash_tasks.observation.following import FollowEvent
from lash_tasks.observation.receipts import ReceiptState
from lash_tasks.runtime.crash_points import CrashPoint, nothing_happens
from lash_tasks.runtime.local import LocalDoorbell
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import open_stores
from lash_tasks.tools.agents import Agent
from lash_tasks.tools.definition import tool
from lash_tasks.wiring import WorkerParts, client_parts, open_worker
from tests.conformance.callers import KINDS_OF_DATABASES, Caller, calling
from tests.services import PrivateRedis, wait_until

SESSION = "customer-7"
SUPPORT = Agent("support", "scripted:echo", instructions="Answer briefly.")
PNG = b"\x89PNG\r\n\x1a\nan image"
PATIENCE = 20.0


@dataclass
class Service:
    """A service with its client, and in one stretch of its life a worker that answers the same doorbell."""

    settings: Settings
    doorbell: LocalDoorbell = field(default_factory=LocalDoorbell)

    def __post_init__(self) -> None:
        stores = open_stores(self.settings, allow_memory_leases=True)
        stores.fleet.register_agents([SUPPORT.snapshot()])
        self.client = Client.from_parts(client_parts(self.settings, stores, self.doorbell, SystemClock(), stores.close))

    def send(self, said: Any = "hello", **fields: Any) -> Receipt:
        return self.client.send(SESSION, said, **{"agent": "support", **fields})

    def inputs(self) -> int:
        return len(self.client.stores.queue.waiting())

    @contextmanager
    def working(
        self, agent: Agent = SUPPORT, reached: Callable[[CrashPoint], None] = nothing_happens
    ) -> Iterator[WorkerParts]:
        """A worker, as long as the context lasts. What waits already is rung for."""
        worker = open_worker(
            self.settings,
            agents={agent.name: agent},
            providers={},
            deps=None,
            doorbell=self.doorbell,
            queues=("test",),
            reached=reached,
        )
        worker.running.start(tick=False)
        self.doorbell.answer(worker.running.sessions.run, threads=2)
        for batch in self.client.stores.queue.waiting():
            self.doorbell.ring_session(batch.session_id)
        try:
            yield worker
        finally:
            worker.running.drain()
            self.doorbell.close()
            worker.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"migrated_{request.param}_url")
    return url


@pytest.fixture
def settings(request: pytest.FixtureRequest, database_url: str) -> Settings:
    """SQLite with the stand-ins of one process, Postgres with Redis."""
    redis_url = None if database_url.startswith("sqlite") else request.getfixturevalue("redis_url")
    return Settings(database_url=database_url, redis_url=redis_url, lease_ttl=0.6, drain_grace=0)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    service = Service(settings)
    yield service
    service.client.close()


on_redis = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


@pytest.fixture
def threads() -> Iterator[list[threading.Thread]]:
    """Threads that a test has started; joined at the end."""
    started: list[threading.Thread] = []
    yield started
    for thread in started:
        thread.join(PATIENCE)


# ---------------------------------------------------------------- send and result


def test_a_result_is_waited_for_until_the_turn_is_committed(service: Service) -> None:
    receipt = service.send("hello", context={"user_id": 42})
    assert (receipt.session_id, receipt.created, str(receipt.status())) == (SESSION, True, "queued")
    with service.working():
        turn = receipt.result(timeout=PATIENCE)
    assert (turn.ok, turn.text, turn.session_id, turn.turn_index) == (True, "You said: hello", SESSION, 1)
    assert str(receipt.status()) == f"committed({turn.turn_id})"
    assert turn.committed_at_ms is not None


def test_an_accepted_input_is_rung_for(service: Service) -> None:
    with service.working():
        assert service.send("hello").result(timeout=PATIENCE).ok


def test_a_wait_that_is_over_leaves_the_work_alone(service: Service) -> None:
    receipt = service.send()
    with pytest.raises(ResultTimeout):
        receipt.result(timeout=0.05)
    with service.working():
        assert receipt.result(timeout=PATIENCE).ok


def test_inputs_of_a_session_are_answered_in_order(service: Service) -> None:
    receipts = [service.send(str(number)) for number in range(5)]
    with service.working():
        turns = [receipt.result(timeout=PATIENCE) for receipt in receipts]
    assert [(turn.turn_index, turn.text) for turn in turns] == [(n + 1, f"You said: {n}") for n in range(5)]


def test_a_worker_that_dies_between_commit_and_announcement_hangs_nobody(service: Service) -> None:
    def die(point: CrashPoint) -> None:
        if point is CrashPoint.AFTER_COMMIT:
            raise RuntimeError("the worker dies here")

    receipt = service.send()
    followed = service.client.follow(SESSION)
    assert next(followed).type == "snapshot"
    with service.working(reached=die):
        assert receipt.result(timeout=PATIENCE).ok
        committed = [event for event in take_until(followed, "committed") if event.type == "committed"]
    assert [event.data["turn_index"] for event in committed] == [1]


def test_text_and_images_reach_the_turn(service: Service) -> None:
    sent = TurnInput((TextItem("What is this? "), ImageRefItem("photo"), TextItem("And that?")), {"photo": PNG})
    receipt = service.send(sent)
    assert service.client.stores.blobs.get(blob_ref(PNG)) == PNG
    mapped = {"items": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    second = service.send(mapped)
    with service.working():
        assert receipt.result(timeout=PATIENCE).ok
        assert second.result(timeout=PATIENCE).text == "You said: ab"


def test_a_tool_may_send_but_not_wait(service: Service) -> None:
    said: list[str] = []

    @tool
    def ask_a_colleague() -> str:
        """Ask somebody else and wait for the answer."""
        receipt = service.client.send("colleague", "hello", agent="support")
        said.append(receipt.input_id)
        return receipt.result(timeout=PATIENCE).text

    agent = Agent("support", "scripted:echo", tools=[ask_a_colleague])
    with service.working(agent):
        turn = service.send("call ask_a_colleague").result(timeout=PATIENCE)
    [call] = turn.tool_calls
    assert call.outcome.failure is not None
    assert "would block a worker thread" in call.outcome.failure.message
    assert len(said) == 1


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"said": ""}, "text: must not be empty"),
        ({"said": 7}, "text: must be a string, a TurnInput or a mapping, not int"),
        ({"said": {"parts": []}}, "input.items: is required"),
        (
            {"said": TurnInput((ImageRefItem("photo"),), {})},
            "input.items[0].id: there is no image_blobs entry 'photo'",
        ),
        ({"agent": "nobody"}, "agent: no worker serves 'nobody'; known agents: support"),
        ({"when": "later"}, "when: must be 'queue', 'steer', 'interrupt', 'reject' or 'merge'"),
        ({"when": "merge"}, "merge_key: is required with when='merge'"),
        ({"when": "steer", "merge_key": "m"}, "merge_key: goes with when='merge' only, not with 'steer'"),
        ({"quiet": 1}, "quiet: goes with when='merge' only, not with 'queue'"),
        ({"when": "merge", "merge_key": "m", "quiet": "1"}, "quiet: must be seconds or a timedelta, not str"),
        ({"when": "merge", "merge_key": "m", "quiet": True}, "quiet: must be seconds or a timedelta, not bool"),
        ({"when": "merge", "merge_key": "m", "quiet": 0}, "quiet: must be from 0.001 to 3600 seconds"),
        ({"when": "merge", "merge_key": "m", "quiet": math.nan}, "quiet: must be from 0.001 to 3600 seconds"),
        (
            {"when": "merge", "merge_key": "m", "quiet": timedelta(hours=2)},
            "quiet: must be from 0.001 to 3600 seconds",
        ),
        (
            {"when": "merge", "merge_key": "m", "quiet": 1, "available_at": datetime.now(UTC)},
            "available_at: cannot be given together with a quiet period; choose one",
        ),
        (
            {"when": "interrupt", "available_at": datetime.now(UTC)},
            "available_at: cannot be given with when='interrupt', which is about now",
        ),
        ({"context": "x"}, "context: must be an object, not str"),
        ({"idempotency_key": "\n"}, "idempotency_key: must not be empty"),
        (
            {"available_at": datetime(2026, 11, 23)},  # noqa: DTZ001 that is the mistake
            "available_at: must be a datetime with a time zone",
        ),
        (
            {"connection": object()},
            "connection: is a object and must be a SQLAlchemy Connection or Session, a psycopg 3 Connection, "
            "or django.db.connection",
        ),
    ],
)
def test_a_bad_input_is_refused_and_nothing_is_stored(service: Service, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        service.send(**fields)
    assert str(refusal.value) == sentence
    assert service.inputs() == 0


def test_settings_without_a_database_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="Set LASH_DATABASE_URL"):
        Client(Settings())


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_a_database_without_our_tables_is_refused_at_once(
    request: pytest.FixtureRequest, redis_url: str, backend: str
) -> None:
    settings = Settings(database_url=request.getfixturevalue(f"{backend}_url"), redis_url=redis_url)
    with pytest.raises(SchemaBehind, match="run: lash-tasks db upgrade"):
        Client(settings)


def test_a_client_of_its_own_settings_sends_and_reads(service: Service) -> None:
    with Client(service.settings) as client:
        receipt = client.send(SESSION, "hello", agent="support", available_at=datetime.now(UTC) + timedelta(days=1))
        assert client.agents() == ["support"]
        assert str(receipt.status()) == "queued"
    assert service.client.receipt(SESSION, input_id=receipt.input_id).status().state is ReceiptState.QUEUED


def test_usage_is_what_the_committed_turns_used(service: Service) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    with service.working():
        turn = service.send("hello").result(timeout=PATIENCE)
    assert turn.token_usage.total_tokens > 0
    expected = [UsageTotal("turn", "scripted:echo", 1, turn.token_usage)]
    assert service.client.usage() == service.client.usage(SESSION, since=before) == expected
    assert service.client.usage("another") == service.client.usage(since=before + timedelta(days=1)) == []
    with pytest.raises(InvalidInput, match="since: must be a datetime with a time zone"):
        service.client.usage(since=datetime(2026, 11, 23))  # noqa: DTZ001 that is the mistake


# ---------------------------------------------------------------- idempotency


def test_the_same_key_with_the_same_input_returns_the_first_receipt_also_after_the_answer(service: Service) -> None:
    first = service.send("hello", idempotency_key="msg-1", context={"a": 1})
    again = service.send("hello", idempotency_key="msg-1", context={"a": 1})
    assert (again.input_id, first.created, again.created) == (first.input_id, True, False)
    assert service.inputs() == 1
    with service.working():
        turn = first.result(timeout=PATIENCE)
    late = service.send("hello", idempotency_key="msg-1", context={"a": 1})
    assert (late.input_id, late.created) == (first.input_id, False)
    assert late.result(timeout=0) == turn
    for other in ({"said": "bye", "context": {"a": 1}}, {"said": "hello"}):
        with pytest.raises(IdempotencyConflict):
            service.send(**other, idempotency_key="msg-1")
    assert service.inputs() == 0


def test_a_receipt_is_found_again_by_key_or_id(service: Service) -> None:
    sent = service.send(idempotency_key="msg-1")
    by_key, by_id = {"idempotency_key": "msg-1"}, {"input_id": sent.input_id}
    for kind, named in (("input with the idempotency key", by_key), ("input", by_id)):
        found = service.client.receipt(SESSION, **named)
        assert (found.input_id, found.session_id, found.created) == (sent.input_id, SESSION, False)
        with pytest.raises(NotFound, match=f"there is no {kind} '"):
            service.client.receipt("another", **named)


@pytest.mark.parametrize(
    ("session_id", "named", "field"),
    [
        ("a\x00b", {"input_id": "x"}, "session_id"),
        (SESSION, {"input_id": "\x00"}, "input_id"),
        (SESSION, {"idempotency_key": 7}, "idempotency_key"),
        (SESSION, {}, "idempotency_key"),
        (SESSION, {"input_id": "a", "idempotency_key": "b"}, "idempotency_key"),
    ],
)
def test_a_bad_question_is_refused_by_field(
    service: Service, session_id: str, named: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        service.client.receipt(session_id, **named)
    assert refusal.value.field == field


# ---------------------------------------------------------------- cancel


def test_an_input_that_no_turn_has_is_cancelled(service: Service) -> None:
    receipt = service.send()
    assert receipt.cancel().verdict is CancelVerdict.CANCELLED
    assert str(receipt.status()) == "cancelled"
    with pytest.raises(InputCancelled):
        receipt.result(timeout=0)
    assert service.client.cancel(SESSION, input_id=receipt.input_id).verdict is CancelVerdict.ENDED


def test_a_running_turn_is_cancelled_and_the_session_goes_on(service: Service) -> None:
    receipt, following = service.send("[slow 30]"), service.send("hello")
    with service.working():
        wait_until(lambda: receipt.status().state is ReceiptState.RUNNING, PATIENCE, "the turn to run")
        taken = receipt.cancel()
        assert taken.verdict is CancelVerdict.TAKEN
        assert taken.turn_id is not None
        assert service.client.cancel(SESSION, turn_id=taken.turn_id).verdict is CancelVerdict.REQUESTED
        turn = receipt.result(timeout=PATIENCE)
        assert (turn.ok, turn.outcome) == (False, stopped(StopKind.CANCELLED))
        assert following.result(timeout=PATIENCE).ok


def test_a_session_that_is_deleted_meanwhile_ends_the_wait(service: Service, threads: list[threading.Thread]) -> None:
    receipt = service.send()
    threads.append(threading.Thread(target=service.client.stores.sessions.delete, args=(SessionId(SESSION),)))
    threads[0].start()
    with pytest.raises(SessionDeleted):
        receipt.result(timeout=PATIENCE)
    with pytest.raises(SessionDeleted):
        service.send()


# ---------------------------------------------------------------- the caller's own transaction


@pytest.mark.parametrize(
    ("database_url", "kind"),
    [pytest.param(url, kind, id=f"{url}-{kind.__name__}") for url, kind in KINDS_OF_DATABASES],
    indirect=["database_url"],
)
def test_an_input_lands_with_the_callers_transaction_or_not_at_all(
    service: Service, database_url: str, kind: type[Caller]
) -> None:
    with service.client.stores.database.transaction() as connection:
        connection.execute(text("CREATE TABLE orders (name TEXT)"))
    with service.working(), calling(kind, database_url) as caller:
        caller.order()
        lost = service.send("lost", connection=caller.connection)
        caller.rollback()
        with pytest.raises(NotFound):
            lost.status()

        caller.order()
        receipt = service.send("Order placed.", connection=caller.connection)
        with pytest.raises(NotFound):
            service.client.receipt(SESSION, input_id=receipt.input_id)
        caller.commit()
        if not caller.tells_commits:
            receipt.ring()
        assert receipt.result(timeout=PATIENCE).text == "You said: Order placed."
    with service.client.stores.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar_one() == 1


def test_a_refused_input_leaves_the_callers_transaction_usable(service: Service) -> None:
    with service.client.stores.database.transaction() as connection:
        for fields in ({"when": "reject"}, {"agent": "nobody"}, {"said": ""}):
            with pytest.raises(InvalidInput):
                service.send(**fields, connection=connection)
        receipt = service.send("hello", connection=connection)
    assert str(receipt.status()) == "queued"


# ---------------------------------------------------------------- follow


def take_until(followed: Iterator[FollowEvent], last: str) -> list[FollowEvent]:
    events = []
    for event in followed:
        events.append(event)
        if event.type == last:
            break
    return events


@on_redis
def test_a_turn_is_followed_live(service: Service) -> None:
    followed = service.client.follow(SESSION, idle_timeout=PATIENCE)
    assert next(followed).type == "snapshot"
    receipt = service.send("tell me something that is long enough to come in pieces")
    assert next(followed).type is ActivityType.QUEUE_CHANGED
    with service.working():
        events = take_until(followed, "committed")
    kinds = [event.type for event in events]
    started = [ActivityType.TURN_STARTED, ActivityType.QUEUED_WORK_STARTED, ActivityType.MODEL_REQUEST_STARTED]
    assert kinds[:3] == started
    assert kinds[-1] is ActivityType.COMMITTED
    live = "".join(event.data["text"] for event in events if event.type is ActivityType.ASSISTANT_PROSE_DELTA)
    turn = receipt.result(timeout=0)
    assert live == turn.text == events[-1].data["assistant_output"]["safe_text"]
    assert {event.turn_id for event in events} == {turn.turn_id}


def test_a_cursor_resumes_behind_what_was_seen(service: Service) -> None:
    with service.working():
        for number in range(3):
            service.send(str(number)).result(timeout=PATIENCE)
        snapshot = next(service.client.follow(SESSION))
        for number in range(3, 6):
            service.send(str(number)).result(timeout=PATIENCE)
    followed = service.client.follow(SESSION, snapshot.cursor, idle_timeout=0.5)
    committed = [event for event in followed if event.type is ActivityType.COMMITTED]
    assert [event.data["turn_index"] for event in committed] == [4, 5, 6]
    followed = service.client.follow(SESSION, committed[1].cursor, idle_timeout=0.5)
    assert [event.data["turn_index"] for event in followed if event.type is ActivityType.COMMITTED] == [6]


def test_a_bad_cursor_is_refused_at_once(service: Service) -> None:
    other = next(service.client.follow("another"))
    for cursor in ("nonsense", other.cursor):
        with pytest.raises(InvalidInput) as refusal:
            service.client.follow(SESSION, cursor)
        assert (refusal.value.code, refusal.value.field) == (ErrorCode.INVALID_INPUT, "cursor")


def test_a_follower_is_stopped_from_another_thread(service: Service, threads: list[threading.Thread]) -> None:
    stop, seen = threading.Event(), threading.Event()

    def watch() -> None:
        for _ in service.client.follow(SESSION, stop=stop):
            seen.set()

    threads.append(threading.Thread(target=watch))
    threads[0].start()
    assert seen.wait(PATIENCE)
    stop.set()
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()


def test_losing_redis_in_the_middle_of_a_turn_costs_the_live_events_only(migrated_postgres_url: str) -> None:
    with PrivateRedis() as redis:
        service = Service(
            Settings(database_url=migrated_postgres_url, redis_url=redis.url, lease_ttl=0.6, drain_grace=0)
        )
        with service.client, service.working():
            followed = service.client.follow(SESSION, idle_timeout=PATIENCE)
            assert next(followed).type == "snapshot"
            receipt = service.send("[slow 2]")
            assert next(followed).type is ActivityType.QUEUE_CHANGED
            assert next(followed).type is ActivityType.TURN_STARTED
            redis.kill()
            rest = take_until(followed, "committed")
            turn = receipt.result(timeout=PATIENCE)
    kinds = [event.type for event in rest]
    assert "gap" in kinds
    assert (turn.ok, rest[-1].data["turn_index"]) == (True, 1)
