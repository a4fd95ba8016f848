"""Content-addressed bytes in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text

from lash_tasks.domain.ids import BlobRef, blob_ref
from lash_tasks.errors import NotFound
from lash_tasks.stores.sql.attachments import TOUCH
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.tables import blobs

_PUT = f"""
INSERT INTO lash_blobs (ref, content, touched_at_ms) VALUES (:ref, :content, {{now}})
ON CONFLICT (ref) DO UPDATE SET {TOUCH}"""


class SqlBlobStore:
    """`BlobStore` on Postgres and SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, contents: Sequence[bytes]) -> list[BlobRef]:
        by_ref = {blob_ref(content): content for content in contents}
        now_ms = self._database.now_override()
        rows = [{"ref": ref, "content": by_ref[ref], "now_ms": now_ms} for ref in sorted(by_ref)]  # one order of locks
        if rows:
            with self._database.transaction() as connection:
                connection.execute(text(_PUT.format(now=self._database.now_sql)), rows)
        return [blob_ref(content) for content in contents]

    def get(self, ref: BlobRef) -> bytes:
        with self._database.reading() as connection:
            content = connection.execute(select(blobs.c.content).where(blobs.c.ref == ref)).scalar_one_or_none()
        if content is None:
            raise NotFound("blob", ref)
        return bytes(content)
