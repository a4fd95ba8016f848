"""What the hot verbs cost on Postgres: round trips, counted in the protocol itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lash_tasks.clock import FakeClock
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.journal import RecordVerdict
from lash_tasks.stores.protocols import CheckpointTaken, Committed
from lash_tasks.stores.sql.engine import Database
from tests.conformance.arrange import ALICE, BOB, Scene, journal_row, made
from tests.postgres_protocol import ONE_CONNECTION, protocol_of

RoundTrips = Callable[[Callable[[], object]], int]


@pytest.fixture
def database(migrated_postgres_url: str, clock: FakeClock) -> Iterator[Database]:
    """A Postgres database with one connection, so that it is known which one a verb takes."""
    database = Database.open(migrated_postgres_url, options=ONE_CONNECTION, now_ms=clock.now_ms)
    yield database
    database.close()


@pytest.fixture
def round_trips(database: Database, tmp_path: Path) -> RoundTrips:
    """Counts how often the server said that it is ready for more while an action ran."""

    def count(action: Callable[[], object]) -> int:
        return protocol_of(database, action, tmp_path).count("ReadyForQuery")

    return count


def test_an_opening_is_one_round_trip(scene: Scene, round_trips: RoundTrips) -> None:
    assert round_trips(lambda: scene.try_open(ALICE)) == 1, "with nothing to do"
    scene.send()
    assert round_trips(lambda: scene.open(ALICE)) == 1, "with a new turn"
    assert round_trips(lambda: scene.open(BOB)) == 2, "with a journal to read"


def test_rows_of_many_turns_are_one_round_trip(scene: Scene, round_trips: RoundTrips) -> None:
    rows = []
    for number in range(32):
        session_id = SessionId(f"session-{number}")
        scene.send(session_id=session_id)
        turn = scene.open(ALICE, session_id=session_id)
        rows += [journal_row(turn, f"call-{call}", ordinal=call) for call in range(8)]

    verdicts: list[RecordVerdict] = []
    assert round_trips(lambda: verdicts.extend(reply.verdict for reply in scene.store.record(rows))) == 1
    assert verdicts == [RecordVerdict.RECORDED] * 256


def test_a_checkpoint_is_two_round_trips(scene: Scene, round_trips: RoundTrips) -> None:
    """The second one needs what the first has claimed: the outcome holds the inputs."""
    scene.send()
    turn = scene.open(ALICE)
    scene.inject()

    def checkpoint() -> None:
        assert isinstance(scene.checkpoint(turn), CheckpointTaken)

    assert round_trips(checkpoint) == 2


def test_a_commit_is_one_round_trip(scene: Scene, round_trips: RoundTrips) -> None:
    scene.send()
    turn = scene.open(ALICE)

    def commit() -> None:
        assert isinstance(scene.commit(turn, nodes=(made(turn, 0), made(turn, 1))), Committed)

    assert round_trips(commit) == 1
