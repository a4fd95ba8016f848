"""Code of an application that tries to end the process, or is cancelled, fails as if it had raised anything else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest
from pydantic import BaseModel, field_validator

from lash_tasks import TurnContext
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import MAX_ATTEMPTS, StopKind, stopped
from lash_tasks.errors import ErrorCode
from lash_tasks.ports import Interrupt, ModelCall
from lash_tasks.runtime.local import LocalDoorbell
from lash_tasks.runtime.session_requests import CommandRequest
from tests.services import wait_until
from tests.turns.models import Model, says
from tests.turns.stage import SESSION, Stage, agent


def exits() -> None:
    sys.exit("no licence")


def is_cancelled() -> None:
    raise asyncio.CancelledError


@pytest.fixture(params=[exits, is_cancelled])
def leaves(request: pytest.FixtureRequest) -> Callable[[], None]:
    function: Callable[[], None] = request.param
    return function


def test_instructions_that_leave_stop_the_turn_and_the_session_goes_on(
    stage: Stage, leaves: Callable[[], None]
) -> None:
    def instructions(turn: TurnContext) -> str:
        leaves()
        return ""

    stage.agents = [agent(instructions=instructions)]
    turn = stage.answer("hello")
    assert turn.outcome == stopped(StopKind.RUNTIME_ERROR)
    assert [issue.code for issue in turn.errors] == [ErrorCode.INSTRUCTIONS_FAILED]
    stage.agents = [agent()]
    stage.assert_usable()


def test_a_provider_that_leaves_stops_the_turn(stage: Stage, leaves: Callable[[], None]) -> None:
    def before(call: ModelCall, interrupt: Interrupt) -> None:
        leaves()

    stage.model = Model(before=before)
    turn = stage.answer("hello")
    assert turn.outcome == stopped(StopKind.PROVIDER_ERROR)
    assert [issue.code for issue in turn.errors] == ["provider_raised"]


def test_a_validator_of_answers_that_leaves_finds_them_wrong(stage: Stage, leaves: Callable[[], None]) -> None:
    class Verdict(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def check(cls, text: str) -> str:
            leaves()
            return text

    stage.agents = [agent(output_type=Verdict)]
    stage.model = Model(lambda request: says('{"text": "well"}'))
    turn = stage.answer("hello")
    assert [issue.code for issue in turn.errors] == [ErrorCode.OUTPUT_INVALID]


def test_a_compactor_that_leaves_is_given_up_after_its_attempts(stage: Stage, leaves: Callable[[], None]) -> None:
    def compact(context: object) -> None:
        leaves()

    stage.agents = [agent(compact=compact)]
    stage.answer("hello")
    command = {"session_id": SESSION, "kind": "compact_session", "idempotency_key": "k"}
    with stage.ingress() as ingress:
        batch = ingress.command(CommandRequest.parse(command)).id
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(RuntimeError, match="compactor"):
            stage.run()
    stage.run_all()
    assert stage.states()[batch] is BatchState.DEAD


def test_a_thread_of_the_embedded_stack_outlives_what_leaves_it(leaves: Callable[[], None]) -> None:
    answered: list[str] = []

    def run(session_id: str) -> None:
        answered.append(session_id)
        leaves()

    doorbell = LocalDoorbell()
    doorbell.answer(run, threads=1)
    try:
        for number in range(3):
            doorbell.ring_session(SessionId(f"s{number}"))
        wait_until(lambda: len(answered) == 3, 5, "every ring to be answered")
    finally:
        doorbell.close()
