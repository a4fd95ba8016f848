"""Many sessions at once in one process, and what code inside a turn may not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from lash_tasks import Agent, Lash, LashError, Settings, tool
from lash_tasks.domain.ids import SessionId

SESSIONS = 20
MESSAGES = 3
PATIENCE = 40.0


@tool
def lookup(text: str) -> str:
    """Look something up."""
    return f"found {text}"


def test_every_session_gets_its_answers_in_the_order_sent(sqlite_url: str) -> None:
    agent = Agent("support", "scripted:echo", tools=[lookup])
    with Lash([agent], embedded=True, settings=Settings(database_url=sqlite_url)) as lash:
        receipts = [
            lash.client.send(f"s{session}", f'call lookup {{"text": "{session}/{number}"}}', agent="support")
            for number in range(MESSAGES)
            for session in range(SESSIONS)
        ]
        for receipt in receipts:
            assert receipt.result(timeout=PATIENCE).ok

        for session in range(SESSIONS):
            turns = lash.client.stores.sessions.turns(SessionId(f"s{session}"))
            texts = [turn.result.text for turn in turns if turn.result is not None]
            assert texts == [f"lookup returned: found {session}/{number}" for number in range(MESSAGES)]
        assert lash.client.stores.queue.waiting() == []


@pytest.mark.raises_code("blocking_wait_in_worker")
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_tool_may_send_but_not_wait_for_the_answer(tmp_path: Path, colour: str) -> None:
    """It would wait for a turn that may need the very thread it waits in, or its own session."""
    refused: list[str] = []

    def send_and_wait() -> str:
        receipt = lash.client.send("other", "hello", agent="support")
        try:
            receipt.result(timeout=PATIENCE)
        except LashError as error:
            refused.append(error.code)
        return receipt.input_id

    @tool(name="delegate")
    def wait_in_thread() -> str:
        """Ask another session."""
        return send_and_wait()

    @tool(name="delegate")
    async def wait_on_loop() -> str:
        """Ask another session."""
        return send_and_wait()

    agent = Agent("support", "scripted:echo", tools=[wait_in_thread if colour == "sync" else wait_on_loop])
    lash = Lash([agent], embedded=True, settings=Settings(database_url=f"sqlite:///{tmp_path / 'lash.db'}"))
    with lash:
        turn = lash.client.send("first", "call delegate", agent="support").result(timeout=PATIENCE)
        (call,) = turn.tool_calls
        assert refused == ["blocking_wait_in_worker"]
        answer = lash.client.receipt("other", input_id=str(call.outcome.value)).result(timeout=PATIENCE)
        assert answer.text == "You said: hello"
