"""Rows that come together are written together, each turn hears of its own, and nobody waits for another's lock."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import cast

import pytest

from lash_tasks.domain.ids import ReplayKey, SessionId, TurnId
from lash_tasks.domain.journal import EffectState, JournalRow, RecordReply, RecordVerdict
from lash_tasks.errors import StoreUnavailable
from lash_tasks.runtime import journal_writer
from lash_tasks.runtime.journal_writer import MAX_BYTES, MAX_ROWS, JournalWriter
from lash_tasks.stores.protocols import TurnStore
from tests.services import wait_until


def row(name: str, size: int = 1) -> JournalRow:
    return JournalRow(
        session_id=SessionId(name),
        turn_id=TurnId("t"),
        replay_key=ReplayKey(f"key of {name}"),
        ordinal=1,
        fence=1,
        state=EffectState.DONE,
        envelope=b"",
        outcome=b"x" * size,
    )


class Journal:
    """A store that writes when it is let, and remembers what came together."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.waits: list[bool] = []
        self.go = threading.Event()
        self.answer: Callable[[JournalRow], RecordReply] = lambda _: RecordReply(RecordVerdict.RECORDED)

    def record(self, rows: Sequence[JournalRow], *, wait: bool = True) -> list[RecordReply]:
        self.groups.append([row.session_id for row in rows])
        self.waits.append(wait)
        assert self.go.wait(10)
        return [self.answer(row) for row in rows]


class Scene:
    def __init__(self) -> None:
        self.journal = Journal()
        self.writer = JournalWriter(cast(TurnStore, self.journal))
        self.threads = ThreadPoolExecutor(MAX_ROWS + 8)

    def write(self, *rows: JournalRow) -> list[Future[RecordReply]]:
        """Write the first, and the others while that is under way."""
        futures = [self.threads.submit(self.writer.record, rows[0])]
        wait_until(lambda: self.journal.groups, 5, "the first write")
        for number, one in enumerate(rows[1:], start=1):
            futures.append(self.threads.submit(self.writer.record, one))
            wait_until(lambda number=number: len(self.writer._queue) == number, 5, "the row to queue up")  # type: ignore[misc] # mypy cannot infer the default
        self.journal.go.set()
        return futures


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_lone_row_is_written_at_once_and_alone(scene: Scene) -> None:
    scene.journal.go.set()
    assert scene.writer.record(row("a")) == RecordReply(RecordVerdict.RECORDED)
    assert scene.writer.record(row("b")) == RecordReply(RecordVerdict.RECORDED)
    assert scene.journal.groups == [["a"], ["b"]]


def test_rows_that_come_during_a_write_are_written_together_after_it(scene: Scene) -> None:
    futures = scene.write(*map(row, "abcd"))
    assert [future.result(10) for future in futures] == [RecordReply(RecordVerdict.RECORDED)] * 4
    assert scene.journal.groups == [["a"], ["b", "c", "d"]]


def test_each_turn_gets_its_own_verdict(scene: Scene) -> None:
    scene.journal.answer = lambda row: RecordReply(
        RecordVerdict.FENCED if row.session_id == "c" else RecordVerdict.RECORDED, cancel=row.session_id == "b"
    )
    _, second, third = scene.write(*map(row, "abc"))
    assert second.result(10) == RecordReply(RecordVerdict.RECORDED, cancel=True)
    assert third.result(10) == RecordReply(RecordVerdict.FENCED)


def test_a_group_has_a_limit_of_rows(scene: Scene) -> None:
    futures = scene.write(*(row(str(number)) for number in range(MAX_ROWS + 2)))
    assert all(future.result(10) for future in futures)
    assert [len(group) for group in scene.journal.groups] == [1, MAX_ROWS, 1]


def test_a_group_has_a_limit_of_bytes_and_a_row_beyond_it_goes_alone(scene: Scene) -> None:
    half = MAX_BYTES // 2
    futures = scene.write(row("a"), row("b", half), row("c", half), row("d", half), row("e", 2 * MAX_BYTES))
    assert all(future.result(10) for future in futures)
    assert scene.journal.groups == [["a"], ["b", "c"], ["d"], ["e"]]


def test_a_row_whose_session_is_locked_is_written_again_by_itself(scene: Scene) -> None:
    def locked_in_a_group(row: JournalRow) -> RecordReply:
        alone = len(scene.journal.groups[-1]) == 1
        return RecordReply(RecordVerdict.RECORDED if alone or row.session_id == "b" else RecordVerdict.LOCKED)

    scene.journal.answer = locked_in_a_group
    futures = scene.write(*map(row, "abc"))
    assert [future.result(10).verdict for future in futures] == [RecordVerdict.RECORDED] * 3
    assert scene.journal.groups == [["a"], ["b", "c"], ["c"]]
    assert scene.journal.waits == [False, False, True], "nobody stands behind it any more"


def test_what_fails_for_the_group_fails_for_each_and_the_next_group_is_written(scene: Scene) -> None:
    def lost(row: JournalRow) -> RecordReply:
        if row.session_id in "bc":
            raise StoreUnavailable("gone")
        return RecordReply(RecordVerdict.RECORDED)

    scene.journal.answer = lost
    first, *others = scene.write(*map(row, "abc"))
    assert first.result(10)
    for other in others:
        with pytest.raises(StoreUnavailable, match="gone"):
            other.result(10)
    assert scene.writer.record(row("d"))


def test_a_thread_that_is_stopped_in_a_write_holds_nobody_up(scene: Scene) -> None:
    def stopped(row: JournalRow) -> RecordReply:
        if row.session_id == "a":
            raise KeyboardInterrupt
        return RecordReply(RecordVerdict.RECORDED)

    scene.journal.answer = stopped
    first, second = scene.write(*map(row, "ab"))
    with pytest.raises(KeyboardInterrupt):
        first.result(10)
    assert second.result(10)
    assert scene.journal.groups == [["a"], ["b"]]


class StoppedAt:
    """Stops the thread that it is set as trace function of at the `count`-th line in the writer's module.

    The end of a `with` block is called a line of its own, but no thread is stopped between the block and its end.
    """

    def __init__(self, count: int) -> None:
        self.left = count
        self._seen: set[tuple[FrameType, int]] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> StoppedAt:
        if event == "line" and frame.f_code.co_filename == journal_writer.__file__ and not self._leaves_with(frame):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self

    def _leaves_with(self, frame: FrameType) -> bool:
        place = (frame, frame.f_lineno)
        before = place in self._seen
        self._seen.add(place)
        return before and linecache.getline(journal_writer.__file__, frame.f_lineno).lstrip().startswith("with ")


@pytest.mark.parametrize("stopped", ["the one who writes", "one who waits"])
def test_a_thread_may_be_stopped_anywhere(stopped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was told to end while its main thread wrote. The exception came between two lines of the writer,
    after it had taken the others' rows or before it called the next, and every turn of the worker waited for ever."""
    monkeypatch.setattr(journal_writer, "LOOK_AGAIN_SECONDS", 0.01)

    def record(scene: Scene, stop: StoppedAt) -> None:
        sys.settrace(stop)
        with suppress(KeyboardInterrupt):
            scene.writer.record(row("stopped"))
        sys.settrace(None)

    count, stop = 0, StoppedAt(0)
    while stop.left <= 0:  # for each line that it comes to
        count, scene = count + 1, Scene()
        stop = StoppedAt(count)
        first = [] if stopped == "the one who writes" else [scene.threads.submit(scene.writer.record, row("first"))]
        if first:
            wait_until(lambda scene=scene: scene.journal.groups, 5, "the first write")  # type: ignore[misc] # mypy cannot infer the default
        thread = scene.threads.submit(record, scene, stop)
        wait_until(
            lambda scene=scene, thread=thread: scene.journal.groups or scene.writer._queue or thread.done(),  # type: ignore[misc] # mypy cannot infer the default
            5,
            "the thread that is stopped",
        )
        others = [scene.threads.submit(scene.writer.record, row(name)) for name in "bc"]
        scene.journal.go.set()
        for other in (*first, *others):
            with suppress(StoreUnavailable):  # then the turn tries again
                assert other.result(5) == RecordReply(RecordVerdict.RECORDED)
        thread.result(5)
        assert scene.writer.record(row("later")) == RecordReply(RecordVerdict.RECORDED)
        scene.threads.shutdown()
    assert count > 20
