"""What never becomes a turn, what ends one before it begins, and that a turn writes nothing of itself on its way."""

from __future__ import annotations

from typing import Any

import pytest

from lash_tasks import tool
from lash_tasks.domain.codec import encode
from lash_tasks.domain.ids import blob_ref
from lash_tasks.domain.inputs import QueuedInput
from lash_tasks.domain.messages import ImagePart, TextPart, text_of
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import IssueKind, StopKind, stopped
from lash_tasks.embedded import EmbeddedStack
from lash_tasks.errors import ConfigurationError, ErrorCode, InvalidInput, LashError
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.runtime.crash_points import CrashPoint
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.settings import Settings
from lash_tasks.stores.sql import tables
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import AGENT, DieAt, Stage, agent

GONE = ImagePart(blob_ref(b"gone"), "image/png", "photo")


# ---------------------------------------------------------------- at the door


@pytest.mark.shows("P2")
@pytest.mark.raises_code("invalid_input")
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"session_id": " "}, "session_id"),
        ({"agent": ""}, "agent"),
        ({"idempotency_key": " "}, "idempotency_key"),
        ({"text": None, "input": {"items": [{"type": "image_ref", "id": ""}]}}, "input.items[0].id"),
        ({"text": None, "input": {"items": [{"type": "image_ref", "id": "photo"}]}}, "input.items[0].id"),
    ],
)
def test_a_blank_id_and_a_reference_to_no_image_are_refused_and_nothing_is_stored(
    stage: Stage, fields: dict[str, Any], field: str
) -> None:
    stage.model = model = Model()
    with pytest.raises(InvalidInput) as refused:
        stage.send(**{"text": "Hello", **fields})
    assert (refused.value.code, refused.value.field) == (ErrorCode.INVALID_INPUT, field)
    assert set(stage.row_counts().values()) == {0}
    assert stage.run() is RunVerdict.NOTHING
    assert model.asked.total() == 0


@pytest.mark.shows("P2")
@pytest.mark.raises_code("session_execution_busy")
def test_a_busy_session_refuses_and_stores_nothing(stage: Stage) -> None:
    stage.model = model = Model()
    stage.send("Hello")
    before = stage.row_counts()
    with pytest.raises(LashError) as refused:
        stage.send("me too", when="reject")
    assert refused.value.code == ErrorCode.SESSION_EXECUTION_BUSY
    assert stage.row_counts() == before
    assert model.asked.total() == 0


@pytest.mark.shows("P2")
@pytest.mark.raises_code("configuration")
@pytest.mark.parametrize("url", ["sqlite:///:memory:", "sqlite://"])
def test_a_worker_over_a_database_that_forgets_does_not_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="in a file"):
        EmbeddedStack(Settings(database_url=url), agents={}, providers={}, deps=None)


# ---------------------------------------------------------------- before the first effect


@pytest.mark.shows("P6")
@pytest.mark.raises_code("invalid_turn_input")
@pytest.mark.parametrize("point", [None, CrashPoint.AFTER_OPEN, CrashPoint.BEFORE_COMMIT])
def test_an_image_that_nobody_has_ends_the_turn_before_it_begins(stage: Stage, point: CrashPoint | None) -> None:
    """The door has refused such a reference; this blob went missing behind it."""
    stage.model = model = Model()
    stage.answer("Hello")
    stage.inject("see", payload=encode(QueuedInput, QueuedInput(AGENT, (TextPart("see"), GONE))))
    stage.run_all(DieAt(point))
    turn = stage.last()
    assert turn.outcome == stopped(StopKind.INVALID_INPUT)
    assert [(issue.kind, issue.code) for issue in turn.errors] == [
        (IssueKind.INPUT_VALIDATION, ErrorCode.INVALID_TURN_INPUT)
    ]
    assert [text_of(message) for message in stage.messages()] == ["Hello", "You said: Hello"]
    assert model.asked.total() == 1
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    stage.assert_usable()


# ---------------------------------------------------------------- on the way


def progress(stage: Stage) -> tuple[int, int, int]:
    """What a reader of the session sees of a turn that is not committed."""
    (session,) = stage.rows(tables.sessions) or [{"head_revision": 0, "turn_index": 0}]
    return session["head_revision"], session["turn_index"], len(stage.rows(tables.nodes))


@pytest.mark.shows("P17", "P18")
def test_until_its_commit_a_turn_shows_nothing_and_then_everything(stage: Stage) -> None:
    """There are no progress commits, so none can fail, and none can show a call without its result."""
    seen: list[tuple[int, int, int]] = []

    @tool
    def look() -> str:
        """Look."""
        seen.append(progress(stage))
        return "seen"

    def before(call: ModelCall, interrupt: Interrupt) -> None:
        seen.append(progress(stage))

    stage.agents = [agent(look)]
    stage.model = Model(script({"go": [calls(("look", "")), calls(("look", "")), says("looked")]}), before)
    stage.answer("go")
    assert seen == [(0, 0, 0)] * 5
    assert progress(stage) == (1, 1, 6)
