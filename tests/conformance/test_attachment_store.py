"""`AttachmentStore`: which session refers to which bytes, and the end of bytes that nobody refers to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from lash_tasks.domain.founding import NewSession
from lash_tasks.domain.ids import BlobRef, MessageId, SessionId, blob_ref
from lash_tasks.domain.inputs import Blob
from lash_tasks.domain.messages import ImagePart, Message, Role, TextPart
from lash_tasks.domain.sessions import Node, chain
from lash_tasks.stores.protocols import Collected, OpenedTurn, Pruning, StateWrite
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.attachments import SqlAttachmentStore
from lash_tasks.stores.sql.blobs import SqlBlobStore
from lash_tasks.stores.sql.queue import SqlInputQueue
from lash_tasks.stores.sql.registry import SqlSessionRegistry
from lash_tasks.stores.sql.sessions import SqlSessionStore
from lash_tasks.stores.sql.work import SqlWorkStore
from tests.conformance.arrange import SESSION, Scene
from tests.conformance.inputs import OTHER_SESSION, draft, serve, start_and_wait

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PRUNING = Pruning(keys_after_ms=7 * DAY_MS)


class Album:
    """Sessions with pictures."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.store = SqlAttachmentStore(scene.database)
        self.blobs = SqlBlobStore(scene.database)
        self.queue = SqlInputQueue(scene.database)
        self.sessions = SqlSessionStore(scene.database)
        self.work = SqlWorkStore(scene.database)
        serve(scene.database)

    def send(self, *pictures: bytes, session_id: SessionId = SESSION) -> None:
        blobs = tuple(Blob(blob_ref(picture), picture) for picture in pictures)
        self.queue.enqueue(draft(session_id, agent="support", blobs=blobs))

    def answer(self, *pictures: bytes, session_id: SessionId = SESSION) -> OpenedTurn:
        """A turn whose user message shows these pictures."""
        opened = self.scene.open(session_id=session_id)
        stamp = f"stamp-{opened.intent.turn_index}"
        self.scene.committed(opened, nodes=shows(opened, *pictures), stamp=stamp)
        return opened

    def wait(self, ms: int) -> None:
        self.scene.clock.advance(ms / 1000)

    def collect(self) -> Collected:
        """A pass over all blobs, well after everything was put."""
        self.wait(2 * HOUR_MS)
        return self.store.gc(HOUR_MS)

    def stored(self) -> set[bytes]:
        return {row["content"] for row in self.scene.rows(tables.blobs)}

    def uncommitted(self, older_than_ms: int = 0) -> list[tuple[str, BlobRef]]:
        return [(each.session_id, each.ref) for each in self.store.uncommitted(older_than_ms)]


def shows(opened: OpenedTurn, *pictures: bytes) -> tuple[Node, ...]:
    images = tuple(ImagePart(blob_ref(picture), "image/png", "a") for picture in pictures)
    index = opened.intent.turn_index
    return chain((Message(MessageId(f"m{index}.0"), Role.USER, (TextPart("look"), *images)),), None)


@pytest.fixture
def album(scene: Scene) -> Album:
    return Album(scene)


# ---------------------------------------------------------------- the manifest


@pytest.mark.shows("T17")
def test_what_turns_have_committed_is_listed_once_and_in_order(album: Album) -> None:
    album.send(b"two", b"one")
    assert album.store.committed(SESSION) == []
    opened = album.answer(b"two", b"one", b"two")
    album.send(b"one")
    album.answer(b"one")
    assert album.store.committed(SESSION) == sorted((blob_ref(b"one"), blob_ref(b"two")))
    assert opened.intent.turn_index == 1
    assert album.uncommitted() == []


@pytest.mark.shows("T17")
def test_what_was_put_and_never_committed_is_listed_until_it_is_forgotten(album: Album) -> None:
    album.send(b"picture")
    album.wait(1000)
    assert album.uncommitted(older_than_ms=1001) == []
    assert album.uncommitted(older_than_ms=1000) == [(SESSION, blob_ref(b"picture"))]
    assert album.store.forget(SESSION, blob_ref(b"picture"))
    assert not album.store.forget(SESSION, blob_ref(b"picture"))
    assert album.uncommitted() == []


def test_what_a_turn_has_committed_is_not_forgotten(album: Album) -> None:
    album.send(b"picture")
    album.answer(b"picture")
    assert not album.store.forget(SESSION, blob_ref(b"picture"))


@pytest.mark.shows("T17")
def test_the_same_bytes_in_two_sessions_go_when_both_are_gone(album: Album) -> None:
    for session_id in (SESSION, OTHER_SESSION):
        album.send(b"picture", session_id=session_id)
        album.answer(b"picture", session_id=session_id)
    album.sessions.delete(SESSION)
    assert album.collect() == Collected(roots=1, retained=1, deleted=0)
    assert album.blobs.get(blob_ref(b"picture")) == b"picture"
    album.sessions.delete(OTHER_SESSION)
    assert album.collect() == Collected(roots=0, retained=0, deleted=1)


def test_what_a_turn_shows_without_having_been_sent_is_kept_too(album: Album) -> None:
    album.blobs.put([b"generated"])
    album.scene.send()
    album.answer(b"generated")
    assert album.collect().deleted == 0
    assert album.store.committed(SESSION) == [blob_ref(b"generated")]


# ---------------------------------------------------------------- collecting


def test_the_young_are_left_alone_and_every_put_makes_young_again(album: Album) -> None:
    album.blobs.put([b"a", b"b"])
    album.wait(HOUR_MS)
    assert album.store.gc(HOUR_MS) == Collected(roots=0, retained=2, deleted=0)
    album.blobs.put([b"a"])
    album.wait(1)
    assert album.store.gc(HOUR_MS) == Collected(roots=0, retained=1, deleted=1)
    assert album.stored() == {b"a"}


@pytest.mark.shows("G12", "C3")
def test_states_are_kept_as_long_as_they_stand_and_carried_without_their_bodies(album: Album) -> None:
    for number, states in enumerate([(StateWrite("a", 1, b"one"),), (), (StateWrite("a", 2, b"two"),)], 1):
        album.scene.send()
        album.scene.committed(album.scene.open(), states=states, stamp=f"stamp-{number}")
        if number == 2:
            assert album.collect() == Collected(roots=1, retained=1, deleted=0)
    assert album.collect() == Collected(roots=1, retained=1, deleted=1)
    assert album.stored() == {b"two"}


def test_large_outcomes_are_kept_with_their_journal(album: Album) -> None:
    album.scene.send()
    opened = album.scene.open()
    large = b"x" * 200_000
    album.scene.record(opened, outcome=large)
    assert album.collect().deleted == 0
    album.scene.committed(opened)
    album.wait(1)
    album.work.prune(Pruning(keys_after_ms=7 * DAY_MS, journals_after_ms=0))
    assert album.scene.count(tables.effects) == 0
    assert album.collect().deleted + album.collect().retained == 0
    assert album.stored() == set()


@pytest.mark.shows("G12")
@pytest.mark.parametrize("unreadable", ["lash_attachments", "lash_states", "lash_effects"])
def test_nothing_is_deleted_when_what_refers_cannot_be_read(album: Album, unreadable: str) -> None:
    album.blobs.put([b"nobody's"])
    album.wait(2 * HOUR_MS)
    with album.scene.database.transaction() as connection:
        connection.execute(text(f"ALTER TABLE {unreadable} RENAME TO elsewhere"))
    with pytest.raises(DBAPIError):
        album.store.gc(HOUR_MS)
    assert album.stored() == {b"nobody's"}


def test_blobs_of_before_there_was_a_manifest_are_kept_also_when_they_are_put_again(album: Album) -> None:
    """Whoever referred to them then did not say so."""
    album.send(b"old", session_id=OTHER_SESSION)
    with album.scene.database.transaction() as connection:
        connection.execute(tables.blobs.update().values(touched_at_ms=0))
        connection.execute(tables.attachments.delete())
    album.send(b"old")
    album.blobs.put([b"old"])
    album.sessions.delete(SESSION)
    assert album.collect() == Collected(roots=0, retained=1, deleted=0)


def test_passes_go_on_where_the_last_has_ended_and_begin_again(album: Album) -> None:
    pictures = [b"%d" % number for number in range(5)]
    album.blobs.put(pictures)
    album.wait(2 * HOUR_MS)
    album.send(*pictures[:3])
    looked = [album.store.gc(HOUR_MS, limit=2) for _ in range(6)]
    assert sum(each.deleted for each in looked) == 2
    assert album.stored() == set(pictures[:3])
    assert album.store.gc(HOUR_MS, limit=0) == Collected(0, 0, 0)


def test_a_collector_begins_where_it_is_told_and_goes_on_at_the_start(album: Album) -> None:
    """All began at the first blob. Where workers lived for less than a round, those at the end were never looked at."""
    refs = sorted(map(blob_ref, (b"%d" % number for number in range(5))))
    album.blobs.put([b"%d" % number for number in range(5)])
    album.wait(2 * HOUR_MS)
    left = [set(refs[:3]), set(refs[1:3]), set(refs[1:3])]
    collector = SqlAttachmentStore(album.scene.database, refs[2])
    for limit, expected in zip((2, 1, 0), left, strict=True):
        collector.gc(HOUR_MS, limit)
        assert {row["ref"] for row in album.scene.rows(tables.blobs)} == expected
    assert SqlAttachmentStore(album.scene.database, refs[1]).gc(HOUR_MS, 5) == Collected(0, 0, 2)


def test_a_sender_in_an_open_transaction_and_a_collector_do_not_miss_each_other(
    album: Album, beside: ThreadPoolExecutor
) -> None:
    if album.scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    album.blobs.put([b"picture"])
    album.wait(2 * HOUR_MS)
    sent = draft(agent="support", blobs=(Blob(blob_ref(b"picture"), b"picture"),))
    with album.scene.database.transaction() as connection:
        album.queue.enqueue_with(connection, sent)
        assert album.store.gc(HOUR_MS).deleted == 0
    assert album.store.gc(HOUR_MS).deleted == 0
    assert album.collect() == Collected(roots=1, retained=1, deleted=0)


def test_a_sender_that_comes_while_the_bytes_are_deleted_puts_them_again(
    album: Album, beside: ThreadPoolExecutor
) -> None:
    if album.scene.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    album.blobs.put([b"picture"])
    with album.scene.database.transaction() as connection:
        connection.execute(tables.blobs.delete())
        sending = start_and_wait(album.scene.database, beside, lambda: album.send(b"picture"))
    sending.result(timeout=30)
    assert album.stored() == {b"picture"}


# ---------------------------------------------------------------- pruning


def test_pruning_lets_go_of_what_no_turn_will_commit_and_of_its_bytes(album: Album) -> None:
    batch = draft(agent="support", blobs=(Blob(blob_ref(b"cancelled"), b"cancelled"),))
    album.queue.enqueue(batch)
    album.send(b"waiting", session_id=OTHER_SESSION)
    album.queue.cancel(SESSION, batch.id)
    album.wait(8 * DAY_MS)
    album.work.prune(PRUNING)
    assert album.stored() == {b"waiting"}
    assert album.uncommitted() == [(OTHER_SESSION, blob_ref(b"waiting"))]


def test_pruning_leaves_what_a_dead_letter_may_bring_again(album: Album) -> None:
    album.send(b"picture")
    album.scene.committed(album.scene.open(), dead_reason="attempts_exhausted")
    album.wait(8 * DAY_MS)
    album.work.prune(PRUNING)
    assert album.stored() == {b"picture"}


def test_pruning_lets_go_of_no_more_at_once_than_it_may_however_many_sessions_show_a_picture(album: Album) -> None:
    for number in range(5):
        batch = draft(SessionId(f"session-{number}"), blobs=(Blob(blob_ref(b"logo"), b"logo"),))
        album.queue.enqueue(batch)
        album.queue.cancel(batch.session_id, batch.id)
    album.wait(8 * DAY_MS)
    pruning = Pruning(keys_after_ms=7 * DAY_MS, workers_after_ms=365 * DAY_MS)
    passes = [(album.work.prune(pruning, limit=2), album.scene.count(tables.attachments)) for _ in range(4)]
    assert passes == [(2 + 2, 3), (2 + 2, 1), (1 + 1 + 1, 0), (0, 0)]
    assert album.stored() == set()


def test_of_blobs_more_is_looked_at_than_may_go(album: Album) -> None:
    """Most of them are in use, so a store with many would take months to be gone through."""
    pictures = [b"%d" % number for number in range(20)]
    used = sorted(pictures, key=blob_ref)[:-1]
    album.blobs.put(pictures)
    album.send(*used)
    album.wait(8 * DAY_MS)
    assert album.work.prune(PRUNING, limit=2) == 1
    assert album.stored() == set(used)


def test_images_of_what_was_hidden_for_good_go_with_it_unless_they_are_shown_again(album: Album) -> None:
    album.send(b"passport", b"logo")
    album.answer(b"passport", b"logo")
    SqlSessionRegistry(album.scene.database).begin_anew(NewSession(session_id=SESSION), 1)
    album.wait(4 * DAY_MS)
    album.send(b"logo")
    album.answer(b"logo")
    album.work.prune(PRUNING)
    assert album.stored() == {b"passport", b"logo"}
    album.wait(4 * DAY_MS)
    album.work.prune(PRUNING)
    assert album.stored() == {b"logo"}
    assert album.store.committed(SESSION) == [blob_ref(b"logo")]


def test_a_grace_of_less_than_an_hour_is_an_hour(album: Album) -> None:
    album.blobs.put([b"picture"])
    album.wait(HOUR_MS - 1000)
    assert album.work.prune(Pruning(keys_after_ms=DAY_MS, blobs_after_ms=0)) == 0
    album.wait(2000)
    assert album.work.prune(Pruning(keys_after_ms=DAY_MS, blobs_after_ms=0)) == 1
