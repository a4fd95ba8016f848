"""`SessionRegistry`: how sessions come to be, fork, begin anew and are found again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from lash_tasks.domain.founding import Preview
from lash_tasks.domain.frames import FrameStatus, initial_frame_id, read_seeds
from lash_tasks.domain.ids import BlobRef, CallId, MessageId, ReplayKey, SessionId
from lash_tasks.domain.messages import ImagePart, Message, Origin, Role, TextPart, ToolResultPart, text_of
from lash_tasks.domain.policies import read_spec
from lash_tasks.domain.sessions import chain
from lash_tasks.domain.usage import TokenUsage, UsageEntry, UsageTotal
from lash_tasks.errors import HeadRevisionConflict, NotFound, SessionAlreadyExists, SessionBusy, SessionDeleted
from lash_tasks.stores.protocols import (
    CheckpointRefused,
    CommitRefused,
    NotOpened,
)
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.frames import SqlFrameStore
from lash_tasks.stores.sql.graph import SqlGraphStore
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from lash_tasks.stores.sql.sessions import SqlSessionStore
from tests.conformance.arrange import ALICE, BOB, SESSION, Scene, node
from tests.conformance.founded import (
    CHILD,
    OTHER,
    committing_elsewhere,
    fork,
    last_index,
    live_through_everything,
    new,
    run_turn,
    said,
)
from tests.conformance.inputs import draft, serve, start_and_wait


@pytest.fixture
def registry(scene: Scene) -> SqlSessionRegistry:
    serve(scene.database)
    return SqlSessionRegistry(scene.database)


@pytest.fixture
def sessions(scene: Scene) -> SqlSessionStore:
    return SqlSessionStore(scene.database)


# ---------------------------------------------------------------- coming to be


@pytest.mark.raises_code("session_already_exists")
@pytest.mark.shows("S3")
def test_a_session_is_created_once_and_keeps_its_first_meta(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    assert sessions.head(CHILD) is None
    created = registry.create(new(name="Kim's order"))
    assert (created.name, created.created_at_ms, created.head_revision) == ("Kim's order", scene.clock.now_ms(), 0)
    before = scene.everything()
    with pytest.raises(SessionAlreadyExists):
        registry.create(new(name="another"))
    assert scene.everything() == before
    run_turn(scene, 1, CHILD)
    head = sessions.head(CHILD)
    assert head is not None
    assert head.name == "Kim's order"


@pytest.mark.shows("S3")
def test_deleting_twice_is_fine(registry: SqlSessionRegistry, sessions: SqlSessionStore) -> None:
    registry.create(new())
    assert sessions.delete(CHILD)
    assert sessions.delete(CHILD)
    assert not sessions.delete(OTHER)


def test_a_user_may_rename_a_session(registry: SqlSessionRegistry, sessions: SqlSessionStore) -> None:
    registry.create(new(name="first"))
    assert registry.rename(CHILD, "second")
    head = sessions.head(CHILD)
    assert head is not None
    assert head.name == "second"
    assert not registry.rename(OTHER, "third")


@pytest.mark.shows("S4")
def test_meta_round_trips_with_the_relation_and_its_cause(
    registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    registry.create(new(SESSION))
    cause = {"kind": "tool_call", "call_id": "call_1"}
    created = registry.create(new(parent_id=SESSION, caused_by=cause, usage_source="research", name="a child"))
    assert created == sessions.head(CHILD)
    assert created.relation == {"kind": "child", "parent_session_id": SESSION, "caused_by": cause}
    assert (created.parent_id, created.usage_source) == (SESSION, "research")
    root = sessions.head(SESSION)
    assert root is not None
    assert root.relation == {"kind": "root"}


@pytest.mark.shows("S14")
def test_an_id_that_was_only_sent_to_exists(scene: Scene, registry: SqlSessionRegistry) -> None:
    scene.send(session_id=CHILD)
    before = scene.everything()
    with pytest.raises(SessionAlreadyExists):
        registry.create(new())
    assert scene.everything() == before


@pytest.mark.shows("S14")
def test_of_many_that_create_one_session_one_wins(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore, beside: ThreadPoolExecutor
) -> None:
    def create(number: int) -> bool:
        try:
            registry.create(new(name=f"by {number}", seeds=read_seeds([f"for {number}"])))
        except SessionAlreadyExists:
            return False
        return True

    before = scene.everything()
    won = list(beside.map(create, range(8)))
    assert won.count(True) == 1
    head = sessions.head(CHILD)
    assert head is not None
    assert (head.name, head.head_revision) == (f"by {won.index(True)}", 1)
    assert said(sessions, CHILD) == [f"for {won.index(True)}"]
    added = {name: len(rows) - len(before[name]) for name, rows in scene.everything().items()}
    assert {name: count for name, count in added.items() if count} == {
        "lash_fences": 1,
        "lash_nodes": 1,
        "lash_sessions": 1,
    }


def test_a_parent_or_source_that_is_not_there_is_refused(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    with pytest.raises(NotFound):
        registry.create(fork())
    registry.create(new(SESSION))
    sessions.delete(SESSION)
    with pytest.raises(SessionDeleted):
        registry.create(fork())
    assert sessions.head(CHILD) is None


# ---------------------------------------------------------------- children and how sessions are shown


@pytest.mark.shows("S15")
def test_a_child_has_the_spec_of_its_parent_with_its_own_over_it(registry: SqlSessionRegistry) -> None:
    registry.create(new(SESSION, spec=read_spec({"model": "openai:large", "tools": ["look", "charge"]})))
    child = registry.create(new(parent_id=SESSION, spec=read_spec({"tools": ["look"]})))
    assert child.spec.as_json() == {"model": "openai:large", "tools": ["look"]}
    alone = registry.create(new(OTHER, parent_id=SESSION, spec=read_spec({"inherit": False, "max_turns": 2})))
    assert alone.spec.as_json() == {"max_turns": 2}


def test_children_are_found_oldest_first_without_the_deleted(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    registry.create(new(SESSION))
    for name in ("c2", "c1", "c3"):
        registry.create(new(SessionId(name), parent_id=SESSION))
        scene.clock.advance(1)
    sessions.delete(SessionId("c1"))
    assert [child.session_id for child in registry.children(SESSION)] == ["c2", "c3"]
    sessions.delete(SESSION)
    assert sessions.head(SessionId("c2")) is not None
    assert [child.session_id for child in registry.children(SESSION)] == ["c2", "c3"]


def test_previews_tell_how_sessions_began(scene: Scene, registry: SqlSessionRegistry) -> None:
    registry.create(new(seeds=read_seeds(["where is\nit?", {"role": "assistant", "text": "there"}, "thanks"])))
    registry.create(new(OTHER))
    assert registry.previews([CHILD, OTHER]) == {CHILD: Preview("where is\nit?", 2), OTHER: Preview()}


SAID = [
    Message(MessageId("a"), Role.ASSISTANT, (TextPart("hello", {"role": "user"}),)),
    Message(MessageId("b"), Role.USER, (ToolResultPart(CallId("1"), "look", '"type":"text"'),)),
    Message(MessageId("c"), Role.USER, (TextPart("go on"),), Origin("runtime", batch_id="b1")),
    Message(MessageId("d"), Role.USER, (ImagePart(BlobRef("r"), "image/png", "a cat"), TextPart('"kind":"runtime"'))),
    Message(
        MessageId("e"), Role.USER, (TextPart("too"), ToolResultPart(CallId("1"), "look", "it")), Origin("injected")
    ),
    Message(MessageId("f"), Role.ASSISTANT, (TextPart('],"role":"user"},"v":1}'),)),
    Message(MessageId("g"), Role.USER, ()),
    Message(MessageId("h"), Role.EVENT, (TextPart("tick"),)),
]


def test_previews_count_what_users_have_said_and_nothing_else(scene: Scene, registry: SqlSessionRegistry) -> None:
    scene.send()
    scene.committed(scene.open(), nodes=chain(tuple(SAID), None))
    told = Preview()
    for message in SAID:
        told = told.with_message(message)
    assert (
        registry.previews([SESSION]) == {SESSION: told} == {SESSION: Preview('[Image attached]\n\n"kind":"runtime"', 2)}
    )


def test_the_agent_is_that_of_the_newest_input_or_the_one_it_was_created_for(
    scene: Scene, registry: SqlSessionRegistry
) -> None:
    assert registry.agent_of(CHILD) is None
    registry.create(new(spec=read_spec({"agent": "support"})))
    assert registry.agent_of(CHILD) == "support"
    scene.send(session_id=CHILD, agent="billing")
    assert registry.agent_of(CHILD) == "billing"


# ---------------------------------------------------------------- beginning anew


@pytest.mark.shows("S8")
def test_a_session_that_begins_anew_shows_only_what_is_new(scene: Scene, registry: SqlSessionRegistry) -> None:
    for number in (1, 2):
        run_turn(scene, number)
    head = registry.begin_anew(new(SESSION), 2)
    assert (head.head_revision, head.turn_index) == (3, 2)
    scene.send()
    turn = scene.open(known_revision=2)
    assert (turn.whole, turn.history) == (True, ())
    scene.committed(turn, nodes=(node(3, "said 3"),))
    scene.send()
    reopened = scene.open()
    assert [text_of(stored.node.message) for stored in reopened.history if stored.node.message] == ["said 3"]


@pytest.mark.raises_code("head_revision_conflict")
@pytest.mark.shows("S9")
def test_beginning_anew_against_another_commit_is_a_conflict(scene: Scene, registry: SqlSessionRegistry) -> None:
    run_turn(scene, 1)
    run_turn(scene, 2)
    before = scene.everything()
    with pytest.raises(HeadRevisionConflict) as conflict:
        registry.begin_anew(new(SESSION), 1)
    assert (conflict.value.expected, conflict.value.actual) == (1, 2)
    assert scene.everything() == before


@pytest.mark.shows("S9")
def test_beginning_anew_waits_for_a_commit_that_is_under_way_and_is_a_conflict_then(
    scene: Scene, registry: SqlSessionRegistry, database_url: str, beside: ThreadPoolExecutor
) -> None:
    run_turn(scene, 1)
    with committing_elsewhere(scene, database_url) as connection:
        beginning = start_and_wait(scene.database, beside, lambda: registry.begin_anew(new(SESSION), 1))
        connection.execute(update(tables.sessions).values(head_revision=2))
    with pytest.raises(HeadRevisionConflict) as conflict:
        beginning.result(30)
    assert conflict.value.actual == 2


@pytest.mark.shows("S8")
def test_a_session_with_a_branch_a_frame_and_states_begins_anew_without_them(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    revision = live_through_everything(scene)
    registry.begin_anew(new(SESSION), revision)
    [row] = scene.rows(tables.sessions)
    assert not row["branched"]  # its path is a range again
    assert sessions.states(SESSION) == []
    assert SqlGraphStore(scene.database).graph(SESSION).nodes == ()
    [frame] = SqlFrameStore(scene.database).frames(SESSION)
    assert (frame.frame_id, frame.status) == (initial_frame_id(SESSION), FrameStatus.ACTIVE)
    scene.send()
    turn = scene.open(known_revision=revision)
    assert (turn.frame_id, turn.whole, turn.history) == (None, True, ())
    scene.committed(turn, nodes=(node(9, "said 9"),))
    run_turn(scene, 10)
    assert said(sessions, SESSION) == ["said 9", "said 10"]


@pytest.mark.shows("S9")
def test_beginning_anew_during_a_turn_is_refused(scene: Scene, registry: SqlSessionRegistry) -> None:
    run_turn(scene, 1)
    scene.send()
    turn = scene.open()
    with pytest.raises(SessionBusy):
        registry.begin_anew(new(SESSION), 1)
    scene.committed(turn)


# ---------------------------------------------------------------- the end


@pytest.mark.shows("S17")
def test_deleting_removes_all_and_a_session_that_comes_to_be_again_goes_on_counting(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    registry.create(new(SESSION, name="old", spec=read_spec({"max_turns": 1}), seeds=read_seeds(["hello"])))
    run_turn(scene, 1, usage=(UsageEntry(ReplayKey("k"), "turn", "m", TokenUsage(5, 1)),))
    scene.send()
    fence = scene.fence()
    sessions.delete(SESSION)
    kept = {name for name, rows in scene.everything().items() if rows}
    assert kept <= {"lash_sessions", "lash_fences", "lash_agents", "lash_workers"}
    tomb = sessions.head(SESSION)
    assert tomb is not None
    assert (tomb.name, tomb.spec.as_json()) == (None, {})
    again = registry.create(new(SESSION))
    assert scene.fence() > fence
    assert (again.head_revision, again.turn_index, again.deleted_at_ms) == (3, 1, None)
    assert said(sessions, SESSION) == []
    run_turn(scene, 2)
    assert last_index(scene, SESSION) == 2
    assert said(sessions, SESSION) == ["said 2"]


@pytest.mark.shows("S17")
def test_deleting_a_session_with_a_branch_a_frame_and_states_leaves_none_of_them(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    live_through_everything(scene)
    before = {name for name, rows in scene.everything().items() if rows}
    assert before >= {"lash_frames", "lash_states"}
    sessions.delete(SESSION)
    kept = {name for name, rows in scene.everything().items() if rows}
    assert kept <= {"lash_sessions", "lash_fences", "lash_agents", "lash_workers", "lash_blobs"}


@pytest.mark.shows("S17", "S18")
def test_input_that_came_in_behind_a_deletion_is_not_there_when_the_session_comes_to_be_again(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    """It was being sent when the session was deleted, so that the deletion did not see it, and the session that was
    created under the id later answered it."""
    run_turn(scene, 1)
    sessions.delete(SESSION)
    scene.send("late")
    assert scene.try_open() is NotOpened.NOTHING
    registry.create(new(SESSION))
    assert scene.count(tables.batches) == 0
    assert scene.try_open() is NotOpened.NOTHING


@pytest.mark.shows("S18")
def test_a_turn_whose_session_was_deleted_and_created_again_writes_nothing(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    scene.send()
    turn = scene.open(ALICE)
    sessions.delete(SESSION)
    registry.create(new(SESSION))
    before = scene.everything()
    assert scene.commit(turn, nodes=(node(1),)) is CommitRefused.FENCED
    assert scene.record(turn) == "fenced"
    assert scene.checkpoint(turn) is CheckpointRefused.FENCED
    assert scene.everything() == before
    assert scene.try_open(BOB) is NotOpened.NOTHING


@pytest.mark.shows("S16")
def test_a_session_is_not_deleted_while_its_turn_runs_if_so_wished(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    scene.send()
    turn = scene.open()
    before = scene.everything()
    with pytest.raises(SessionBusy):
        sessions.delete(SESSION, only_if_idle=True)
    assert scene.everything() == before
    scene.committed(turn)
    assert sessions.delete(SESSION, only_if_idle=True)
    with pytest.raises(SessionDeleted):
        SqlInputQueue(scene.database).enqueue(draft())


# ---------------------------------------------------------------- no session is another


@pytest.mark.shows("S5")
def test_a_commit_for_another_session_than_the_one_opened_changes_neither(scene: Scene) -> None:
    scene.send()
    scene.send(session_id=OTHER)
    turn, other = scene.open(), scene.open(BOB, session_id=OTHER)
    before = scene.everything()
    assert scene.commit(turn, session_id=OTHER) in (CommitRefused.FENCED, CommitRefused.CLAIM_EXPIRED)
    assert scene.commit(turn, session_id=OTHER, fence=other.fence) is CommitRefused.CLAIM_EXPIRED
    assert scene.everything() == before
    scene.committed(turn)
    scene.committed(other)


@pytest.mark.shows("S6")
def test_a_session_is_opened_as_itself_and_with_its_own_history(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    run_turn(scene, 1)
    run_turn(scene, 2, OTHER)
    scene.send()
    scene.send(session_id=OTHER)
    for session_id, words in ((SESSION, "said 1"), (OTHER, "said 2")):
        turn = scene.open(session_id=session_id)
        assert turn.intent.session_id == session_id
        assert {batch.session_id for batch in turn.batches} == {session_id}
        assert [text_of(one.node.message) for one in turn.history if one.node.message] == [words]
    head = sessions.head(OTHER)
    assert head is not None
    assert head.session_id == OTHER


# ---------------------------------------------------------------- usage of children


@pytest.mark.shows("U4", "U8")
def test_the_usage_of_children_is_under_their_labels_and_counted_once_in_all(
    scene: Scene, registry: SqlSessionRegistry, sessions: SqlSessionStore
) -> None:
    registry.create(new(SESSION))
    registry.create(new(CHILD, parent_id=SESSION))
    registry.create(new(OTHER, parent_id=SESSION, usage_source="research"))
    registry.create(new(SessionId("grandchild"), parent_id=OTHER, usage_source="deeper"))
    for number, (name, usage) in enumerate(
        [
            (SESSION, TokenUsage(10, 1)),
            (CHILD, TokenUsage(cached_input_tokens=7)),
            (OTHER, TokenUsage(20, 2)),
            (SessionId("grandchild"), TokenUsage(30, 3)),
        ]
    ):
        run_turn(scene, number, name, usage=(UsageEntry(ReplayKey(f"k{number}"), "turn", "m", usage),))
    assert sessions.children_usage(SESSION) == [
        UsageTotal("child", "m", 1, TokenUsage(cached_input_tokens=7)),
        UsageTotal("research", "m", 2, TokenUsage(50, 5)),
    ]
    assert sessions.children_usage(OTHER) == [UsageTotal("deeper", "m", 1, TokenUsage(30, 3))]
    assert sessions.usage() == [UsageTotal("turn", "m", 4, TokenUsage(60, 6, 7))]
