"""A worker's next turn of a session reads only what it has not seen, and never builds on what is not so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from lash_tasks.domain.ids import MessageId, NodeId, SessionId
from lash_tasks.domain.messages import Message, Role, TextPart
from lash_tasks.domain.sessions import Node, placed
from lash_tasks.runtime.ingress import CommandRequest
from lash_tasks.runtime.session_runner import RunVerdict
from lash_tasks.runtime.warm_sessions import COLD, WarmSession, WarmSessions
from lash_tasks.stores.bundle import Stores
from lash_tasks.stores.protocols import NotOpened, OpenedTurn, OpenRequest, TurnStore
from lash_tasks.wiring import WorkerParts
from tests.turns.models import Model
from tests.turns.stage import AGENT, SESSION, Stage


class Watch:
    """A worker's openings: the revision it said it knows, and how many messages it was given."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.opened: list[tuple[int, int]] = []

    @contextmanager
    def worker(self) -> Iterator[WorkerParts]:
        with self.stage.worker(wrap=lambda stores: replace(stores, turns=self._watched(stores))) as parts:
            yield parts

    def _watched(self, stores: Stores) -> TurnStore:
        turns, seen = stores.turns, self.opened

        class Watched:
            def __getattr__(self, name: str) -> object:
                return getattr(turns, name)

            def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
                opened = turns.open(request)
                if isinstance(opened, OpenedTurn):
                    seen.append((request.known_revision, len(opened.history)))
                return opened

        watched: TurnStore = Watched()  # type: ignore[assignment] # the rest passes through
        return watched


@pytest.fixture
def watch(stage: Stage) -> Watch:
    stage.model = Model()
    return Watch(stage)


def run(parts: WorkerParts) -> None:
    assert parts.running.sessions.run(SESSION) is RunVerdict.COMMITTED


def said(stage: Stage) -> list[str]:
    """What the model was last shown."""
    request = stage.model.requests[-1]  # type: ignore[attr-defined] # it is a Model
    return [part.text for message in request.messages for part in message.parts]


def test_a_warm_turn_reads_no_history_and_shows_the_model_all_of_it(stage: Stage, watch: Watch) -> None:
    with watch.worker() as parts:
        for text in ("one", "two", "three"):
            stage.send(text)
            run(parts)
    assert watch.opened == [(0, 0), (1, 0), (2, 0)]
    assert said(stage) == ["one", "You said: one", "two", "You said: two", "three"]
    with stage.reading() as stores:
        nodes = [stored.node for stored in stores.sessions.history(SESSION)]
    assert [node.parent_id for node in nodes] == [None, *(node.node_id for node in nodes[:-1])]


@pytest.mark.shows("P5")
def test_what_another_worker_has_committed_meanwhile_is_read(stage: Stage, watch: Watch) -> None:
    with watch.worker() as ours:
        stage.send("one")
        run(ours)
        with watch.worker() as theirs:
            stage.send("two")
            run(theirs)
        stage.send("three")
        run(ours)
    assert watch.opened == [(0, 0), (0, 2), (1, 2)]
    assert said(stage) == ["one", "You said: one", "two", "You said: two", "three"]


def test_a_path_that_another_worker_has_changed_is_read_as_a_whole(stage: Stage, watch: Watch) -> None:
    with watch.worker() as ours:
        for text in ("one", "two"):
            stage.send(text)
            run(ours)
        with watch.worker() as theirs:
            branch = {"kind": "branch_to_node", "arguments": {"node_id": "m1.1"}, "idempotency_key": "k"}
            theirs.ingress.command(CommandRequest.parse({"session_id": SESSION, "agent": AGENT, **branch}))
            run(theirs)
        stage.send("three")
        run(ours)
        assert said(stage) == ["one", "You said: one", "three"]
        with stage.reading() as stores:
            assert stores.graph.tombstone(SESSION, [NodeId("m1.1")]) == 1
        stage.send("four")
        run(ours)
        assert said(stage) == ["one", "three", "You said: three", "four"]


def test_a_database_that_was_set_back_is_believed(stage: Stage, watch: Watch) -> None:
    """A restored backup knows less than the workers that lived on."""
    with watch.worker() as parts:
        for text in ("one", "two"):
            stage.send(text)
            run(parts)
        stage.execute("DELETE FROM lash_nodes WHERE revision = 2")
        stage.execute("DELETE FROM lash_turns WHERE turn_index = 2")
        stage.execute("UPDATE lash_sessions SET head_revision = 1, turn_index = 1")
        stage.send("three")
        run(parts)
    assert said(stage) == ["one", "You said: one", "three"]
    assert watch.opened[-1] == (0, 2)


# ---------------------------------------------------------------- the memory


def known(revision: int, text: str = "x") -> WarmSession:
    node = Node(NodeId(f"n{revision}"), None, Message(MessageId("m"), Role.USER, (TextPart(text),)), None)
    return COLD.grown(placed([node], revision), revision)


def test_what_is_taken_is_gone_until_it_is_kept_again() -> None:
    sessions = WarmSessions()
    sessions.keep(SESSION, known(3))
    assert sessions.take(SESSION).revision == 3
    assert sessions.take(SESSION) is COLD


def test_beyond_the_bound_the_session_used_longest_ago_goes() -> None:
    one, two, three = (SessionId(name) for name in ("one", "two", "three"))
    sessions = WarmSessions(max_bytes=2 * known(1).size)
    sessions.keep(one, known(1))
    sessions.keep(two, known(2))
    sessions.keep(one, sessions.take(one))
    sessions.keep(three, known(3))
    assert [sessions.take(name).revision for name in (one, two, three)] == [1, 0, 3]


def test_a_session_larger_than_the_bound_is_not_kept_and_drives_nobody_out() -> None:
    sessions = WarmSessions(max_bytes=known(1).size)
    sessions.keep(SESSION, known(1))
    sessions.keep(SessionId("large"), known(1, "x" * 100_000))
    assert sessions.take(SessionId("large")) is COLD
    assert sessions.take(SESSION).revision == 1
