"""A session that has grown long goes on in a frame that its agent's compactors fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lash_tasks.domain.codec import JsonValue
from lash_tasks.domain.frames import FrameRecord, FrameStatus, Initial, initial_frame_id
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.messages import text_of
from lash_tasks.domain.queue import BatchKind, BatchState
from lash_tasks.domain.turns import MAX_ATTEMPTS, StopKind, stopped
from lash_tasks.domain.usage import TokenUsage
from lash_tasks.errors import ErrorCode, StoreUnavailable
from lash_tasks.machine.requests import ModelRequest, ModelResponse, TerminalReason
from lash_tasks.ports import ProviderFailure
from lash_tasks.providers.scripted import RULES, last_user_text
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.ingress import CommandRequest
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.sql import tables
from lash_tasks.tools.compaction import CompactionContext
from tests.turns.models import Model
from tests.turns.stage import AGENT, SESSION, DieAt, Stage, agent, emptied


class Summary:
    """A compactor that says how many messages there were, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[CompactionContext] = []

    def __call__(self, context: CompactionContext) -> Sequence[Initial]:
        self.asked.append(context)
        return [{"role": "system", "text": f"so far: {len(context.messages)} messages"}, *context.last(2)]


@pytest.fixture
def summary() -> Summary:
    return Summary()


@pytest.fixture
def stage(settings: Settings, summary: Summary) -> Iterator[Stage]:
    with Stage(settings=emptied(settings), agents=[agent(compact=summary)], model=counting()) as made:
        yield made


def counting() -> Model:
    """Echoes, with a prompt of ten tokens a message."""

    def rule(request: ModelRequest) -> ModelResponse:
        return replace(RULES["echo"](request), usage=TokenUsage(10 * len(request.messages), 1))

    return Model(rule)


def compact(stage: Stage, key: str = "k1", **arguments: Any) -> None:
    values = {"session_id": SESSION, "kind": "compact_session", "arguments": arguments, "idempotency_key": key}
    with stage.ingress() as ingress:
        ingress.command(CommandRequest.parse({**values, "agent": AGENT}))


def frames(stage: Stage) -> list[FrameRecord]:
    with stage.reading() as stores:
        return stores.frames.frames(SESSION)


def texts(stage: Stage) -> list[str]:
    """What the session shows."""
    return [text_of(message) for message in stage.messages()]


def test_the_next_turn_sees_what_the_compactor_made_of_the_session(stage: Stage, summary: Summary) -> None:
    for text in ("one", "two"):
        stage.answer(text)
    compact(stage, reason="too long")
    stage.run_all()

    initial, compacted = frames(stage)
    assert (initial.frame_id, initial.status) == (initial_frame_id(SESSION), FrameStatus.SUPERSEDED)
    assert compacted.frame_id.startswith(f"{SESSION}:frame:compaction:")
    assert (compacted.status, compacted.reason) == (FrameStatus.ACTIVE, "compaction")
    assert texts(stage) == ["so far: 4 messages", "two", "You said: two"]
    turn = stage.last()
    assert turn.output == {
        "command": "compact_session",
        "opened": True,
        "frame_id": compacted.frame_id,
        "reason": "too long",
    }
    [context] = summary.asked
    assert (context.session_id, context.agent, context.frame_id) == (SESSION, AGENT, initial.frame_id)
    stage.assert_usable()


def test_a_worker_that_keeps_the_session_warm_goes_on_in_the_new_frame(stage: Stage) -> None:
    stage.send("one")
    compact(stage)
    stage.send("two")
    with stage.worker() as parts:
        while parts.running.sessions.run(SESSION) is not RunVerdict.NOTHING:
            pass
    assert isinstance(stage.model, Model)
    said = [part.text for message in stage.model.requests[-1].messages for part in message.parts if part.type == "text"]
    assert said == ["Runtime note:\nso far: 2 messages", "one", "You said: one", "two"]


def test_where_no_compactor_has_anything_to_say_nothing_changes(stage: Stage) -> None:
    stage.agents = [agent(compact=[lambda context: None, lambda context: []])]
    stage.answer("one")
    compact(stage)
    stage.run_all()

    assert stage.last().output == {"command": "compact_session", "opened": False}
    assert [frame.frame_id for frame in frames(stage)] == [initial_frame_id(SESSION)]
    assert texts(stage) == ["one", "You said: one"]


def test_a_session_is_compacted_again_and_again(stage: Stage) -> None:
    for number in range(3):
        stage.answer(f"m{number}")
        compact(stage, f"k{number}")
        stage.run_all()

    assert len(frames(stage)) == 4
    assert [frame.status for frame in frames(stage)].count(FrameStatus.ACTIVE) == 1
    assert texts(stage) == ["so far: 5 messages", "m2", "You said: m2"]


@pytest.mark.parametrize("point", [CrashPoint.AFTER_RECORD, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT])
def test_what_a_compactor_said_is_recorded_and_opens_one_frame(
    stage: Stage, summary: Summary, point: CrashPoint
) -> None:
    stage.answer("one")
    compact(stage)
    assert stage.run(DieAt(point)) is None
    stage.run_all()

    assert len(summary.asked) == 1
    assert len(frames(stage)) == 2
    assert texts(stage) == ["so far: 2 messages", "one", "You said: one"]


def test_a_compactor_that_raises_is_asked_again_and_in_the_end_buried(stage: Stage) -> None:
    def broken(context: CompactionContext) -> list[str]:
        raise RuntimeError("no summary today")

    stage.answer("one")
    stage.agents = [agent(compact=broken)]
    compact(stage)
    stage.send("two")
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(RuntimeError):
            stage.run()
    stage.run_all()

    [command] = [row for row in stage.rows(tables.batches) if row["kind"] == BatchKind.COMMAND]
    assert command["state"] == BatchState.DEAD
    assert ErrorCode.ATTEMPTS_EXHAUSTED in [issue.code for turn in stage.results() for issue in turn.errors]
    assert texts(stage) == ["one", "You said: one", "two", "You said: two"]


# ---------------------------------------------------------------- by itself


@pytest.fixture
def automatic(stage: Stage, summary: Summary) -> Stage:
    """Compacts behind a turn whose prompt had more than three messages."""
    stage.agents = [agent(compact=summary, compact_above_tokens=30)]
    return stage


def commands(stage: Stage) -> list[Any]:
    return [row for row in stage.rows(tables.batches) if row["kind"] == BatchKind.COMMAND]


def test_a_turn_with_a_large_prompt_is_followed_by_a_compaction(automatic: Stage) -> None:
    for text in ("one", "two"):
        automatic.answer(text)
    assert commands(automatic) == []

    automatic.answer("three")
    [command] = commands(automatic)
    assert command["source_key"].startswith("command:compact_session:after:queue:")
    assert command["state"] == BatchState.CONSUMED
    assert texts(automatic) == ["so far: 6 messages", "three", "You said: three"]


@pytest.mark.parametrize("told", ["by a failure", "in the answer"])
def test_a_prompt_that_was_too_long_for_the_model_is_followed_by_a_compaction(
    automatic: Stage, summary: Summary, told: str
) -> None:
    """Such a call has used nothing, so the call before it was looked at: a session above the window stayed there."""
    overflow = TerminalReason.CONTEXT_OVERFLOW

    def rule(request: ModelRequest) -> ModelResponse:
        if last_user_text(request) != "a long text":
            return replace(RULES["echo"](request), usage=TokenUsage(10, 1))
        if told == "in the answer":
            return ModelResponse((), terminal_reason=overflow)
        raise ProviderFailure("too long", code="context_length_exceeded", terminal_reason=overflow.value)

    automatic.model = Model(rule)
    automatic.answer("one")
    automatic.answer("a long text")
    assert automatic.results()[1].outcome == stopped(StopKind.PROVIDER_ERROR)
    assert len(commands(automatic)) == len(summary.asked) == 1
    assert automatic.answer("two").ok


def test_it_is_done_in_the_same_visit(automatic: Stage) -> None:
    for text in ("one", "two", "three"):
        automatic.send(text)
    passed = DieAt()
    assert automatic.run(passed) is RunVerdict.COMMITTED
    assert passed.passed[CrashPoint.AFTER_LEASE] == 1
    assert len(frames(automatic)) == 2


def test_one_that_waits_is_enough(automatic: Stage) -> None:
    """Input that was there before is answered first, so several turns may find the prompt too large."""
    for number in range(6):
        automatic.send(f"m{number}")
    automatic.run_all()

    assert len(commands(automatic)) == 1
    assert len(frames(automatic)) == 2
    assert texts(automatic)[0] == "so far: 12 messages"


def test_a_queue_that_cannot_be_reached_is_no_fault_of_the_turn(automatic: Stage) -> None:
    class Down:
        def waiting(self, session_id: SessionId) -> object:
            raise StoreUnavailable("the database cannot be reached")

    for text in ("one", "two"):
        automatic.answer(text)
    automatic.send("three")
    down: JsonValue = Down()
    assert automatic.run(wrap=lambda stores: replace(stores, queue=down)) is RunVerdict.COMMITTED
    assert automatic.last().text == "You said: three"
    automatic.answer("four")
    assert len(frames(automatic)) == 2
