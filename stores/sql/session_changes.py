"""What a commit may change about a session besides adding to its history: rare, so one statement a change.

All of it runs in the commit's transaction, behind the lock of the fence, on Postgres and SQLite alike.
"""

from __future__ import annotations

from lash_tasks.domain.codec import canonical
from lash_tasks.domain.ids import blob_ref
from lash_tasks.stores.protocols import FollowUp, FrameOpening, PathChange, StateWrite, TurnCommit
from lash_tasks.stores.sql.attachments import TOUCH
from lash_tasks.stores.sql.caller_connections import CallerConnection, PortableStatement
from lash_tasks.stores.sql.rows import all_nodes, content_bytes, node_kind

# SQLAlchemy has no rows for a statement that returns none, so each returns something.
_PUT_BODY = PortableStatement.of(f"""
INSERT INTO lash_blobs (ref, content, touched_at_ms) VALUES (:ref, :content, :now_ms)
ON CONFLICT (ref) DO UPDATE SET {TOUCH} RETURNING ref""")
_COMMIT_ATTACHMENT = PortableStatement.of("""
UPDATE lash_attachments SET committed_at_ms = coalesce(committed_at_ms, :now_ms)
WHERE session_id = :session_id AND ref = :ref RETURNING ref""")
_TOUCH_BLOB = PortableStatement.of(
    "UPDATE lash_blobs SET touched_at_ms = :now_ms WHERE ref = :ref AND touched_at_ms > 0 RETURNING ref"
)
_ATTACH = PortableStatement.of("""
INSERT INTO lash_attachments (session_id, ref, intent_at_ms, committed_at_ms)
VALUES (:session_id, :ref, :now_ms, :now_ms) ON CONFLICT (session_id, ref) DO NOTHING RETURNING ref""")
_PUT_STATE = PortableStatement.of("""
INSERT INTO lash_states (session_id, name, generation, ref) VALUES (:session_id, :name, :generation, :ref)
ON CONFLICT (session_id, name) DO UPDATE SET generation = excluded.generation, ref = excluded.ref RETURNING name""")
_DROP_STATE = PortableStatement.of(
    "DELETE FROM lash_states WHERE session_id = :session_id AND name = :name RETURNING name"
)
_SET_SPEC = PortableStatement.of("UPDATE lash_sessions SET spec = :spec WHERE id = :session_id RETURNING id")
_OPEN_FRAME = PortableStatement.of("""
INSERT INTO lash_frames
  (session_id, frame_id, previous_id, reason, caused_by, assignment, opened_revision, created_at_ms)
VALUES (:session_id, :frame_id, :previous_id, :reason, :caused_by, :assignment, :revision, :now_ms)
ON CONFLICT (session_id, frame_id) DO NOTHING RETURNING frame_id""")
_ENTER_FRAME = PortableStatement.of(
    "UPDATE lash_sessions SET frame_id = :frame_id, path_revision = :revision WHERE id = :session_id RETURNING id"
)
_BEGIN_ANEW = PortableStatement.of("""
UPDATE lash_sessions SET path_revision = :revision, visible_from = :visible_from, branched = false,
  leaf_revision = NULL, leaf_ordinal = NULL
WHERE id = :session_id RETURNING id""")
_BRANCH = PortableStatement.of(
    """
UPDATE lash_sessions SET path_revision = :revision, visible_from = 0, branched = true,
  leaf_revision = :leaf_revision, leaf_ordinal = :leaf_ordinal, frame_id = (SELECT n.frame_id FROM lash_nodes n {at})
WHERE id = :session_id AND EXISTS (SELECT 1 FROM lash_nodes n {at})
RETURNING id""".format(
        at="WHERE n.session_id = :session_id AND n.revision = :leaf_revision AND n.ordinal = :leaf_ordinal"
        " AND n.tombstoned_at_ms IS NULL"
    )
)
_THERE = """
SELECT n.node_id, n.kind, n.message, n.tombstoned_at_ms FROM lash_nodes n
WHERE n.session_id = :session_id AND n.revision < :revision AND n.node_id IN (SELECT given.value FROM {ids})"""
_THERE_POSTGRES = PortableStatement.of(
    _THERE.format(ids="json_array_elements_text(CAST(:node_ids AS json)) AS given (value)")
)
_THERE_SQLITE = PortableStatement.of(_THERE.format(ids="json_each(:node_ids) AS given"))
_TAKE_BACK = PortableStatement.of(
    "DELETE FROM lash_nodes WHERE session_id = :session_id AND revision = :revision AND node_id = :node_id"
    " RETURNING node_id"
)
_REVIVE = PortableStatement.of("""
UPDATE lash_nodes SET tombstoned_at_ms = NULL
WHERE session_id = :session_id AND node_id = :node_id RETURNING node_id""")
_PATH_CHANGED = PortableStatement.of(
    "UPDATE lash_sessions SET path_revision = :revision WHERE id = :session_id RETURNING id"
)
_HANG_FIRST = PortableStatement.of("""
UPDATE lash_nodes SET parent_revision = :leaf_revision, parent_ordinal = :leaf_ordinal
WHERE session_id = :session_id AND revision = :revision AND ordinal = (
  SELECT min(n.ordinal) FROM lash_nodes n WHERE n.session_id = :session_id AND n.revision = :revision)
RETURNING node_id""")
_KEEP_LEAF = PortableStatement.of("""
UPDATE lash_sessions SET leaf_revision = :leaf_revision, leaf_ordinal = :leaf_ordinal
WHERE id = :session_id AND branched RETURNING id""")
_PUT_BATCH = PortableStatement.of("""
INSERT INTO lash_batches (id, session_id, agent, state, turn_id, source_key, input_digest, context_digest, early,
  exclusive, merge_key, payload, available_at_ms, enqueued_at_ms)
VALUES (:id, :session_id, :agent, 'claimed', :turn_id, :source_key, :input_digest, :context_digest, :early,
  :exclusive, :merge_key, :payload, :now_ms, :now_ms) RETURNING id""")
_PUT_TURN = PortableStatement.of("""
INSERT INTO lash_turns (session_id, turn_id, turn_index, status, base_revision, batch_ids, agent, agent_ref,
  machine_version, fence, admitted_at_ms)
VALUES (:session_id, :turn_id, :turn_index, 'running', :revision, :batch_ids, :agent, :agent_ref,
  :machine_version, :fence, :now_ms) RETURNING turn_id""")

_PASS_CANCEL_ON = PortableStatement.of("""
UPDATE lash_turn_cancels SET turn_id = :turn_id WHERE session_id = :session_id AND turn_id = :before
RETURNING turn_id""")


def apply_changes(connection: CallerConnection, commit: TurnCommit, revision: int, now_ms: int) -> bool:
    """Apply what the commit changes. False if something does not fit: then the transaction has to be rolled back."""
    session: dict[str, object] = {"session_id": commit.session_id, "revision": revision, "now_ms": now_ms}
    if commit.given and not _settle_given(connection, session, commit):
        return False
    for ref in commit.attachments:
        _attach(connection, {**session, "ref": ref})
    for state in sorted(commit.states, key=_ref):  # one order of locks
        _write_state(connection, session, state)
    if commit.spec is not None:
        connection.run(_SET_SPEC, {**session, "spec": commit.spec.spec})
    fits = True
    if commit.frame is not None:
        fits = _open_frame(connection, session, commit.frame)
    if fits and commit.path is not None:
        fits = _change_path(connection, session, commit.path, revision)
    if fits and commit.follow_up is not None:
        _put_follow_up(connection, session, commit, commit.follow_up)
    return fits


def _settle_given(connection: CallerConnection, session: dict[str, object], commit: TurnCommit) -> bool:
    """Take back what the commit has added a second time. False if an id is that of another content."""
    given = {node.node_id: (node_kind(node), content_bytes(node)) for node in commit.given}
    if len({node.node_id for node in all_nodes(commit)}) < len(all_nodes(commit)):
        return False
    ids = {**session, "node_ids": canonical(list(given)).decode()}
    there = connection.run(_THERE_POSTGRES if connection.dialect == "postgresql" else _THERE_SQLITE, ids)
    if any(given[node_id] != (kind, bytes(content)) for node_id, kind, content, _hidden in there):
        return False
    for node_id, _kind, _content, hidden in there:
        connection.run(_TAKE_BACK, {**session, "node_id": node_id})
        if hidden is not None:
            connection.run(_REVIVE, {**session, "node_id": node_id})
            connection.run(_PATH_CHANGED, session)
    if there:
        hanging = {
            "leaf_revision": commit.leaf and commit.leaf.revision,
            "leaf_ordinal": commit.leaf and commit.leaf.ordinal,
        }
        if not connection.run(_HANG_FIRST, {**session, **hanging}):
            connection.run(_KEEP_LEAF, {**session, **hanging})
    return True


def _attach(connection: CallerConnection, attachment: dict[str, object]) -> None:
    """Stamp what an input has announced. What comes in another way is announced here; only then is the blob locked."""
    if not connection.run(_COMMIT_ATTACHMENT, attachment):
        connection.run(_TOUCH_BLOB, attachment)
        connection.run(_ATTACH, attachment)


def _write_state(connection: CallerConnection, session: dict[str, object], state: StateWrite) -> None:
    named = {**session, "name": state.name}
    if state.body is None:
        connection.run(_DROP_STATE, named)
        return
    body = {"ref": _ref(state), "content": state.body, "generation": state.generation}
    connection.run(_PUT_BODY, {**named, **body})
    connection.run(_PUT_STATE, {**named, **body})


def _ref(state: StateWrite) -> str:
    return "" if state.body is None else blob_ref(state.body)


def _open_frame(connection: CallerConnection, session: dict[str, object], frame: FrameOpening) -> bool:
    row = {
        **session,
        "frame_id": frame.frame_id,
        "previous_id": frame.previous_id,
        "reason": frame.reason,
        "caused_by": frame.caused_by,
        "assignment": frame.assignment,
    }
    if not connection.run(_OPEN_FRAME, row):
        return False
    connection.run(_ENTER_FRAME, row)
    return True


def _change_path(connection: CallerConnection, session: dict[str, object], path: PathChange, revision: int) -> bool:
    if path.leaf is None:
        return bool(connection.run(_BEGIN_ANEW, {**session, "visible_from": revision + 1}))
    leaf = {"leaf_revision": path.leaf.revision, "leaf_ordinal": path.leaf.ordinal}
    return bool(connection.run(_BRANCH, {**session, **leaf}))


def _put_follow_up(
    connection: CallerConnection, session: dict[str, object], commit: TurnCommit, follow_up: FollowUp
) -> None:
    draft = follow_up.batch
    batch = {
        **session,
        "id": draft.id,
        "turn_id": follow_up.turn_id,
        "agent": draft.agent,
        "source_key": draft.source_key,
        "input_digest": draft.input_digest,
        "context_digest": draft.context_digest,
        "early": draft.early,
        "exclusive": draft.exclusive,
        "merge_key": draft.merge_key,
        "payload": draft.payload,
    }
    connection.run(_PUT_BATCH, batch)
    turn = {
        **session,
        "turn_id": follow_up.turn_id,
        "turn_index": commit.turn_index + 1,
        "batch_ids": canonical([draft.id]).decode(),
        "agent": draft.agent,
        "agent_ref": follow_up.agent_ref,
        "machine_version": follow_up.machine_version,
        "fence": commit.fence + 1,  # what the commit has raised it to
    }
    connection.run(_PUT_TURN, turn)
    # Who asked this turn to stop, and came too late for it, did not mean that its run should go on.
    connection.run(_PASS_CANCEL_ON, {**turn, "before": commit.turn_id})
