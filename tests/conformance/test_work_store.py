"""`WorkStore`: what could run, told as `open` would decide it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from lash_tasks.domain.ids import SessionId, WorkerId
from lash_tasks.domain.queue import CancelVerdict
from lash_tasks.stores.protocols import NotOpened, OpenedTurn, OpenRequest, Pinned, Runnable
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.work import SqlWorkStore
from tests.conformance.arrange import ALICE, BOB, MACHINE_VERSION, SESSION, WORKER_TTL_MS, Scene
from tests.conformance.inputs import OTHER_SESSION, draft, serve

AGENTS = ["support", "sales"]
REFS = dict.fromkeys(AGENTS, "ref-1")
SERVED, FOREIGN = "ref-served", "ref-foreign"
CAROL = WorkerId("carol")
DAY_MS = 86_400_000


@pytest.fixture
def work(scene: Scene) -> SqlWorkStore:
    serve(scene.database, *AGENTS)
    return SqlWorkStore(scene.database, worker_ttl_ms=WORKER_TTL_MS)


@pytest.fixture
def queue(scene: Scene, work: SqlWorkStore) -> SqlInputQueue:
    return SqlInputQueue(scene.database)


# ---------------------------------------------------------------- runnable


def request(worker: WorkerId) -> OpenRequest:
    return OpenRequest(
        session_id=SESSION,
        worker=worker,
        agents=REFS,
        machine_version=MACHINE_VERSION,
        refs=frozenset({SERVED}),
    )


def nothing_at_all(scene: Scene) -> None:
    scene.send(session_id=OTHER_SESSION)


def ready_input(scene: Scene) -> None:
    scene.send()


def input_available_only_later(scene: Scene) -> None:
    scene.send(available_at_ms=scene.clock.now_ms() + 1)


def input_available_just_now(scene: Scene) -> None:
    scene.send(available_at_ms=scene.clock.now_ms())


def input_of_an_unknown_agent_ahead(scene: Scene) -> None:
    scene.send(agent="nobody")
    scene.send()


def delayed_input_of_an_unknown_agent_ahead(scene: Scene) -> None:
    scene.send(agent="nobody", available_at_ms=scene.clock.now_ms() + 60_000)
    scene.send()


def cancelled_input(scene: Scene) -> None:
    cancellation = SqlInputQueue(scene.database).cancel(SESSION, scene.send())
    assert cancellation is not None
    assert cancellation.verdict is CancelVerdict.CANCELLED


def input_in_a_deleted_session(scene: Scene) -> None:
    scene.send()
    scene.bury()


def turn_of_a_live_worker(scene: Scene) -> None:
    scene.send()
    scene.send()
    scene.beat(ALICE)
    scene.open(ALICE)


def turn_of_a_worker_that_beat_a_moment_ago(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE, ago_ms=WORKER_TTL_MS - 1)
    scene.open(ALICE)


def turn_of_a_worker_that_beat_too_long_ago(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE, ago_ms=WORKER_TTL_MS)
    scene.open(ALICE)


def turn_of_a_worker_that_never_beat(scene: Scene) -> None:
    scene.send()
    scene.open(ALICE)


def turn_given_up(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE)
    turn = scene.open(ALICE)
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)


def turn_given_up_by_a_crash(scene: Scene) -> None:
    scene.send()
    scene.beat(ALICE)
    turn = scene.open(ALICE)
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=True)


def turn_of_an_unknown_agent_given_up(scene: Scene) -> None:
    scene.send(agent="nobody")
    turn = scene.open(ALICE, agents={"nobody": "ref-2"})
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)
    scene.send()


def given_up(scene: Scene, **opening: Any) -> OpenedTurn:
    scene.send()
    turn = scene.open(ALICE, **opening)
    scene.store.give_up(SESSION, turn.intent.turn_id, turn.fence, crashed=False)
    return turn


def turn_of_another_version_of_the_agent(scene: Scene) -> None:
    given_up(scene, agents={"support": FOREIGN})


def turn_of_another_version_that_we_can_run_too(scene: Scene) -> None:
    given_up(scene, agents={"support": SERVED})


def turn_of_another_machine_version(scene: Scene) -> None:
    given_up(scene, machine_version=MACHINE_VERSION - 1)


def turn_of_another_version_that_is_to_be_cancelled(scene: Scene) -> None:
    turn = given_up(scene, agents={"support": FOREIGN}, machine_version=MACHINE_VERSION + 1)
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "no code is left")


def turn_of_an_unknown_agent_that_is_to_be_cancelled(scene: Scene) -> None:
    scene.send(agent="nobody")
    turn = scene.open(ALICE, agents={"nobody": "ref-2"})
    scene.store.request_cancel(SESSION, turn.intent.turn_id, "it is gone")


def committed_turn(scene: Scene) -> None:
    scene.send()
    scene.committed(scene.open(ALICE))


def committed_turn_with_more_input(scene: Scene) -> None:
    committed_turn(scene)
    scene.send()


SITUATIONS: tuple[Callable[[Scene], None], ...] = (
    nothing_at_all,
    ready_input,
    input_available_only_later,
    input_available_just_now,
    input_of_an_unknown_agent_ahead,
    delayed_input_of_an_unknown_agent_ahead,
    cancelled_input,
    input_in_a_deleted_session,
    turn_of_a_live_worker,
    turn_of_a_worker_that_beat_a_moment_ago,
    turn_of_a_worker_that_beat_too_long_ago,
    turn_of_a_worker_that_never_beat,
    turn_given_up,
    turn_given_up_by_a_crash,
    turn_of_an_unknown_agent_given_up,
    turn_of_another_version_of_the_agent,
    turn_of_another_version_that_we_can_run_too,
    turn_of_another_machine_version,
    turn_of_another_version_that_is_to_be_cancelled,
    turn_of_an_unknown_agent_that_is_to_be_cancelled,
    committed_turn,
    committed_turn_with_more_input,
)


@pytest.mark.parametrize("worker", [ALICE, BOB])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_runnable_is_what_an_opening_finds_and_writes_nothing(
    scene: Scene, work: SqlWorkStore, situation: Callable[[Scene], None], worker: str
) -> None:
    situation(scene)
    before = scene.everything()
    told = work.runnable(request(WorkerId(worker)))
    assert scene.everything() == before

    found = scene.try_open(WorkerId(worker), agents=REFS, refs=[SERVED])

    if isinstance(found, NotOpened):
        assert told is None
    else:
        assert isinstance(found, OpenedTurn)
        assert told == Runnable(SESSION, found.intent.turn_id if found.resumed else None)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_listings_show_a_session_exactly_when_it_is_runnable_by_anybody(
    scene: Scene, work: SqlWorkStore, situation: Callable[[Scene], None]
) -> None:
    situation(scene)
    told = work.runnable(request(CAROL))
    abandoned = work.abandoned(AGENTS, machine_version=MACHINE_VERSION, besides=[FOREIGN])
    listed = [*abandoned, *work.ready(AGENTS)]
    assert [one for one in listed if one.session_id == SESSION] == ([] if told is None else [told])


def test_a_worker_without_agents_finds_nothing(scene: Scene, work: SqlWorkStore) -> None:
    turn_given_up(scene)
    scene.send(session_id=OTHER_SESSION)
    assert work.runnable(replace(request(CAROL), agents={})) is None
    assert work.runnable(replace(request(CAROL), agents={}, session_id=OTHER_SESSION)) is None
    assert (work.abandoned([]), work.ready([]), work.due([], DAY_MS)) == ([], [], [])


# ---------------------------------------------------------------- abandoned


def test_abandoned_turns_say_what_they_are_pinned_to_unless_they_are_to_be_cancelled(
    scene: Scene, work: SqlWorkStore
) -> None:
    turn = given_up(scene, agents={"support": FOREIGN}, machine_version=MACHINE_VERSION + 1)
    [listed] = work.abandoned(None)
    assert listed.pinned == work.pinned(SESSION) == Pinned("support", FOREIGN, MACHINE_VERSION + 1)

    scene.store.request_cancel(SESSION, turn.intent.turn_id, "stop")
    [listed] = work.abandoned(["sales"], besides=[FOREIGN])
    assert listed == Runnable(SESSION, turn.intent.turn_id)
    assert listed.pinned is None


def test_a_session_without_an_unfinished_turn_is_pinned_to_nothing(scene: Scene, work: SqlWorkStore) -> None:
    committed_turn_with_more_input(scene)
    assert work.pinned(SESSION) is None
    assert work.pinned(OTHER_SESSION) is None


def test_abandoned_turns_are_listed_in_the_order_of_their_admission(scene: Scene, work: SqlWorkStore) -> None:
    scene.beat(ALICE)
    expected = []
    for number, worker in enumerate([BOB, ALICE, BOB, ALICE]):
        session_id = SessionId(f"session-{9 - number}")
        scene.send(session_id=session_id)
        scene.clock.advance(0.001)
        turn = scene.open(worker, session_id=session_id)
        if worker == BOB:
            expected.append(Runnable(session_id, turn.intent.turn_id))
    assert work.abandoned(AGENTS) == expected
    assert work.abandoned(AGENTS, limit=1) == expected[:1]
    assert work.abandoned(["sales"]) == []


# ---------------------------------------------------------------- ready


def test_ready_sessions_are_listed_once_longest_waiting_first(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    names = [SessionId(name) for name in ("c", "a", "b")]
    for name in names:
        queue.enqueue(draft(name))
        scene.clock.advance(0.001)
    for name in names:
        queue.enqueue(draft(name))
    assert work.ready(AGENTS) == [Runnable(name) for name in names]
    assert work.ready(AGENTS, limit=2) == [Runnable(name) for name in names[:2]]
    assert work.ready(["sales"]) == []


def test_ready_asks_how_long_the_input_has_waited(scene: Scene, work: SqlWorkStore, queue: SqlInputQueue) -> None:
    queue.enqueue(draft())
    scene.clock.advance(0.999)
    queue.enqueue(draft(OTHER_SESSION))
    assert work.ready(AGENTS, waiting_ms=1000) == []
    scene.clock.advance(0.001)
    assert work.ready(AGENTS, waiting_ms=1000) == [Runnable(SESSION)]


def test_a_delayed_input_waits_from_when_it_became_available(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    queue.enqueue(draft(available_at_ms=scene.clock.now_ms() + 5000))
    scene.clock.advance(5.5)
    assert work.ready(AGENTS, waiting_ms=1000) == []
    assert work.ready(AGENTS, waiting_ms=500) == [Runnable(SESSION)]


# ---------------------------------------------------------------- due


def test_due_are_sessions_whose_delayed_input_became_available_lately(
    scene: Scene, work: SqlWorkStore, queue: SqlInputQueue
) -> None:
    now = scene.clock.now_ms()
    queue.enqueue(draft(OTHER_SESSION))
    queue.enqueue(draft(available_at_ms=now + 5000))
    queue.enqueue(draft(available_at_ms=now + 5001))
    assert work.due(AGENTS, since_ms=2000) == []

    scene.clock.advance(5.001)
    assert work.due(AGENTS, since_ms=2000) == [Runnable(SESSION)]
    assert work.due(["sales"], since_ms=2000) == []

    scene.clock.advance(2)
    assert work.due(AGENTS, since_ms=2000) == []
    assert Runnable(SESSION) in work.ready(AGENTS)


def test_due_leaves_out_what_could_not_run(scene: Scene, work: SqlWorkStore, queue: SqlInputQueue) -> None:
    now = scene.clock.now_ms()
    names = [SessionId(name) for name in ("running", "deleted", "behind", "cancelled", "free-1", "free-2")]
    running, deleted, behind, cancelled, *free = names
    queue.enqueue(draft(running))
    queue.enqueue(draft(behind))
    with scene.database.transaction() as connection:
        connection.execute(update(tables.batches).where(tables.batches.c.session_id == behind).values(agent="nobody"))
    scene.open(session_id=running)
    sent = {name: draft(name, available_at_ms=now + 1000) for name in names}
    for one in sent.values():
        queue.enqueue(one)
    scene.bury(deleted)
    queue.cancel(cancelled, sent[cancelled].id)
    scene.clock.advance(1)
    assert {one.session_id for one in work.due(AGENTS, since_ms=1000)} == set(free)
    assert len(work.due(AGENTS, since_ms=1000, limit=1)) == 1
