"""A receipt says where its input stands, and waits for the answer without ever hanging on a lost announcement."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select

from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.ids import BatchId, SessionId
from lash_tasks.domain.turns import AssembledTurn
from lash_tasks.errors import InputCancelled, InputDeadLettered, NotFound, ResultTimeout, SessionDeleted
from lash_tasks.observation.listening import UNWOKEN
from lash_tasks.observation.receipts import ReceiptState, read_status, wait_for_run
from lash_tasks.stores.sql import tables
from tests.scene import SESSION, Scene, Timeline, on_every_backend


def status(scene: Scene, input_id: BatchId) -> str:
    return str(read_status(scene.sources, SESSION, input_id))


def result(scene: Scene, input_id: BatchId, timeout: float | None = 60) -> AssembledTurn:
    return wait_for_run(scene.sources, SESSION, input_id, timeout).final_turn


class Looks:
    """When a session's inputs were looked at, in seconds from the beginning."""

    def __init__(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: list[float] = []
        began, find = scene.clock.now_ms(), scene.queue.find

        def counted(session_id: SessionId, *, batch_id: BatchId | None = None, source_key: str | None = None) -> object:
            self.at.append((scene.clock.now_ms() - began) / 1000)
            return find(session_id, batch_id=batch_id, source_key=source_key)

        monkeypatch.setattr(scene.queue, "find", counted)


# ---------------------------------------------------------------- status


def test_an_input_is_queued_then_running_then_committed(scene: Scene) -> None:
    input_id = scene.send()
    assert status(scene, input_id) == "queued"
    opened = scene.open()
    running = read_status(scene.sources, SESSION, input_id)
    assert (str(running), running.turn_id) == ("running", opened.intent.turn_id)
    scene.commit(opened)
    assert status(scene, input_id) == f"committed({opened.intent.turn_id})"


@pytest.mark.raises_code("input_cancelled")
def test_a_cancelled_input_says_so(scene: Scene) -> None:
    input_id = scene.send()
    scene.queue.cancel(SESSION, input_id)
    assert status(scene, input_id) == "cancelled"
    with pytest.raises(InputCancelled):
        result(scene, input_id)


@pytest.mark.raises_code("batch_dead_lettered")
def test_a_dead_letter_gives_its_reason(scene: Scene) -> None:
    input_id = scene.send()
    opened = scene.open()
    scene.commit(opened, dead_reason="attempts_exhausted")
    dead = read_status(scene.sources, SESSION, input_id)
    assert (str(dead), dead.state, dead.turn_id) == (
        "dead(attempts_exhausted)",
        ReceiptState.DEAD,
        opened.intent.turn_id,
    )
    with pytest.raises(InputDeadLettered) as error:
        result(scene, input_id)
    assert error.value.reason == "attempts_exhausted"


def test_the_input_of_a_deleted_session_is_gone_with_it(scene: Scene) -> None:
    input_id = scene.send()
    scene.answer()
    scene.sessions.delete(SESSION)
    for read in (status, result):
        with pytest.raises(SessionDeleted):
            read(scene, input_id)


@pytest.mark.shows("S18")
def test_input_that_came_in_behind_a_deletion_is_gone_with_its_session(scene: Scene, clock: Timeline) -> None:
    """It was being sent when the session was deleted: it stayed `queued`, and a wait for it only timed out."""
    input_id = scene.send()
    clock.after(0.5, lambda: delete_before_it_comes_in(scene))
    with pytest.raises(SessionDeleted):
        result(scene, input_id)
    for timeout in (0, 30):
        with pytest.raises(SessionDeleted):
            result(scene, input_id, timeout)
    with pytest.raises(SessionDeleted):
        status(scene, input_id)


def delete_before_it_comes_in(scene: Scene) -> None:
    """Delete the session; its input is committed right afterwards."""
    with scene.database.transaction() as connection:
        late = [dict(row) for row in connection.execute(select(tables.batches)).mappings()]
    scene.sessions.delete(SESSION)
    with scene.database.transaction() as connection:
        connection.execute(insert(tables.batches), late)


def test_an_unknown_input_says_so(scene: Scene) -> None:
    for read in (status, result):
        with pytest.raises(NotFound, match="there is no input 'unknown'"):
            read(scene, BatchId("unknown"))


# ---------------------------------------------------------------- the wait


def test_the_result_is_there_as_soon_as_the_turn_is_announced(scene: Scene, clock: Timeline) -> None:
    input_id = scene.send()
    began = clock.now_ms()
    clock.after(0.123, lambda: scene.answer("done"))
    turn = result(scene, input_id)
    assert (turn.ok, turn.text, turn.turn_index, turn.committed_at_ms) == (True, "done", 1, began + 123)
    assert clock.now_ms() == began + 123


@on_every_backend
@pytest.mark.shows("Q24")
def test_a_wait_ends_with_the_commit_and_not_with_the_claim_with_a_cancel_and_for_an_unknown_input_at_once(
    scene: Scene, clock: Timeline
) -> None:
    input_id = scene.send()
    opened = scene.start()
    with pytest.raises(ResultTimeout):
        result(scene, input_id, timeout=30)
    scene.commit(opened, "done")
    assert result(scene, input_id, timeout=0).text == "done"
    cancelled = scene.send()
    clock.after(0.5, lambda: scene.queue.cancel(SESSION, cancelled))
    with pytest.raises(InputCancelled):
        result(scene, cancelled)
    began = clock.now_ms()
    with pytest.raises(NotFound):
        result(scene, BatchId("unknown"))
    assert clock.now_ms() == began


def test_the_answer_to_a_later_input_is_not_taken_for_ours(scene: Scene, clock: Timeline) -> None:
    scene.send("first")
    second = scene.send("second")
    clock.after(0.1, lambda: scene.answer("one"))
    clock.after(0.2, lambda: scene.answer("two"))
    assert result(scene, second).text == "two"


def test_a_worker_that_dies_between_commit_and_announcement_holds_nobody_up(scene: Scene, clock: Timeline) -> None:
    input_id = scene.send()
    opened = scene.start()
    began = clock.now_ms()
    clock.after(0.1, lambda: scene.commit(opened))
    assert result(scene, input_id).ok
    assert clock.now_ms() - began <= 1000


def test_a_busy_stream_does_not_put_off_the_look_at_sql(scene: Scene, clock: Timeline) -> None:
    """Deltas come every 50 ms; the commit is never announced."""
    input_id = scene.send()
    opened = scene.start()
    began = clock.now_ms()
    for number in range(1, 100):
        clock.after(number * 0.05, lambda: scene.says(opened, "x"))
    clock.after(0.525, lambda: scene.commit(opened))
    assert result(scene, input_id).ok
    assert clock.now_ms() - began <= 1000


def test_deltas_cause_no_look_at_sql(scene: Scene, clock: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    input_id = scene.send()
    opened = scene.start()
    for number in range(1, 50):
        clock.after(number * 0.05, lambda: scene.says(opened, "x"))
    looks = Looks(scene, monkeypatch)
    with pytest.raises(ResultTimeout):
        result(scene, input_id, timeout=2.5)
    assert looks.at == pytest.approx([0, 1, 2, 2.5], abs=0.01)


def test_a_commit_between_the_look_and_the_wait_is_not_missed(
    scene: Scene, clock: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn is committed and announced right after SQL was read, before anybody listens."""
    input_id = scene.send()
    find, began = scene.queue.find, clock.now_ms()

    def find_and_answer(session_id: SessionId, *, batch_id: BatchId | None = None) -> object:
        found = find(session_id, batch_id=batch_id)
        if found is not None and found.state == "ready":
            scene.answer()
        return found

    monkeypatch.setattr(scene.queue, "find", find_and_answer)
    assert result(scene, input_id).ok
    assert clock.now_ms() == began


@pytest.mark.raises_code("result_timeout")
def test_a_wait_that_is_over_leaves_the_work_alone(scene: Scene, clock: Timeline) -> None:
    input_id = scene.send()
    began = clock.now_ms()
    with pytest.raises(ResultTimeout, match=r"no result in session 'customer-7' after 2\.5 s; the work goes on"):
        result(scene, input_id, timeout=2.5)
    assert clock.now_ms() - began == pytest.approx(2500, abs=2)
    scene.answer()
    assert result(scene, input_id, timeout=0).ok


def test_no_timeout_waits_for_as_long_as_it_takes(scene: Scene, clock: Timeline) -> None:
    input_id = scene.send()
    clock.after(600, lambda: scene.answer("late"))
    assert result(scene, input_id, timeout=None).text == "late"


def test_an_input_that_is_cancelled_or_deleted_meanwhile_ends_the_wait(scene: Scene, clock: Timeline) -> None:
    first, second = scene.send(), scene.send()
    clock.after(0.5, lambda: scene.queue.cancel(SESSION, first))
    with pytest.raises(InputCancelled):
        result(scene, first)
    clock.after(0.5, lambda: scene.sessions.delete(SESSION))
    with pytest.raises(SessionDeleted):
        result(scene, second)


# ---------------------------------------------------------------- without a stream


def test_without_the_live_stream_sql_is_polled(scene: Scene, clock: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.live.down = True
    input_id = scene.send()
    looks = Looks(scene, monkeypatch)
    clock.after(4.0, lambda: scene.answer("done"))
    assert result(scene, input_id).text == "done"
    assert looks.at == pytest.approx([0, 0.2, 0.6, 1.4, 2.4, 3.4, 4.4], abs=0.01)


def test_a_stream_that_comes_back_wakes_again(scene: Scene, clock: Timeline) -> None:
    scene.live.down = True
    input_id = scene.send()
    began = clock.now_ms()
    clock.after(3.0, lambda: setattr(scene.live, "down", False))
    clock.after(7.123, lambda: scene.answer("done"))
    assert result(scene, input_id).text == "done"
    assert clock.now_ms() == began + 7123


def test_a_stream_that_breaks_in_the_middle_holds_nobody_up(scene: Scene, clock: Timeline) -> None:
    input_id = scene.send()
    began = clock.now_ms()
    clock.after(0.1, lambda: setattr(scene.live, "down", True))
    clock.after(0.5, lambda: scene.answer("done"))
    assert result(scene, input_id).text == "done"
    assert clock.now_ms() - began <= 1500


def test_in_another_process_than_the_stream_sql_is_polled_quickly_at_first(
    scene: Scene, clock: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.pace = UNWOKEN
    input_id = scene.send()
    looks = Looks(scene, monkeypatch)
    opened = scene.open()
    clock.after(1.5, lambda: scene.commit(opened))
    assert result(scene, input_id).ok
    assert looks.at == pytest.approx([0, 0.02, 0.06, 0.14, 0.30, 0.62, 1.02, 1.42, 1.82], abs=0.01)


def test_a_trimmed_stream_is_a_reason_to_look(scene: Scene, clock: Timeline) -> None:
    """The reader falls behind by more than the stream keeps, the announcement among what it lost."""
    input_id = scene.send()
    opened = scene.open()
    began = clock.now_ms()

    def flood() -> None:
        scene.commit(opened)
        scene.announce(opened)
        for _ in range(3000):
            scene.live_event(opened, ActivityType.USAGE)

    clock.after(0.1, flood)
    assert result(scene, input_id).ok
    assert clock.now_ms() == began + 100
