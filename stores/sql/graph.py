"""The whole history of sessions in SQL: reading along paths and beside them, hiding nodes and removing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, Text, delete, literal, select, text, tuple_, update

from lash_tasks.domain.ids import NodeId, SessionId
from lash_tasks.domain.sessions import Place, SessionGraph, StoredNode
from lash_tasks.stores.sql.conditions import has_no_turn, now_of
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.fencing import lock_fence
from lash_tasks.stores.sql.paths import CURRENT_LEAF, GIVEN_LEAF, ON_PATH, WALK
from lash_tasks.stores.sql.rows import Row, stored_node
from lash_tasks.stores.sql.tables import nodes, sessions

_PATH_TO_LEAF = text(f"WITH RECURSIVE {CURRENT_LEAF}, {WALK} {ON_PATH} ORDER BY n.revision, n.ordinal")
_LAST_ON_PATH = text(
    f"WITH RECURSIVE {CURRENT_LEAF}, {WALK} {ON_PATH} ORDER BY n.revision DESC, n.ordinal DESC LIMIT 1"
)
_PATH_TO_NODE = text(f"WITH RECURSIVE {GIVEN_LEAF}, {WALK} {ON_PATH} ORDER BY n.revision, n.ordinal")
_IN_ORDER = (nodes.c.revision, nodes.c.ordinal)


class SqlGraphStore:
    """`GraphStore` on Postgres and SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ------------------------------------------------------------ reading

    def graph(self, session_id: SessionId) -> SessionGraph:
        with self._database.reading() as connection:
            stored = _shown(connection, session_id)
            path = shown_path(connection, session_id)
        return SessionGraph(tuple(stored), path[-1].node.node_id if path else None)

    def path(self, session_id: SessionId, leaf: NodeId | None = None) -> SessionGraph:
        with self._database.reading() as connection:
            if leaf is None:
                path = shown_path(connection, session_id)
            else:
                found = _shown(connection, session_id, nodes.c.node_id == leaf)
                path = shown_path(connection, session_id, found[0].place) if found else []
        return SessionGraph(tuple(path), path[-1].node.node_id if path else None)

    def leaf(self, session_id: SessionId) -> StoredNode | None:
        with self._database.reading() as connection:
            session = _session(connection, session_id)
            if session is None:
                return None
            if session["branched"]:
                last = connection.execute(_LAST_ON_PATH, {"session_id": session_id})
            else:
                shown = select(nodes).where(
                    nodes.c.session_id == session_id,
                    nodes.c.revision >= session["visible_from"],
                    nodes.c.tombstoned_at_ms.is_(None),
                )
                last = connection.execute(shown.order_by(*(column.desc() for column in _IN_ORDER)).limit(1))
            row = last.mappings().one_or_none()
        return None if row is None else stored_node(row)

    def node(self, session_id: SessionId, node_id: NodeId) -> StoredNode | None:
        with self._database.reading() as connection:
            found = _shown(connection, session_id, nodes.c.node_id == node_id)
        return found[0] if found else None

    def orphans(self, session_id: SessionId) -> list[NodeId]:
        with self._database.reading() as connection:
            stored = _shown(connection, session_id)
            on_path = {each.place for each in shown_path(connection, session_id)}
        return [each.node.node_id for each in stored if each.place not in on_path]

    def taken(self, session_id: SessionId, node_ids: Collection[str]) -> set[str]:
        query = select(nodes.c.node_id).where(nodes.c.session_id == session_id, nodes.c.node_id.in_(node_ids))
        with self._database.reading() as connection:
            return set(connection.execute(query).scalars())

    # ------------------------------------------------------------ hiding and removing

    def tombstone(self, session_id: SessionId, node_ids: Collection[NodeId]) -> int:
        hide = (
            update(nodes)
            .where(nodes.c.session_id == session_id, nodes.c.node_id.in_(node_ids), nodes.c.tombstoned_at_ms.is_(None))
            .values(tombstoned_at_ms=self._database.now())
        )
        # A turn that runs now has read what is hidden here. So it is what comes after that turn that reads all anew.
        forget = update(sessions).where(sessions.c.id == session_id)
        with self._database.transaction() as connection:
            lock_fence(connection, session_id)
            hidden = connection.execute(hide).rowcount
            if hidden:
                connection.execute(forget.values(path_revision=sessions.c.head_revision + 2))
        return hidden

    def vacuum(self, session_id: SessionId) -> int:
        with self._database.transaction() as connection:
            return _remove(connection, session_id, [nodes.c.tombstoned_at_ms.is_not(None)])

    def remove_old(self, after_ms: int, limit: int) -> int:
        """Vacuum what was hidden so long ago, in whatever session; at most `limit` nodes."""
        old = nodes.c.tombstoned_at_ms < now_of(self._database) - after_ms
        free = has_no_turn(nodes.c.session_id)
        query = select(nodes.c.session_id).where(old, free).order_by(nodes.c.tombstoned_at_ms).limit(limit)
        with self._database.reading() as connection:
            found = Counter(connection.execute(query).scalars())
        removed = 0
        for session_id, count in found.items():
            with self._database.transaction() as connection:
                removed += _remove(connection, SessionId(session_id), [old], count)
        return removed


def shown_path(connection: Connection, session_id: SessionId, leaf: Place | None = None) -> list[StoredNode]:
    """The way to `leaf`, or to the session's own, of all frames."""
    if leaf is not None:
        at = {"session_id": session_id, "leaf_revision": leaf.revision, "leaf_ordinal": leaf.ordinal}
        return [stored_node(row) for row in connection.execute(_PATH_TO_NODE, at).mappings()]
    session = _session(connection, session_id)
    if session is None:
        return []
    if not session["branched"]:
        return _shown(connection, session_id, nodes.c.revision >= session["visible_from"])
    return [stored_node(row) for row in connection.execute(_PATH_TO_LEAF, {"session_id": session_id}).mappings()]


def shown_history(connection: Connection, session_id: SessionId, after_revision: int) -> list[StoredNode]:
    """What the session's next turn sees: of the path to its leaf what lies in its current frame."""
    session = _session(connection, session_id)
    if session is None:
        return []
    if session["branched"]:
        path = shown_path(connection, session_id)
        in_frame = [stored for stored in path if stored.node.frame_id == session["frame_id"]]
        return [stored for stored in in_frame if stored.revision > after_revision]
    return _shown(
        connection,
        session_id,
        nodes.c.revision >= max(session["visible_from"], after_revision + 1),
        nodes.c.frame_id.is_not_distinct_from(session["frame_id"]),
    )


def frame_history(connection: Connection, session_id: SessionId, frame_id: str | None) -> list[StoredNode]:
    """What a frame shows, or showed when it was left, oldest first. None: the initial frame."""
    in_frame = nodes.c.frame_id.is_not_distinct_from(frame_id)
    session = _session(connection, session_id)
    if session is None:
        return []
    current = session["frame_id"] == frame_id
    if not session["branched"]:  # what was left is still to be looked at when the path has begun anew
        first_revision = session["visible_from"] if current else 0
        return _shown(connection, session_id, in_frame, nodes.c.revision >= first_revision)
    if current:
        path = shown_path(connection, session_id)
    else:
        last = _shown(connection, session_id, in_frame)[-1:]
        path = shown_path(connection, session_id, last[0].place) if last else []
    return [stored for stored in path if stored.node.frame_id == frame_id]


def _session(connection: Connection, session_id: SessionId) -> Row | None:
    return connection.execute(select(sessions).where(sessions.c.id == session_id)).mappings().one_or_none()


def _shown(connection: Connection, session_id: SessionId, *conditions: ColumnElement[bool]) -> list[StoredNode]:
    query = select(nodes).where(nodes.c.session_id == session_id, nodes.c.tombstoned_at_ms.is_(None), *conditions)
    return [stored_node(row) for row in connection.execute(query.order_by(*_IN_ORDER)).mappings()]


# ---------------------------------------------------------------- removing


def _remove(
    connection: Connection, session_id: SessionId, hidden: list[ColumnElement[bool]], limit: int | None = None
) -> int:
    """Remove hidden nodes of the session; how many. None while a turn runs: its commit hangs from the leaf it has read.

    Commits are chains that hang from one another by their first nodes. So a commit that loses its first node hands the
    place on, and what hangs from a commit of which nothing is left hangs from what that one hung from.
    """
    lock_fence(connection, session_id)
    if not connection.execute(select(has_no_turn(literal(session_id, Text)))).scalar_one():
        return 0
    picked = select(*_IN_ORDER).where(nodes.c.session_id == session_id, *hidden).limit(limit)
    gone = {(row.revision, row.ordinal) for row in connection.execute(picked)}
    if not gone:
        return 0
    commits: dict[int, list[Row]] = {}
    of_them = nodes.c.revision.in_({revision for revision, _ in gone})
    whole = select(nodes).where(nodes.c.session_id == session_id, of_them).order_by(*_IN_ORDER)
    for row in connection.execute(whole).mappings():
        commits.setdefault(row["revision"], []).append(row)
    for revision, rows in sorted(commits.items(), reverse=True):  # so that what hangs from several of them moves on
        left = [row for row in rows if (revision, row["ordinal"]) not in gone]
        if left == rows[: len(left)] and left:
            continue
        heirs = update(nodes).where(nodes.c.session_id == session_id)
        if left:
            heirs = heirs.where(nodes.c.revision == revision, nodes.c.ordinal == left[0]["ordinal"])
        else:
            heirs = heirs.where(nodes.c.parent_revision == revision)
        connection.execute(heirs.values(_hanging(connection, rows[0])))
    _keep_leaf(connection, session_id)
    removed = delete(nodes).where(nodes.c.session_id == session_id, tuple_(*_IN_ORDER).in_(gone))
    return connection.execute(removed).rowcount


def _keep_leaf(connection: Connection, session_id: SessionId) -> None:
    """Let a branched session stand at the last node that it shows, be the ones behind it removed or not."""
    session = _session(connection, session_id)
    if session is None or not session["branched"]:
        return
    path = shown_path(connection, session_id)
    if path:
        leaf: dict[str, object] = {"leaf_revision": path[-1].revision, "leaf_ordinal": path[-1].ordinal}
    else:
        anew = session["head_revision"] + 1
        leaf = {"branched": False, "visible_from": anew, "leaf_revision": None, "leaf_ordinal": None}
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(leaf))


def _hanging(connection: Connection, row: Row) -> dict[str, object]:
    """Where a first node hangs, as columns."""
    hanging = {name: row[name] for name in ("parent_id", "parent_revision", "parent_ordinal")}
    if row["parent_id"] is not None and row["parent_revision"] is None:  # from before places were written
        earlier = select(*_IN_ORDER).where(nodes.c.session_id == row["session_id"], nodes.c.revision < row["revision"])
        place = connection.execute(earlier.order_by(*(column.desc() for column in _IN_ORDER)).limit(1)).first()
        if place is not None:
            hanging |= {"parent_revision": place.revision, "parent_ordinal": place.ordinal}
    return hanging
