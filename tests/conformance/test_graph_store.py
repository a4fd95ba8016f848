"""`GraphStore`: branches, frames of before and hidden nodes, with the history that the next turn is shown."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, event

from lash_tasks.domain.frames import initial_frame_id
from lash_tasks.domain.ids import MessageId, NodeId, SessionId
from lash_tasks.domain.messages import Message, Origin, Role, TextPart
from lash_tasks.domain.sessions import Node, Place, Record, StoredNode, chain, graft, transcript
from lash_tasks.stores.protocols import (
    CommitRefused,
    Committed,
    FrameOpening,
    OpenedTurn,
    PathChange,
    Pruning,
    TurnCommit,
)
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.frames import SqlFrameStore
from lash_tasks.stores.sql.graph import SqlGraphStore
from lash_tasks.stores.sql.sessions import SqlSessionStore
from lash_tasks.stores.sql.work import SqlWorkStore
from tests.conformance.arrange import SESSION, Scene, turn_commit

NOTE = Record("protocol", "notes", {"n": 1})


class Story:
    """A session that is written commit by commit, and read back by the ids of its nodes."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.store = SqlGraphStore(scene.database)
        self.frames = SqlFrameStore(scene.database)
        self.sessions = SqlSessionStore(scene.database)

    def place(self, node_id: str) -> Place:
        stored = self.store.node(SESSION, NodeId(node_id))
        assert stored is not None, node_id
        return stored.place

    def turn(self, known_revision: int = 0) -> OpenedTurn:
        self.scene.send()
        return self.scene.open(known_revision=known_revision)

    def commit(
        self,
        *nodes: Node,
        after: str | None = None,
        path: PathChange | None = None,
        frame: FrameOpening | None = None,
    ) -> Committed:
        opened = self.turn()
        leaf = None if after is None else self.place(after)
        stamp = f"stamp-{opened.intent.turn_index}"
        return self.scene.committed(opened, nodes=nodes, leaf=leaf, path=path, frame=frame, stamp=stamp)

    def say(self, *names: str, after: str | None = None, frame_id: str | None = None) -> Committed:
        """A commit of messages, each with its id for a text, behind the node `after`."""
        parent = None if after is None else NodeId(after)
        return self.commit(*chain(tuple(map(message, names)), parent, frame_id), after=after)

    def branch(self, to: str) -> Committed:
        return self.commit(path=PathChange(self.place(to)))

    def shown(self) -> list[str]:
        """The next turn's history; nothing of that turn stays. Reading it beside the queue gives the same."""
        opened = self.turn()
        self.scene.committed(opened, stamp=f"stamp-{opened.intent.turn_index}")
        assert ids(opened.history) == ids(self.sessions.history(SESSION))
        return ids(opened.history)

    def graph(self) -> list[str]:
        return ids(self.store.graph(SESSION).nodes)

    def path(self, leaf: str | None = None) -> list[str]:
        return ids(self.store.path(SESSION, None if leaf is None else NodeId(leaf)).nodes)


def message(name: str, origin: Origin | None = None) -> Message:
    return Message(MessageId(name), Role.USER, (TextPart(name),), origin)


def ids(nodes: list[StoredNode] | tuple[StoredNode, ...]) -> list[str]:
    return [stored.node.node_id for stored in nodes]


@pytest.fixture
def story(scene: Scene) -> Story:
    return Story(scene)


# ---------------------------------------------------------------- paths


@pytest.mark.shows("G1")
def test_the_graph_has_all_branches_and_a_path_its_own(story: Story) -> None:
    story.say("root")
    story.say("right", after="root")
    story.branch("root")
    story.say("left", "left-leaf", after="root")
    graph = story.store.graph(SESSION)
    assert (ids(graph.nodes), graph.leaf) == (["root", "right", "left", "left-leaf"], "left-leaf")
    assert story.path() == story.shown() == ["root", "left", "left-leaf"]
    assert story.path("right") == ["root", "right"]
    assert story.path("nowhere") == []
    assert story.store.orphans(SESSION) == ["right"]


@pytest.mark.shows("G5")
def test_an_earlier_message_that_is_edited_is_a_branch(story: Story) -> None:
    story.say("hello", "answer")
    story.say("typo", "wrong", after="answer")
    story.branch("answer")
    story.say("fixed", "right", after="answer")
    assert story.shown() == ["hello", "answer", "fixed", "right"]
    old = story.store.node(SESSION, NodeId("typo"))
    assert old is not None
    assert old.node.content == message("typo")


@pytest.mark.shows("G10", "C7")
def test_what_left_the_path_is_stored_for_good(story: Story) -> None:
    story.say("root")
    story.say("left behind", after="root")
    story.branch("root")
    for name in ("one", "two", "three"):
        story.say(name, after=story.shown()[-1])
    assert story.shown() == ["root", "one", "two", "three"]
    assert story.store.orphans(SESSION) == ["left behind"]
    found = story.store.node(SESSION, NodeId("left behind"))
    assert found is not None
    assert found.node.content == message("left behind")
    assert story.store.node(SESSION, NodeId("unknown")) is None


@pytest.mark.shows("G4")
def test_a_leaf_without_a_node_heals_to_the_last_message_and_a_healthy_one_stays(story: Story) -> None:
    story.say("root")
    story.say("right", after="root")
    story.branch("root")
    assert story.store.graph(SESSION).leaf == "root"
    story.commit(*graft([NOTE], NodeId("root"), seed="s"), after="root")
    with story.scene.database.transaction() as connection:
        connection.execute(tables.sessions.update().values(leaf_revision=77, leaf_ordinal=0))
    assert story.store.graph(SESSION).leaf == "right"
    assert story.shown() == ["root", "right"]
    story.say("on", after="right")
    assert story.shown() == ["root", "right", "on"]


def test_a_path_ends_whatever_the_parents_say(story: Story) -> None:
    for name in ("one", "two", "three"):
        story.say(name, after=None if name == "one" else story.shown()[-1])
    story.branch("three")
    looping = {"parent_id": "three", "parent_revision": story.place("three").revision, "parent_ordinal": 0}
    with story.scene.database.transaction() as connection:
        connection.execute(tables.nodes.update().where(tables.nodes.c.node_id == "one").values(looping))
        connection.execute(tables.nodes.update().where(tables.nodes.c.node_id == "three").values(looping))
    assert story.path() == story.shown() == ["three"]


@pytest.mark.shows("G6")
def test_each_frame_reads_its_own_nodes(story: Story) -> None:
    story.say("old")
    seed = Node(NodeId("seed"), NodeId("old"), message("seed"), "f2")
    frame = FrameOpening(frame_id="f2", previous_id=None, reason="continue_as", assignment="{}", nodes=(seed,))
    story.commit(after="old", frame=frame)
    story.say("new", after="seed", frame_id="f2")
    assert story.shown() == ids(story.frames.history(SESSION, "f2")) == ["seed", "new"]
    assert ids(story.frames.history(SESSION, initial_frame_id(SESSION))) == ["old"]
    assert story.path() == ["old", "seed", "new"]
    story.commit(path=PathChange(None))
    assert story.shown() == ids(story.frames.history(SESSION, "f2")) == []
    assert ids(story.frames.history(SESSION, initial_frame_id(SESSION))) == ["old"]
    story.branch("seed")
    assert story.shown() == ids(story.frames.history(SESSION, "f2")) == ["seed"]
    assert ids(story.frames.history(SESSION, initial_frame_id(SESSION))) == ["old"]
    assert story.frames.history(SessionId("nobody"), "f2") == []


def test_the_leaf_is_the_last_node_of_the_path_whatever_frame_it_lies_in(story: Story) -> None:
    def leaf() -> str | None:
        stored = story.store.leaf(SESSION)
        return None if stored is None else stored.node.node_id

    assert leaf() is None
    story.say("old", "older")
    frame = FrameOpening(frame_id="f2", previous_id=None, reason="continue_as", assignment="{}", nodes=())
    story.commit(after="older", frame=frame)
    assert (story.shown(), leaf()) == ([], "older")
    story.store.tombstone(SESSION, [NodeId("older")])
    assert leaf() == "old"
    story.say("new", after="old", frame_id="f2")
    assert (story.shown(), leaf()) == (["new"], "new")
    story.branch("old")
    assert leaf() == "old"
    story.say("other", "last", after="old")
    story.store.tombstone(SESSION, [NodeId("last")])
    assert leaf() == "other"
    story.commit(path=PathChange(None))
    assert leaf() is None


def test_a_branch_to_a_node_of_an_earlier_frame_goes_on_in_that_frame(story: Story) -> None:
    story.say("old", "older")
    seed = Node(NodeId("seed"), NodeId("older"), message("seed"), "f2")
    frame = FrameOpening(frame_id="f2", previous_id=None, reason="compaction", assignment="{}", nodes=(seed,))
    story.commit(after="older", frame=frame)
    story.branch("old")
    assert story.turn().frame_id is None
    assert ids(story.sessions.history(SESSION)) == ["old"]
    assert ids(story.frames.history(SESSION, "f2")) == ["seed"]


# ---------------------------------------------------------------- ids, records, what is not kept


@pytest.mark.shows("G2")
def test_ids_come_from_messages_until_they_are_taken(story: Story) -> None:
    story.commit(*graft([message("a"), NOTE], None, seed="1"))
    for number in (2, 3):
        taken = story.store.taken(SESSION, ["a", "message:a", "message:a:2"])
        [again] = graft([message("a")], NodeId("a"), seed=str(number), taken=taken)
        story.commit(again, after="a")
    story.commit(*graft([Record("plugin", "memory", {}), message(""), message("m7.1")], None, seed="4"))
    first, protocol, second, third, plugin, unnamed, reserved = story.graph()
    assert (first, second, third, reserved) == ("a", "message:a", "message:a:2", "message:m7.1")
    assert protocol.startswith("protocol:")
    assert plugin.startswith("plugin:")
    assert unnamed.startswith("m")
    read = transcript(stored.node for stored in story.store.graph(SESSION).nodes)
    assert [each.id for each in read] == ["a", unnamed, "m7.1"]


def test_a_message_that_is_on_the_path_already_is_not_appended_again() -> None:
    given = [message("a"), message("b"), message("b")]
    assert [each.node_id for each in graft(given, None, seed="1", active={MessageId("a")})] == ["b"]


@pytest.mark.shows("G3")
def test_a_transient_message_is_neither_stored_nor_read(story: Story) -> None:
    passing = message("hint", Origin("plugin", transient=True))
    for made in (chain((message("a"), passing, message("b")), None), graft([message("c"), passing], None, seed="1")):
        story.commit(*made)
    assert story.graph() == ["a", "b", "c"]
    assert story.store.graph(SESSION).nodes[1].node.parent_id == "a"
    assert transcript([Node(NodeId("hint"), None, passing)]) == []


@pytest.mark.shows("G11")
def test_messages_and_records_of_one_step_stay_in_their_order(story: Story) -> None:
    story.commit(*graft([message("user"), NOTE], None, seed="1"))
    story.commit(*graft([message("assistant"), NOTE], NodeId("user"), seed="2"), after="user")
    contents = [stored.node.content for stored in story.store.graph(SESSION).nodes]
    assert contents == [message("user"), NOTE, message("assistant"), NOTE]
    assert [each.id for each in transcript(stored.node for stored in story.sessions.history(SESSION))] == [
        "user",
        "assistant",
    ]


# ---------------------------------------------------------------- ids that are there already


def test_the_same_content_under_an_id_is_stored_once(story: Story) -> None:
    story.say("a", "b")
    before = story.place("b")
    story.say("b", "c", after="b")
    assert story.graph() == ["a", "b", "c"]
    assert story.place("b") == before
    story.branch("c")
    assert story.shown() == ["a", "b", "c"]


def test_another_content_under_an_id_is_refused_and_leaves_nothing(story: Story) -> None:
    story.say("a")
    opened = story.turn()
    other = Node(NodeId("a"), None, Message(MessageId("a"), Role.USER, (TextPart("other"),)))
    before = story.scene.everything()
    assert story.scene.commit(opened, nodes=(other,)) is CommitRefused.CONFLICT
    twice = chain((message("x"),), None) * 2
    assert story.scene.commit(opened, nodes=twice) is CommitRefused.CONFLICT
    assert story.scene.everything() == before


def test_a_turns_own_nodes_are_not_looked_for(story: Story) -> None:
    own = chain((message("m4.0"),), None)
    commit: TurnCommit = turn_commit(story.turn(), nodes=own, turn_index=4)
    assert (commit.given, commit.changes_session, commit.moves_path) == ((), False, False)


# ---------------------------------------------------------------- hiding and removing


@pytest.mark.shows("G7")
def test_a_hidden_node_is_nowhere_is_removed_once_and_is_back_when_it_is_committed_again(story: Story) -> None:
    story.say("a", "b", "c")
    assert story.store.tombstone(SESSION, [NodeId("b"), NodeId("x")]) == 1
    assert story.store.tombstone(SESSION, [NodeId("b")]) == 0
    assert story.store.node(SESSION, NodeId("b")) is None
    assert story.graph() == story.path() == story.shown() == ["a", "c"]
    story.say("b", after="c")
    assert story.shown() == ["a", "b", "c"]
    story.store.tombstone(SESSION, [NodeId("b")])
    assert [story.store.vacuum(SESSION) for _ in range(2)] == [1, 0]
    story.say("b", after="c")
    assert story.shown() == ["a", "c", "b"]


def test_who_knew_a_node_that_is_hidden_reads_all_anew(story: Story) -> None:
    story.say("a", "b")
    running = story.turn(known_revision=1)
    story.store.tombstone(SESSION, [NodeId("b")])
    story.scene.committed(running, nodes=chain((message("c"),), NodeId("b")), leaf=Place(1, 1), stamp="stamp-2")
    after = story.turn(known_revision=2)
    assert (ids(after.history), after.whole) == (["a", "c"], True)


@pytest.mark.parametrize(
    "hidden",
    [
        ["a"],
        ["b"],
        ["c"],
        ["b", "c"],
        ["a", "b", "c"],
        ["d"],
        ["d", "e"],
        ["a", "d"],
        ["a", "b", "c", "d", "e"],
        ["f"],
        ["d", "e", "f"],
        list("abcdef"),
    ],
)
def test_what_is_removed_leaves_the_rest_of_its_branch_together(story: Story, hidden: list[str]) -> None:
    story.say("a", "b", "c")
    story.say("aside", after="c")
    story.branch("c")
    story.say("d", "e", after="c")
    story.say("f", after="e")
    story.store.tombstone(SESSION, [NodeId(name) for name in hidden])
    left = [name for name in ("a", "b", "c", "d", "e", "f") if name not in hidden]
    assert story.path() == left
    assert story.store.vacuum(SESSION) == len(hidden)
    assert story.path() == left
    assert story.path("aside") == [*(name for name in ("a", "b", "c") if name not in hidden), "aside"]


def test_nothing_is_removed_beneath_a_turn_that_runs(story: Story) -> None:
    """The turn's first node hung from a leaf that was gone, and the way to the session's leaf ended there."""
    work, pruning = SqlWorkStore(story.scene.database), Pruning(keys_after_ms=0, workers_after_ms=2**40)
    story.say("a", "b")
    story.say("c", after="b")
    opened = story.turn()
    story.store.tombstone(SESSION, [NodeId("c")])
    story.scene.clock.advance(1)
    assert story.store.vacuum(SESSION) == 0
    work.prune(pruning)
    assert story.scene.count(tables.nodes) == 3
    new = chain((message("d"),), NodeId("c"))
    story.scene.committed(opened, nodes=new, leaf=opened.history[-1].place, stamp="stamp-3")
    assert story.store.vacuum(SESSION) == 1
    assert story.path() == ["a", "b", "d"]
    story.branch("d")
    assert story.path() == ["a", "b", "d"]


def test_pruning_removes_what_was_hidden_long_ago_up_to_its_bound(story: Story) -> None:
    work, pruning = SqlWorkStore(story.scene.database), Pruning(keys_after_ms=10_000, workers_after_ms=2**40)
    story.say("a", "b", "c", "d")
    story.branch("d")
    story.store.tombstone(SESSION, [NodeId("b"), NodeId("c")])
    story.scene.clock.advance(10)
    story.store.tombstone(SESSION, [NodeId("a")])
    assert work.prune(pruning) == 0
    story.scene.clock.advance(0.001)
    left = [story.scene.count(tables.nodes)]
    while work.prune(pruning, limit=1):
        left.append(story.scene.count(tables.nodes))
    assert sorted(set(left), reverse=True) == [4, 3, 2]
    assert story.path() == ["d"]


# ---------------------------------------------------------------- growth


@pytest.mark.shows("G9")
def test_a_turn_on_a_long_history_inserts_its_own_nodes_and_touches_no_other(story: Story) -> None:
    past = chain(tuple(message(f"m1.{number}") for number in range(10_000)), None)
    story.commit(*past)
    opened = story.turn(known_revision=1)
    assert opened.history == ()
    written: list[str] = []

    def watch(_c: object, _cursor: object, statement: str, *_: object) -> None:
        written.append(statement)

    event.listen(story.scene.database.engine, "before_cursor_execute", watch)
    before = counted(story.scene.database)
    new = chain(tuple(message(f"m2.{number}") for number in range(3)), NodeId("m1.9999"))
    story.scene.committed(opened, nodes=new, leaf=Place(1, 9999), stamp="stamp-2")
    event.remove(story.scene.database.engine, "before_cursor_execute", watch)
    inserted, changed, deleted = (now - then for now, then in zip(counted(story.scene.database), before, strict=True))
    assert (inserted, changed, deleted) == (3, 0, 0)
    assert not any("DELETE FROM lash_nodes" in statement for statement in written)
    assert len(story.turn(known_revision=1).history) == 3


def counted(database: Database) -> tuple[int, int, int]:
    """Rows of the history that were inserted, changed and deleted, on SQLite since it was first asked."""
    with database.transaction() as connection:
        if database.dialect == "sqlite":
            return counted_by_triggers(connection)
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    with database.transaction() as connection:
        query = "SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables WHERE relname = 'lash_nodes'"
        inserted, changed, deleted = connection.exec_driver_sql(query).one()
    return inserted, changed, deleted


def counted_by_triggers(connection: Connection) -> tuple[int, int, int]:
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS touched (kind TEXT)")
    counts = []
    for kind in ("INSERT", "UPDATE", "DELETE"):
        connection.exec_driver_sql(
            f"CREATE TRIGGER IF NOT EXISTS touched_by_{kind} AFTER {kind} ON lash_nodes"
            f" BEGIN INSERT INTO touched VALUES ('{kind}'); END"
        )
        counts.append(connection.exec_driver_sql(f"SELECT count(*) FROM touched WHERE kind = '{kind}'").scalar_one())
    inserted, changed, deleted = counts
    return inserted, changed, deleted
