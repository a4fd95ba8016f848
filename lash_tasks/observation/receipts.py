"""What has become of an input: its status as SQL has it, and the wait for the turns that answer it.

A turn that switched frames is not the end of it: its task is an input of its own, whose turn follows.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from lash_tasks.domain.activity import ActivityType
from lash_tasks.domain.frames import follow_up_turn_id, task_batch_id
from lash_tasks.domain.ids import BatchId, SessionId, TurnId
from lash_tasks.domain.queue import BatchRecord, BatchState
from lash_tasks.domain.turns import AgentFrameRun, AgentFrameSwitch, AssembledTurn, TurnRecord
from lash_tasks.errors import InputCancelled, InputDeadLettered, NotFound, ResultTimeout, SessionDeleted
from lash_tasks.observation.listening import Listener, Sources
from lash_tasks.stores.protocols import LiveGap


class ReceiptState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMMITTED = "committed"
    CANCELLED = "cancelled"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class ReceiptStatus:
    """Where an input stands. `turn_id` is there while it runs and after, `reason` when it is dead.

    While tools switch frames it is the turn of the frame that the input has come to.
    """

    state: ReceiptState
    turn_id: TurnId | None = None
    reason: str | None = None

    def __str__(self) -> str:
        match self.state:
            case ReceiptState.COMMITTED:
                return f"committed({self.turn_id})"
            case ReceiptState.DEAD:
                return f"dead({self.reason})"
            case _:
                return self.state.value


def read_status(sources: Sources, session_id: SessionId, input_id: BatchId) -> ReceiptStatus:
    """Where the input stands now. Raises SessionDeleted, and NotFound for one that is unknown or pruned."""
    batch = _batch(sources, session_id, input_id)
    match batch.state:
        case BatchState.READY:
            _require_session(sources, session_id)
            return ReceiptStatus(ReceiptState.QUEUED)
        case BatchState.CLAIMED:
            return ReceiptStatus(ReceiptState.RUNNING, batch.turn_id)
        case BatchState.CONSUMED:
            task = _task_behind(sources.sessions.turn(session_id, batch.turn_id or TurnId("")))
            if task is None:
                return ReceiptStatus(ReceiptState.COMMITTED, batch.turn_id)
            return read_status(sources, session_id, task)
        case BatchState.CANCELLED:
            return ReceiptStatus(ReceiptState.CANCELLED)
        case BatchState.DEAD:
            return ReceiptStatus(ReceiptState.DEAD, batch.turn_id, _reason(sources, session_id, input_id))
        case _:
            assert_never(batch.state)


def wait_for_run(
    sources: Sources, session_id: SessionId, input_id: BatchId, timeout: float | None = None
) -> AgentFrameRun:
    """The turns that answer the input, once the last one is committed and whatever its outcome.

    Raises ResultTimeout after `timeout` seconds (the work goes on), InputCancelled, InputDeadLettered,
    SessionDeleted, NotFound, StoreUnavailable. SQL is read at least once a second, so that a worker that dies
    between commit and announcement holds nobody up.
    """
    clock = sources.clock
    deadline = math.inf if timeout is None else clock.monotonic() + timeout
    listener = Listener(sources, session_id, stop=threading.Event())
    turns: list[AssembledTurn] = []
    waiting: BatchId | None = input_id
    in_vain = False
    while True:
        listener.attend()
        while waiting is not None and (record := _answer(sources, session_id, waiting)) is not None:
            turns += [record.result] if record.result is not None else []
            waiting = _task_behind(record)
        if waiting is None:
            return AgentFrameRun(tuple(turns))
        over = clock.monotonic() >= deadline
        if over or in_vain:
            _require_session(sources, session_id)
        if timeout is not None and over:
            raise ResultTimeout(session_id, timeout)
        in_vain = not _wait_for_commit(listener, sources, deadline)


def _answer(sources: Sources, session_id: SessionId, input_id: BatchId) -> TurnRecord | None:
    batch = _batch(sources, session_id, input_id)
    match batch.state:
        case BatchState.READY | BatchState.CLAIMED:
            return None
        case BatchState.CANCELLED:
            raise InputCancelled(input_id)
        case BatchState.DEAD:
            raise InputDeadLettered(input_id, _reason(sources, session_id, input_id))
        case BatchState.CONSUMED:
            turn_id = batch.turn_id or TurnId("")
            turn = sources.sessions.turn(session_id, turn_id)
            if turn is None or turn.result is None:
                raise _gone(sources, session_id, NotFound("turn", turn_id))
            return turn
        case _:
            assert_never(batch.state)


def _task_behind(turn: TurnRecord | None) -> BatchId | None:
    """The input with which the turn's run goes on in another frame, if it does."""
    if turn is None or turn.result is None or not isinstance(turn.result.outcome, AgentFrameSwitch):
        return None
    return task_batch_id(turn.session_id, follow_up_turn_id(turn.turn_id))


def _wait_for_commit(listener: Listener, sources: Sources, deadline: float) -> bool:
    """Listen until a turn has committed, or until it is time to look at SQL; a busy stream must not put that off.

    Whether there is any news.
    """
    look_at = sources.clock.monotonic() + sources.pace.longest
    while (left := min(deadline, look_at) - sources.clock.monotonic()) > 0:
        heard = listener.listen(left)
        if heard is None:
            return False
        if isinstance(heard, LiveGap) or any(e.activity.type is ActivityType.COMMITTED for e in heard.events):
            return True
    return False


def _batch(sources: Sources, session_id: SessionId, input_id: BatchId) -> BatchRecord:
    batch = sources.queue.find(session_id, batch_id=input_id)
    if batch is None:
        raise _gone(sources, session_id, NotFound("input", input_id))
    return batch


def _require_session(sources: Sources, session_id: SessionId) -> None:
    """Input that came in behind the deletion of its session lies in the queue, and nobody answers it."""
    if _is_deleted(sources, session_id):
        raise SessionDeleted(session_id)


def _gone(sources: Sources, session_id: SessionId, otherwise: NotFound) -> NotFound | SessionDeleted:
    return SessionDeleted(session_id) if _is_deleted(sources, session_id) else otherwise


def _is_deleted(sources: Sources, session_id: SessionId) -> bool:
    head = sources.sessions.head(session_id)
    return head is not None and head.deleted_at_ms is not None


def _reason(sources: Sources, session_id: SessionId, input_id: BatchId) -> str:
    letter = sources.queue.dead_letter(session_id, input_id)
    return "unknown" if letter is None else letter.reason
