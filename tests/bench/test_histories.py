"""The past that is written for a session has the form of one that was lived."""

from __future__ import annotations

import psycopg

from lash_tasks.bench.history import TEMPLATE, give_history
from lash_tasks.domain.ids import SessionId
from lash_tasks.settings import Settings
from lash_tasks.stores.bundle import Stores
from lash_tasks.tools.definition import tool
from tests.turns.models import Model, calls, says, script
from tests.turns.stage import Stage, agent

TEXT = "Where is it?"
ANSWERS = (calls(("look_up", '{"order_id": "12"}')), says("On its way."))


@tool
def look_up(order_id: str) -> str:
    """Look an order up."""
    return f"order {order_id}: shipped"


def test_a_written_past_reads_as_a_lived_one(migrated_postgres_url: str) -> None:
    """Three turns lived, and two written with a third lived upon them: the same messages, turns and numbers."""
    settings = Settings(database_url=migrated_postgres_url)
    with (
        Stage(settings=settings, agents=[agent(look_up)], model=Model(script({TEXT: ANSWERS}))) as stage,
        stage.worker() as worker,
    ):

        def live(session: str) -> None:
            stage.send(TEXT, session_id=session)
            worker.running.sessions.run(SessionId(session))

        live(TEMPLATE)
        with psycopg.connect(migrated_postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
            give_history(connection, ["written", "written-too"], 2)
        for session in ("lived", "lived", "lived", "written"):
            live(session)
        with stage.reading() as stores:
            lived, written = _history(stores, "lived"), _history(stores, "written")
            assert len(lived) == 12
            assert written == lived
            assert _turns(stores, "written") == _turns(stores, "lived")
            assert _turns(stores, "written-too") == _turns(stores, "lived")[:2]
            assert len({turn.turn_id for turn in stores.sessions.turns(SessionId("written"))}) == 3


def _history(stores: Stores, session: str) -> list[object]:
    return list(stores.sessions.history(SessionId(session)))


def _turns(stores: Stores, session: str) -> list[tuple[int, str, str]]:
    """What the turns came to."""
    results = [turn.result for turn in stores.sessions.turns(SessionId(session)) if turn.result is not None]
    assert {result.session_id for result in results} == {session}
    return [(result.turn_index, result.text, result.tool_calls[0].tool) for result in results]
