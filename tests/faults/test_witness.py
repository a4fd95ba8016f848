"""The witness in a run's database notes what was written by somebody who was not to write any more, and only that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text as sql

from lash_tasks.client import Client
from lash_tasks.settings import Settings
from lash_tasks.stores.sql import schema
from tests.faults import witness
from tests.faults.evidence import StaleWrite

OPENED = """
INSERT INTO lash_sessions (id, created_at_ms) VALUES ('s', 0);
INSERT INTO lash_fences (scope, fence) VALUES ('session:s', 2);
INSERT INTO lash_turns (session_id, turn_id, turn_index, status, base_revision, batch_ids, agent, agent_ref,
  machine_version, fence, holder, admitted_at_ms)
VALUES ('s', 't', 1, 'running', 0, '[]', 'a', 'r', 1, 2, 'h:7:x', 0)"""
"""A turn under the fence 2 in the hands of the process 7."""

RECORDED = """
INSERT INTO lash_effects (scope, replay_key, ordinal, fence, state, envelope)
VALUES ('session:s/t', 'key', 1, {fence}, '{state}', '')
ON CONFLICT (scope, replay_key) DO UPDATE SET state = excluded.state, fence = excluded.fence
WHERE lash_effects.state = 'begun'"""
RAISED = "UPDATE lash_fences SET fence = fence + 1"
COMMITTED = f"WITH raised AS ({RAISED}) UPDATE lash_turns SET status = 'committed', holder = NULL"
RESUMED = (
    f"WITH raised AS ({RAISED} RETURNING fence) UPDATE lash_turns t SET fence = r.fence, holder = 'h:8:x' FROM raised r"
)
GIVEN_UP = "UPDATE lash_turns SET holder = NULL"


@pytest.fixture
def client(postgres_url: str) -> Iterator[Client]:
    schema.upgrade(postgres_url)
    with Client(Settings.model_validate({"database_url": postgres_url})) as client:
        witness.install(client)
        did(client, 7, *OPENED.split(";"))
        yield client


def did(client: Client, pid: int, *statements: str) -> list[StaleWrite]:
    """What the witness knows when a worker's process has done this."""
    with client.stores.database.transaction() as connection:
        connection.execute(sql(f"SET LOCAL application_name = '{witness.CONNECTION_NAME.format(pid=pid)}'"))
        for statement in statements:
            connection.execute(sql(statement))
    return witness.stale_writes(client)


def test_whoever_holds_the_turn_may_record_take_over_give_up_and_commit(client: Client) -> None:
    begun, done = RECORDED.format(fence=2, state="begun"), RECORDED.format(fence=2, state="done")
    assert did(client, 7, begun, done) == []
    assert did(client, 8, RESUMED) == []
    assert did(client, 8, GIVEN_UP) == []
    assert did(client, 9, RESUMED) == []
    assert did(client, 8, COMMITTED) == []
    assert witness.stale_attempts(client) == 0


@pytest.mark.parametrize("fence", [1, 3])
def test_a_row_under_another_fence_than_that_of_the_session_is_noted(client: Client, fence: int) -> None:
    what = f"key written under the fence {fence} when it was 2"
    (noted,) = did(client, 7, RECORDED.format(fence=fence, state="done"))
    assert noted == StaleWrite(session="s", turn_id="t", what=what)


def test_a_stale_row_is_noted_where_it_changes_what_stands_and_only_there(client: Client) -> None:
    begun, done = RECORDED.format(fence=2, state="begun"), RECORDED.format(fence=1, state="done")
    assert len(did(client, 7, begun, done)) == 1
    assert len(did(client, 7, done)) == 1, "it is there already"
    assert witness.stale_attempts(client) == 2


@pytest.mark.parametrize("write", [COMMITTED, GIVEN_UP])
def test_a_turn_that_another_process_ends_or_gives_up_is_noted(client: Client, write: str) -> None:
    (noted,) = did(client, 8, write)
    assert noted.what.endswith("by the process 8 while 7 held it")


def test_a_turn_that_is_committed_when_its_fence_is_not_the_sessions_is_noted(client: Client) -> None:
    (noted,) = did(client, 7, RAISED, COMMITTED)
    assert noted.what == "committed with the fence 2 when that of the session was 4"
