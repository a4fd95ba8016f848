"""Queue, fence and commit under everything that two workers and many senders can do, beside a model of a session.

`LASH_TEST_EXPLORE=500 pytest --timeout 3600 tests/conformance/test_stateful.py` looks at that many new histories.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from lash_tasks.clock import FakeClock
from lash_tasks.domain.journal import EffectState, RecordVerdict
from lash_tasks.domain.queue import CancelVerdict, When
from lash_tasks.errors import IdempotencyConflict, SessionBusy, SessionDeleted
from lash_tasks.stores.protocols import CheckpointRefused, CheckpointTaken, CommitRefused, Committed, NotOpened
from lash_tasks.stores.sql.engine import Database
from tests.conformance.arrange import Scene
from tests.conformance.inputs import serve
from tests.conformance.session_machine import AGENTS, SENDINGS, Sessions
from tests.domain.laws import law

EXPLORE = int(os.environ.get("LASH_TEST_EXPLORE", "0"))
BEGINNINGS = ["merged", "quiet", "sent again", "taken", "dead", "joinable", "committed again", "deleted"]
STEPS = [
    "record",
    "checkpoint",
    "checkpoint",
    "steer",
    "steer",
    "merge",
    "commit",
    "forget",
    "another opens",
    "let go",
    "be late",
]
SHOWN_ELSEWHERE = (CommitRefused.HEAD_CONFLICT, CommitRefused.CONFLICT)
"""Nothing that this machine can do leads to a head that moved under a turn, or to a change that does not fit."""


class Histories(Sessions):
    """Rules in an order that leads somewhere."""

    @initialize(beginnings=st.permutations(BEGINNINGS), worker=st.integers(0, 2), when=SENDINGS)
    def begin(self, beginnings: list[str], worker: int, when: When) -> None:
        """What the other rules do too, where they seldom lead by chance."""
        for beginning in beginnings[:2]:
            self.begin_with(beginning, worker, when)
            self.come_to_rest(worker)

    def come_to_rest(self, worker: int) -> None:
        session = self.sessions[0]
        while session.turn is not None or session.queue.next_run(self.now_ms()):
            self.open(0, worker, ("support", "sales"))
            self.commit(0, False, False, False, False)

    def begin_with(self, beginning: str, worker: int, when: When) -> None:
        both = ("support", "sales")
        match beginning:
            case "merged":
                for merge_key in ("m", "m", "n"):
                    self.send(0, When.MERGE, "support", "", None, 0, None, merge_key)
                self.open(0, worker, both)
            case "quiet":
                self.send(0, When.MERGE, "support", "", 200, 0, None, "m")
                self.send(0, When.MERGE, "support", "", 200, 0, None, "m")
                self.open(0, worker, both)
                self.time_passes(201)
                self.open(0, worker, both)
            case "sent again":
                for again in (when, when, When.QUEUE, When.STEER):
                    self.send(0, again, "support", "", None, 0, "k1", "m")
                self.cancel_input(0, 0)
            case "taken":
                self.send(0, when, "support", "", None, 0, None, "m")
                self.open(0, worker, both)
                self.cancel_input(0, -2)
            case "dead":
                self.send(0, when, "support", "", None, 0, None, "m")
                self.open(0, worker, both)
                self.commit(0, False, True, False, False)
                for _ in range(2):
                    self.replay_dead_letter(0)
            case "joinable":
                self.send(0, When.QUEUE, "support", "", None, 0, None)
                self.open(0, worker, both)
                self.send(0, When.STEER, "support", "", None, 0, None)
                self.commit(0, True, False, False, False)
            case "committed again":
                self.send(0, When.QUEUE, "support", "", None, 0, None)
                self.open(0, worker, both)
                for another in (False, False, True):
                    self.commit(0, False, False, False, another)
            case "deleted":
                self.send(1, when, "support", "", None, 0, "k1", "m")
                self.open(1, worker, both)
                self.delete(0)
                self.send(1, when, "support", "", None, 0, "k1", "m")

    @rule(
        one=st.sampled_from([0, 0, 0, 1]),
        worker=st.integers(0, 2),
        whens=st.lists(SENDINGS, min_size=1, max_size=2),
        agent=st.sampled_from(["support", "support", "sales"]),
        steps=st.lists(st.sampled_from(STEPS), min_size=4, max_size=10),
        late=Sessions.whichever,
        may_wait=st.booleans(),
    )
    def drive(
        self, one: int, worker: int, whens: list[When], agent: str, steps: list[str], late: int, may_wait: bool
    ) -> None:
        """What the other rules do too, in an order that leads somewhere."""
        for when in whens:
            self.send(one, when, agent, "", None, 0, None)
        if agent == "sales":
            self.open(one, worker, ("support",))
        self.open(one, worker, ("support", "sales"))
        which = 0
        for number, step in enumerate(steps if self.holds else ()):
            match step:
                case "record":
                    self.record(which, f"d{number % 2}", EffectState.DONE)
                case "checkpoint":
                    self.checkpoint(which, f"d{number % 2}")
                case "steer":
                    self.send(one, When.STEER, agent, "", None, 0, None)
                case "merge":
                    self.send(one, When.MERGE, agent, "", None, 0, None)
                case "another opens":
                    self.open(one, (worker + number) % 3, ("support",) if may_wait else ("support", "sales"))
                case "let go":
                    self.give_up(which, may_wait)
                case "commit":
                    self.commit(which, may_wait, False, False, False)
                case "forget":
                    self.commit(which, may_wait, False, True, False)
                case _:
                    which = late


EVERYWHERE = {
    *NotOpened,
    ("opened", False, False),
    ("opened", True, False),
    ("opened", True, True),
    RecordVerdict.RECORDED,
    RecordVerdict.EXISTS,
    RecordVerdict.FENCED,
    CheckpointTaken,
    *(("checkpoint", refused) for refused in CheckpointRefused),
    SessionBusy,
    SessionDeleted,
    IdempotencyConflict,
    "same key",
    "was quiet",
    ("merged", True),
    ("merged", False),
    *(verdict for verdict in CancelVerdict if verdict is not CancelVerdict.REQUESTED),
    ("replayed", True),
    ("replayed", False),
    ("deleted", True),
    ("deleted", False),
    Committed,
    *(("commit", refused) for refused in CommitRefused if refused not in SHOWN_ELSEWHERE),
}


@pytest.mark.shows("T8")
@pytest.mark.timeout(3600 if EXPLORE else 120)
@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_any_history_of_two_sessions_is_that_of_the_model(request: pytest.FixtureRequest, backend: str) -> None:
    clock = FakeClock()
    database = Database.open(request.getfixturevalue(f"migrated_{backend}_url"), now_ms=clock.now_ms)
    serve(database, *AGENTS)

    class OnThisBackend(Histories):
        pass

    OnThisBackend.database, OnThisBackend.scene, OnThisBackend.met = database, Scene(database, clock), Counter()
    run_state_machine_as_test(OnThisBackend, settings=settings(law, max_examples=EXPLORE or 30, stateful_step_count=40))
    database.close()
    never_met = EVERYWHERE - set(+OnThisBackend.met)
    assert not never_met
