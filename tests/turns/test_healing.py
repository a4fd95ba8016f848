"""What cannot be read of a session's past or of its input costs that one thing, and the session goes on."""

from __future__ import annotations

import logging

import pytest

from lash_tasks import tool
from lash_tasks.domain.messages import TextPart
from lash_tasks.domain.queue import BatchState
from lash_tasks.ports import Interrupt, ModelCall
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import Stage, agent

SPOILT = b'{"v":1,"d":{}}'


def shown(model: Model) -> list[list[str]]:
    """The kinds of parts, message by message, that the model was shown last."""
    return [[part.type for part in message.parts] for message in model.requests[-1].messages]


def test_a_message_that_cannot_be_read_is_passed_over_and_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """An opening used to decode the history, and to raise for ever over one message."""
    stage.model = model = Model()
    for text in ("one", "two"):
        stage.send(text)
        stage.run_all()
    spoilt = "UPDATE lash_nodes SET message = :spoilt WHERE node_id = 'm1.1'"
    assert stage.execute(spoilt, spoilt=SPOILT) == 1
    stage.send("three")
    with caplog.at_level(logging.ERROR):
        stage.run_all()
    assert stage.last().text == "You said: three"
    parts = [part for message in model.requests[-1].messages for part in message.parts]
    assert parts == [TextPart(text) for text in ("one", "two", "You said: two", "three")]
    assert "a node of the history cannot be read" in caplog.messages


def test_a_tool_call_whose_result_cannot_be_read_is_passed_over_with_it(stage: Stage) -> None:
    """A provider refuses a call without a result, now and in every later turn."""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    stage.agents = [agent(look)]
    stage.model = model = Model(script({"go": [calls(("look", "")), says("done")], "on": [says("well")]}))
    stage.send("go")
    stage.run_all()
    assert stage.execute("UPDATE lash_nodes SET message = :spoilt WHERE node_id = 'm1.2'", spoilt=SPOILT) == 1
    stage.send("on")
    stage.run_all()
    assert stage.last().text == "well"
    assert shown(model) == [["text"], ["text"], ["text"]]


def test_an_input_that_joins_and_cannot_be_read_takes_nobody_with_it(stage: Stage) -> None:
    def before(call: ModelCall, interrupt: Interrupt) -> None:
        if model.asked.total() == 1:
            stage.inject("and")
            spoilt = "UPDATE lash_batches SET payload = :spoilt WHERE state = 'ready'"
            assert stage.execute(spoilt, spoilt=SPOILT) == 1

    stage.model = model = Model(before=before)
    stage.send("hello")
    stage.run_all()
    assert set(stage.states().values()) == {BatchState.CONSUMED}
    assert stage.last().ok
    assert "could not be read" in str(model.requests[-1].messages[-1].parts)
