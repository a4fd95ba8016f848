"""`BlobStore`: bytes under the digest of themselves."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lash_tasks.domain.ids import BlobRef
from lash_tasks.errors import NotFound
from lash_tasks.stores.sql import tables
from lash_tasks.stores.sql.blobs import SqlBlobStore
from tests.conformance.arrange import Scene

CONTENTS = [b"", b"\x00\xff" * 100_000, "grüße".encode(), b"%s ? :name"]


@pytest.fixture
def blobs(scene: Scene) -> SqlBlobStore:
    return SqlBlobStore(scene.database)


def test_what_was_put_can_be_got_under_its_digest(blobs: SqlBlobStore) -> None:
    refs = blobs.put(CONTENTS)
    assert refs == [hashlib.sha256(content).hexdigest() for content in CONTENTS]
    assert [blobs.get(ref) for ref in refs] == CONTENTS


def test_the_same_bytes_are_stored_once(scene: Scene, blobs: SqlBlobStore) -> None:
    first = blobs.put([b"same", b"same", b"other"])
    assert blobs.put([b"same"]) == first[:1] == first[1:2]
    assert scene.count(tables.blobs) == 2
    assert [blobs.get(ref) for ref in first] == [b"same", b"same", b"other"]


def test_to_put_nothing_stores_nothing(scene: Scene, blobs: SqlBlobStore) -> None:
    assert blobs.put([]) == []
    assert scene.count(tables.blobs) == 0


@pytest.mark.raises_code("not_found")
def test_what_nobody_put_is_not_found(blobs: SqlBlobStore) -> None:
    with pytest.raises(NotFound, match="blob"):
        blobs.get(BlobRef("0" * 64))


def test_writers_of_the_same_bytes_in_another_order_do_not_block_each_other(scene: Scene, blobs: SqlBlobStore) -> None:
    together = threading.Barrier(2)

    def put(contents: list[bytes]) -> list[BlobRef]:
        together.wait(30)
        return blobs.put(contents)

    with ThreadPoolExecutor(2) as writers:
        for number in range(10):
            contents = [f"{number}/{part}".encode() for part in range(200)]
            forth, back = writers.map(put, [contents, contents[::-1]])
            assert forth == back[::-1]
    assert scene.count(tables.blobs) == 2000
