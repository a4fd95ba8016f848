"""Hot queries on SQLite: each finds its rows in an index, or walks through one that holds only what is alive."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from lash_tasks.clock import FakeClock
from lash_tasks.domain.ids import BatchId
from lash_tasks.errors import SessionBusy
from lash_tasks.stores.protocols import OpenedTurn, OpenRequest, Pruning
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fleet import SqlFleet
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.sessions import SqlSessionStore
from lash_tasks.stores.sql.work import SqlWorkStore
from tests.conformance.arrange import ALICE, BOB, MACHINE_VERSION, SESSION, SUPPORT, Scene, node
from tests.conformance.inputs import OTHER_SESSION, draft, serve

AGENTS = list(SUPPORT)
OPENING = OpenRequest(session_id=SESSION, worker=ALICE, agents=SUPPORT, machine_version=MACHINE_VERSION)
GROWING = {"lash_batches", "lash_turns", "lash_nodes", "lash_effects", "lash_sessions"}
ALIVE = {"uq_lash_turns_unfinished", "ix_lash_batches_available", "ix_lash_batches_ready", "ix_lash_batches_quiet"}
"""Indexes of a part of their table that rows leave when they are over: maintenance may walk through these."""
PRUNING = Pruning(keys_after_ms=1000, journals_after_ms=1000)


class Session:
    """A session with a past, a turn that runs, and input of every kind behind it."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.database = scene, scene.database
        self.queue = SqlInputQueue(self.database)
        self.work = SqlWorkStore(self.database)
        self.sessions = SqlSessionStore(self.database)
        self.clock = scene.clock
        scene.send("past")
        scene.committed(scene.open(), nodes=(node(1),), result=None)
        scene.send("running")
        self.turn: OpenedTurn = scene.open()
        scene.record(self.turn)
        scene.inject("joins")
        scene.send("ready", session_id=OTHER_SESSION)

    def cancelled(self) -> object:
        return self.scene.store.request_cancel(SESSION, self.turn.intent.turn_id, "enough")

    def rejected(self) -> None:
        with pytest.raises(SessionBusy):
            self.queue.enqueue(draft(), reject_if_busy=True)

    def pruned(self) -> object:
        self.clock.advance(3_600_000)
        return self.work.prune(PRUNING)


VERBS: dict[str, Callable[[Session], object]] = {
    "enqueue": lambda of: of.queue.enqueue(draft(source_key="new", urgent=True)),
    "reject": Session.rejected,
    "find": lambda of: of.queue.find(SESSION, source_key="new"),
    "waiting": lambda of: of.queue.waiting(SESSION),
    "cancel": lambda of: of.queue.cancel(SESSION, BatchId("joins")),
    "open": lambda of: of.scene.open(session_id=OTHER_SESSION),
    "resume": lambda of: of.scene.open(BOB),
    "record": lambda of: of.scene.record(of.turn, "call-2"),
    "checkpoint": lambda of: of.scene.checkpoint(of.turn),
    "commit": lambda of: of.scene.committed(of.turn, nodes=(node(2, parent=1),)),
    "give up": lambda of: of.scene.store.give_up(SESSION, of.turn.intent.turn_id, of.turn.fence, crashed=True),
    "request a cancel": Session.cancelled,
    "runnable": lambda of: of.work.runnable(OPENING),
    "pinned": lambda of: of.work.pinned(SESSION),
    "abandoned": lambda of: of.work.abandoned(AGENTS, machine_version=1, besides=["other"]),
    "ready": lambda of: of.work.ready(AGENTS),
    "due": lambda of: of.work.due(AGENTS, since_ms=1000),
    "prune": Session.pruned,
    "turns": lambda of: of.sessions.turns(SESSION),
    "leave": lambda of: SqlFleet(of.database).leave(ALICE),
    "delete": lambda of: of.sessions.delete(SESSION),
}
OF_ONE = VERBS.keys() - {"abandoned", "ready", "due", "prune", "leave"}
"""The verbs of one session, which look at nothing of another."""


@pytest.fixture
def session(migrated_sqlite_url: str) -> Iterator[Session]:
    clock = FakeClock()
    database = Database.open(migrated_sqlite_url, now_ms=clock.now_ms)
    serve(database)
    yield Session(Scene(database, clock))
    database.close()


@pytest.mark.parametrize("verb", VERBS)
def test_no_hot_query_reads_a_table_that_grows_from_end_to_end(session: Session, verb: str) -> None:
    plans = explain(session.database, lambda: VERBS[verb](session))
    assert plans
    for statement, plan in plans:
        walked = walks(statement, plan)
        if verb not in OF_ONE:
            walked = [(table, index, how) for table, index, how in walked if how == "SCAN" and index not in ALIVE]
        assert not walked, "\n".join([statement, *plan])


def walks(statement: str, plan: list[str]) -> list[tuple[str, str | None, str]]:
    """The tables that grow and are read otherwise than by an equal value, with the index and whether all of it is."""
    names = {alias: table for table, alias in re.findall(r"\b(lash_\w+) (?:AS )?(\w+)", statement)}
    found: list[tuple[str, str | None, str]] = []
    for line in plan:
        step = re.match(r"(SCAN|SEARCH) (?P<table>\w+)(?: USING .*INDEX (?P<index>\w+))?", line)
        table = "" if step is None else names.get(step["table"], str(step["table"]))
        if step is not None and table in GROWING and "=?" not in line:
            found.append((table, step["index"], step[1]))
    return found


def explain(database: Database, verb: Callable[[], object]) -> list[tuple[str, list[str]]]:
    """What a verb executes, each statement with its plan."""
    found: list[tuple[str, list[str]]] = []

    def before(_connection: object, cursor: Any, statement: str, parameters: object, *_rest: object) -> None:
        if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)", statement):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found.append((statement, [line for *_, line in cursor.fetchall()]))

    event.listen(database.engine, "before_cursor_execute", before)
    try:
        verb()
    finally:
        event.remove(database.engine, "before_cursor_execute", before)
    return found
