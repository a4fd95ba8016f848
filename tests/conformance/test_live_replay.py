"""Live streams: what was appended is read once and in order, and what was lost is never passed over in silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from lash_tasks.clock import FakeClock
from lash_tasks.domain.activity import ActivityType, TurnActivity
from lash_tasks.domain.ids import SessionId, TurnId
from lash_tasks.errors import InvalidInput
from lash_tasks.stores.memory import MemoryStores, open_memory_stores
from lash_tasks.stores.memory import live as memory_live
from lash_tasks.stores.protocols import GapReason, LiveBatch, LiveGap, LiveReplay
from lash_tasks.stores.redis import RedisStores, open_redis_stores
from tests.services import wait_until

pytest_plugins = ["tests.redis_keys"]

SESSION = SessionId("customer-7")
STREAM = f"lash::live:{SESSION}"


@pytest.fixture
def live(volatile_stores: MemoryStores | RedisStores) -> LiveReplay:
    return volatile_stores.live


@pytest.fixture
def redis_stores(redis_url: str) -> Iterator[RedisStores]:
    stores = open_redis_stores(redis_url)
    yield stores
    stores.close()


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """The Redis database behind the stores, to do it harm."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def deltas(first: int, last: int, session_id: SessionId = SESSION) -> list[TurnActivity]:
    return [
        TurnActivity(session_id, TurnId("t1"), 3, 1, number, ActivityType.ASSISTANT_PROSE_DELTA, {"text": f"{number} "})
        for number in range(first, last + 1)
    ]


def batch(found: LiveBatch | LiveGap) -> LiveBatch:
    assert isinstance(found, LiveBatch), found
    return found


def gap(found: LiveBatch | LiveGap) -> LiveGap:
    assert isinstance(found, LiveGap), found
    return found


def ordinals(found: LiveBatch | LiveGap) -> list[int]:
    return [event.activity.ordinal for event in batch(found).events]


def follow(live: LiveReplay, cursor: str, count: int) -> list[int]:
    """The ordinals of the next `count` events."""
    seen: list[int] = []
    while len(seen) < count:
        found = batch(live.read(SESSION, cursor, 10))
        seen += ordinals(found)
        cursor = found.cursor
    return seen


def in_threads(calls: Sequence[threading.Thread]) -> None:
    for call in calls:
        call.start()
    for call in calls:
        call.join(30)
        assert not call.is_alive()


# ---------------------------------------------------------------- reading on


def test_events_are_read_from_any_cursor_on(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    live.append(deltas(1, 2))
    first, second = batch(live.read(SESSION, start, 0)).events
    assert [first.activity, second.activity] == deltas(1, 2)
    assert ordinals(live.read(SESSION, first.cursor, 0)) == [2]
    assert live.read(SESSION, second.cursor, 0) == LiveBatch((), second.cursor)


def test_a_batch_ends_with_the_cursor_of_its_last_event(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    live.append(deltas(1, 3))
    found = batch(live.read(SESSION, start, 0))
    assert found.cursor == found.events[-1].cursor == live.tail(SESSION)


def test_an_activity_comes_back_as_it_was(live: LiveReplay) -> None:
    activities = [
        TurnActivity(SESSION, None, 0, 0, 1, ActivityType.QUEUE_CHANGED, {"batch_ids": ["b1"], "nothing": None}),
        TurnActivity(SESSION, TurnId("größe:1"), 2**40, 3, 2, ActivityType.USAGE, {"cost": 0.25, "text": "\x00 ü 🙂"}),
    ]
    start = live.tail(SESSION)
    live.append(activities)
    assert [event.activity for event in batch(live.read(SESSION, start, 0)).events] == activities


def test_without_a_cursor_reading_begins_at_the_end(live: LiveReplay) -> None:
    live.append(deltas(1, 3))
    found = batch(live.read(SESSION, None, 0))
    assert found.events == ()
    live.append(deltas(4, 4))
    assert ordinals(live.read(SESSION, found.cursor, 0)) == [4]


def test_a_session_that_nobody_has_heard_of_has_nothing_to_replay(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    assert live.read(SESSION, start, 0) == LiveBatch((), start)
    live.append(deltas(1, 1))
    assert ordinals(live.read(SESSION, start, 0)) == [1]


def test_the_tail_stays_where_it_is_while_nothing_comes(live: LiveReplay) -> None:
    assert live.tail(SESSION) == live.tail(SESSION)
    live.append([])
    live.append(deltas(1, 1))
    assert live.tail(SESSION) == live.tail(SESSION)


def test_many_events_are_read_page_by_page(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    live.append(deltas(1, 1500))
    assert len(batch(live.read(SESSION, start, 0)).events) < 1500
    assert follow(live, start, 1500) == list(range(1, 1501))


def test_a_late_joiner_gets_what_the_running_turn_has_said_so_far(live: LiveReplay) -> None:
    """The cursor is the one of the last commit, taken before the turn began."""
    live.append(deltas(1, 5))
    at_commit = live.tail(SESSION)
    live.append(deltas(6, 9))
    assert ordinals(live.read(SESSION, at_commit, 0)) == [6, 7, 8, 9]


def test_sessions_are_isolated_whatever_their_ids_look_like(live: LiveReplay) -> None:
    sessions = [SessionId(name) for name in ("a", "a:b", "a:b:", ":a", "1-1:a", "größe", "a b")]
    starts = {session_id: live.tail(session_id) for session_id in sessions}
    for number, session_id in enumerate(sessions, 1):
        live.append(deltas(number, number, session_id))
    for number, session_id in enumerate(sessions, 1):
        (event,) = batch(live.read(session_id, starts[session_id], 0)).events
        assert event.activity == deltas(number, number, session_id)[0]
        assert live.read(session_id, event.cursor, 0) == LiveBatch((), event.cursor)


# ---------------------------------------------------------------- waiting


def test_a_reader_waits_for_the_first_event(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(live.read, SESSION, start, 30)
        live.append(deltas(1, 1))
        assert ordinals(found.result(10)) == [1]


def test_a_reader_of_another_session_is_not_woken(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(live.read, SESSION, start, 0.3)
        live.append(deltas(1, 1, SessionId("another")))
        assert found.result(10) == LiveBatch((), start)


def test_all_who_wait_for_a_session_hear_of_an_event(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    with ThreadPoolExecutor(20) as pool:
        found = [pool.submit(live.read, SESSION, start, 30) for _ in range(20)]
        live.append(deltas(1, 1))
        assert [ordinals(each.result(10)) for each in found] == [[1]] * 20


def test_a_reader_that_races_a_thousand_appends_sees_each_once_and_in_order(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    seen: list[list[int]] = []

    def write() -> None:
        for number in range(1, 1001):
            live.append(deltas(number, number))

    def read() -> None:
        seen.append(follow(live, start, 1000))

    in_threads([threading.Thread(target=target) for target in (read, read, write, read)])
    assert seen == [list(range(1, 1001))] * 3


def test_events_of_many_sessions_go_together_and_each_to_its_own_stream(live: LiveReplay) -> None:
    sessions = [SessionId(f"session {number}") for number in range(5)]
    starts = {session: live.tail(session) for session in sessions[:3]}
    mixed = [deltas(number, number, session)[0] for number in range(1, 4) for session in sessions]
    live.append(mixed)
    live.append(mixed[:2])
    for session, start in starts.items():
        again = [1] if session in sessions[:2] else []
        assert ordinals(live.read(session, start, 0)) == [1, 2, 3, *again]


def test_concurrent_appends_neither_mix_nor_get_lost(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    in_threads(
        [threading.Thread(target=live.append, args=(deltas(100 * writer, 100 * writer + 49),)) for writer in range(8)]
    )
    seen = follow(live, start, 400)
    runs = [seen[at : at + 50] for at in range(0, 400, 50)]
    assert sorted(runs) == [list(range(100 * writer, 100 * writer + 50)) for writer in range(8)]


# ---------------------------------------------------------------- gaps


def test_a_reader_that_is_too_far_behind_gets_a_gap(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    live.append(deltas(1, 5000))
    assert gap(live.read(SESSION, start, 0)).reason is GapReason.TRIMMED


def test_a_reader_goes_on_behind_a_gap_and_sees_the_next_event_only(live: LiveReplay) -> None:
    start = live.tail(SESSION)
    live.append(deltas(1, 5000))
    missed = gap(live.read(SESSION, start, 10))
    assert live.read(SESSION, missed.cursor, 0) == LiveBatch((), missed.cursor)
    live.append(deltas(5001, 5001))
    assert ordinals(live.read(SESSION, missed.cursor, 0)) == [5001]


def test_a_stream_keeps_its_newest_2048_events_and_hardly_more(live: LiveReplay) -> None:
    live.append(deltas(1, 2000))
    cursor = live.tail(SESSION)
    live.append(deltas(2001, 2000 + 2048))
    assert follow(live, cursor, 2048) == list(range(2001, 2001 + 2048))
    live.append(deltas(4049, 4549))
    assert gap(live.read(SESSION, cursor, 0)).reason is GapReason.TRIMMED


def test_a_cursor_ahead_of_the_stream_is_a_gap(live: LiveReplay) -> None:
    live.append(deltas(1, 1))
    prefix, _, rest = live.tail(SESSION).partition("-1:")
    found = gap(live.read(SESSION, f"{prefix}-2:{rest}", 0))
    assert found == LiveGap(GapReason.UNAVAILABLE, live.tail(SESSION))


def test_the_cursor_of_another_stream_of_this_session_is_a_gap(live: LiveReplay) -> None:
    """A buffer that began anew must not satisfy an old position by accident, however far it has come."""
    live.append(deltas(1, 9))
    form, epoch, position, _ = live.tail(SESSION).split(":")
    for number in (0, 1, 5, 9, 20):
        foreign = f"{form}:{epoch}9:{position.partition('-')[0]}-{number}:{SESSION}"
        assert gap(live.read(SESSION, foreign, 0)).reason is GapReason.UNAVAILABLE


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "12",
        "lashsc1",
        "lashsc1::1-1:customer-7",
        "lashsc1:1:1:customer-7",
        "lashsc1:1:-1-1:customer-7",
        "lashsc1:1:1-99999999999999999999:customer-7",
        "lashsc1:1:1-1",
        "lashsc2:1:1-1:customer-7",
        "lashsc1:1:1-1:customer-7\n",
        "lashsc1:1:1-1:another",
        "lashsc1:1:1-1:customer-7:x",
    ],
)
def test_a_cursor_that_is_none_of_this_session_is_refused_by_name(live: LiveReplay, cursor: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        live.read(SESSION, cursor, 0)
    assert refusal.value.field == "cursor"


# ---------------------------------------------------------------- the end of a stream, in memory


def test_in_memory_a_stream_ends_ten_minutes_after_its_last_use() -> None:
    clock = FakeClock()
    live = open_memory_stores(clock=clock).live
    live.append(deltas(1, 3))
    cursor = live.tail(SESSION)
    clock.advance(599)
    assert live.read(SESSION, cursor, 0) == LiveBatch((), cursor)
    clock.advance(599)
    assert live.read(SESSION, cursor, 0) == LiveBatch((), cursor)
    clock.advance(600)
    live.append(deltas(4, 20))
    assert gap(live.read(SESSION, cursor, 0)) == LiveGap(GapReason.UNAVAILABLE, live.tail(SESSION))


def test_in_memory_the_least_recently_used_stream_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_live, "MAX_SESSIONS", 3)
    live = open_memory_stores().live
    cursors = {name: live.tail(SessionId(name)) for name in ("a", "b", "c")}
    live.read(SessionId("a"), cursors["a"], 0)
    live.tail(SessionId("d"))
    assert isinstance(live.read(SessionId("a"), cursors["a"], 0), LiveBatch)
    assert gap(live.read(SessionId("b"), cursors["b"], 0)).reason is GapReason.UNAVAILABLE


def test_in_memory_waiting_goes_by_the_clock() -> None:
    clock = FakeClock()
    live = open_memory_stores(clock=clock).live
    cursor, before = live.tail(SESSION), clock.monotonic()
    assert live.read(SESSION, cursor, 20) == LiveBatch((), cursor)
    assert clock.monotonic() - before == 20


def test_in_memory_closing_lets_a_reader_go() -> None:
    stores = open_memory_stores()
    start = stores.live.tail(SESSION)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(stores.live.read, SESSION, start, 30)
        stores.close()
        assert found.result(10) == LiveBatch((), start)


# ---------------------------------------------------------------- the end of a stream, in Redis


def test_a_stream_in_redis_ends_some_time_after_its_last_use(redis_url: str, server: redis.Redis) -> None:
    stores = open_redis_stores(redis_url, live_retention_ms=50)
    start = stores.live.tail(SESSION)
    stores.live.append(deltas(1, 3))
    wait_until(lambda: not server.exists(STREAM), 5, "the stream to end")
    stores.live.append(deltas(4, 20))
    assert gap(stores.live.read(SESSION, start, 0)).reason is GapReason.UNAVAILABLE
    stores.close()


def test_reading_keeps_a_stream_in_redis(redis_stores: RedisStores, server: redis.Redis) -> None:
    cursor = redis_stores.live.tail(SESSION)
    for use in (lambda: redis_stores.live.tail(SESSION), lambda: redis_stores.live.read(SESSION, cursor, 0)):
        server.pexpire(STREAM, 10_000)
        use()
        assert server.pttl(STREAM) > 590_000


def test_a_lost_stream_is_a_gap_also_when_the_new_one_has_come_further(
    redis_stores: RedisStores, server: redis.Redis
) -> None:
    live = redis_stores.live
    start = live.tail(SESSION)
    live.append(deltas(1, 5))
    old = batch(live.read(SESSION, start, 0))
    server.flushdb()
    assert gap(live.read(SESSION, old.cursor, 0)).reason is GapReason.UNAVAILABLE
    live.append(deltas(6, 30))
    for cursor in (start, *(event.cursor for event in old.events)):
        assert gap(live.read(SESSION, cursor, 10)).reason is GapReason.UNAVAILABLE


def test_a_stream_restored_to_an_earlier_state_is_a_gap_for_those_who_were_ahead(
    redis_stores: RedisStores, server: redis.Redis
) -> None:
    """Redis came back from a snapshot: the numbers go on from there, and reach the reader's again."""
    live = redis_stores.live
    start = live.tail(SESSION)
    live.append(deltas(1, 5))
    kept = batch(live.read(SESSION, start, 0))
    snapshot = server.dump(STREAM)
    assert snapshot is not None
    live.append(deltas(6, 20))
    lost = batch(live.read(SESSION, kept.cursor, 0))
    server.restore(STREAM, 600_000, snapshot, replace=True)
    assert gap(live.read(SESSION, lost.cursor, 0)).reason is GapReason.UNAVAILABLE
    live.append(deltas(106, 140))
    for event in lost.events:
        assert gap(live.read(SESSION, event.cursor, 0)).reason is GapReason.UNAVAILABLE
    assert ordinals(live.read(SESSION, kept.cursor, 0)) == list(range(106, 141))


def test_events_that_a_newer_release_wrote_are_a_gap_and_no_dead_end(
    redis_stores: RedisStores, server: redis.Redis
) -> None:
    live = redis_stores.live
    live.append(deltas(1, 1))
    cursor = live.tail(SESSION)
    _, epoch, position, _ = cursor.split(":")
    at_ms, _, number = position.partition("-")
    server.xadd(STREAM, {"epoch": epoch, "activity": '{"v":2,"d":{}}'}, id=f"{at_ms}-{int(number) + 1}")
    missed = gap(live.read(SESSION, cursor, 0))
    assert missed.reason is GapReason.UNAVAILABLE
    live.append(deltas(3, 3))
    assert ordinals(live.read(SESSION, missed.cursor, 0)) == [3]


def test_events_that_cannot_be_encoded_are_lost_alone(
    redis_stores: RedisStores, caplog: pytest.LogCaptureFixture
) -> None:
    live = redis_stores.live
    start = live.tail(SESSION)
    secret = TurnActivity(SESSION, None, 0, 0, 1, ActivityType.USAGE, {"text": "secret", "cost": object()})
    live.append([secret, *deltas(2, 2)])
    assert ordinals(live.read(SESSION, start, 0)) == [2]
    assert [record.message for record in caplog.records] == ["A live event is lost: it cannot be encoded"]
    assert "secret" not in str(vars(caplog.records[0]))
