"""Content-addressed bytes in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text

from lash_tasks.domain.ids import BlobRef, blob_ref
from lash_tasks.errors import NotFound
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.tables import blobs

_PUT = text("INSERT INTO lash_blobs (ref, content) VALUES (:ref, :content) ON CONFLICT (ref) DO NOTHING")


class SqlBlobStore:
    """`BlobStore` on Postgres and SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, contents: Sequence[bytes]) -> list[BlobRef]:
        by_ref = {blob_ref(content): content for content in contents}
        rows = [{"ref": ref, "content": by_ref[ref]} for ref in sorted(by_ref)]  # so that two writers lock in one order
        if rows:
            with self._database.transaction() as connection:
                connection.execute(_PUT, rows)
        return [blob_ref(content) for content in contents]

    def get(self, ref: BlobRef) -> bytes:
        with self._database.reading() as connection:
            content = connection.execute(select(blobs.c.content).where(blobs.c.ref == ref)).scalar_one_or_none()
        if content is None:
            raise NotFound("blob", ref)
        return bytes(content)
