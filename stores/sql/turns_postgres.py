"""The hot verbs of TurnStore on Postgres: statements written by hand, through psycopg, in few round trips."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from lash_tasks.domain.ids import BatchId, effect_scope, fence_scope
from lash_tasks.domain.journal import EffectState, JournalRow, RecordReply, RecordVerdict
from lash_tasks.domain.queue import MAX_BATCHES_PER_CLAIM, BatchState, encode_joined
from lash_tasks.stores.protocols import (
    CheckpointRefused,
    CheckpointRequest,
    CheckpointTaken,
    CommitRefused,
    Committed,
    NotOpened,
    OpenedTurn,
    OpenRequest,
    TurnCommit,
)
from lash_tasks.stores.sql import statements_postgres as sql
from lash_tasks.stores.sql.caller_connections import OwnConnection
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.pipeline import Statement, pipelined
from lash_tasks.stores.sql.rows import (
    INLINE_OUTCOME_BYTES,
    all_nodes,
    batch_record,
    content_bytes,
    node_kind,
    recorded_effect,
    short_key,
    stored_node,
    turn_intent,
)
from lash_tasks.stores.sql.session_changes import apply_changes

_log = logging.getLogger(__name__)

_VALUE_REFUSED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded, UnicodeError)


class PostgresTurns:
    """`open`, `record`, `checkpoint` and `commit` of TurnStore."""

    def __init__(self, database: Database, worker_ttl_ms: int) -> None:
        self._database = database
        self._worker_ttl_ms = worker_ttl_ms

    def open(self, request: OpenRequest) -> OpenedTurn | NotOpened:
        scope = fence_scope(request.session_id)
        turn: Mapping[str, object] = {
            "scope": scope,
            "session_id": request.session_id,
            "worker": request.worker,
            "worker_ttl_ms": self._worker_ttl_ms,
            "agents": list(request.agents),
            "agent_refs": list(request.agents.values()),
            "refs": [*request.agents.values(), *request.refs],
            "machine_version": request.machine_version,
            "known_revision": request.known_revision,
            "now_ms": self._database.now_override(),
        }
        with self._database.postgres() as connection:
            _, _, _, [opened], batches, history, _ = pipelined(
                connection,
                [
                    (sql.BEGIN, {}),
                    (sql.MAKE_FENCE, turn),
                    (sql.LOCK_FENCE, turn),
                    (sql.OPEN, turn),
                    (sql.OPENED_BATCHES, turn),
                    (sql.OPENED_HISTORY, turn),
                    (sql.COMMIT, {}),
                ],
            )
            if opened["turn_id"] is None:
                return NotOpened(opened["otherwise"])
            intent, journal = turn_intent(opened), []
            claimed = intent.batch_ids
            whole = request.known_revision < max(opened["path_revision"], 1)
            if opened["resumed"]:
                scope = effect_scope(intent.session_id, intent.turn_id)
                of_turn = {"session_id": intent.session_id, "turn_id": intent.turn_id, "effect_scope": scope}
                journal, batches_of = pipelined(connection, [(sql.JOURNAL, of_turn), (sql.CLAIMED, of_turn)])
                claimed = tuple(BatchId(row["id"]) for row in batches_of)
            if whole and opened["branched"]:
                [history] = pipelined(connection, [(sql.BRANCHED_HISTORY, turn)])
        return OpenedTurn(
            intent=intent,
            resumed=opened["resumed"],
            fence=opened["fence"],
            attempt=opened["attempt"],
            batches=tuple(map(batch_record, batches)),
            claimed=claimed,
            journal=tuple(recorded_effect(row, intent) for row in journal),
            history=tuple(map(stored_node, history)),
            whole=whole,
            frame_id=opened["frame_id"],
            spec=opened["spec"],
            cancel=batches[0]["cancel"],
            joinable=batches[0]["joinable"],
        )

    def record(self, rows: Sequence[JournalRow], *, wait: bool) -> list[RecordReply]:
        return [reply for part in _without_repeats(rows) for reply in self._record(part, wait=wait and len(rows) == 1)]

    def _record(self, rows: Sequence[JournalRow], *, wait: bool) -> list[RecordReply]:
        """Write rows of distinct keys; when a value is refused, halve until the culprit is alone."""
        try:
            with self._database.postgres() as connection:
                statement = sql.RECORD_WAITING if wait else sql.RECORD
                [replies] = pipelined(connection, [(statement, self._journal_parameters(rows))])
        except _VALUE_REFUSED as error:
            if len(rows) == 1:
                _log.error(
                    "journal row refused by the database",
                    extra={"session_id": rows[0].session_id, "turn_id": rows[0].turn_id, "error": type(error).__name__},
                )
                return [RecordReply(RecordVerdict.REFUSED)]
            half = len(rows) // 2
            return self._record(rows[:half], wait=wait) + self._record(rows[half:], wait=wait)
        return [
            RecordReply(RecordVerdict(reply["verdict"]), bool(reply["cancel"]), bool(reply["joinable"]))
            for reply in replies
        ]

    def _journal_parameters(self, rows: Sequence[JournalRow]) -> Mapping[str, object]:
        return {
            "fence_scopes": list({fence_scope(row.session_id) for row in rows}),
            "session_ids": [row.session_id for row in rows],
            "turn_ids": [row.turn_id for row in rows],
            "keys": [short_key(row.replay_key, row.session_id, row.turn_id) for row in rows],
            "ordinals": [row.ordinal for row in rows],
            "fences": [row.fence for row in rows],
            "states": [row.state.value for row in rows],
            "envelopes": [row.envelope for row in rows],
            "outcomes": [row.outcome for row in rows],
            "inline": INLINE_OUTCOME_BYTES,
            "now_ms": self._database.now_override(),
        }

    def checkpoint(self, request: CheckpointRequest) -> CheckpointTaken | CheckpointRefused:
        asked: dict[str, object] = {
            "scope": fence_scope(request.session_id),
            "effect_scope": effect_scope(request.session_id, request.turn_id),
            "session_id": request.session_id,
            "turn_id": request.turn_id,
            "fence": request.fence,
            "replay_key": short_key(request.row.replay_key, request.session_id, request.turn_id),
            "agent": request.agent,
            "context_digest": request.context_digest,
            "limit": min(request.limit, MAX_BATCHES_PER_CLAIM),
            "now_ms": self._database.now_override(),
        }
        with self._database.postgres() as connection:
            _, _, [state], candidates = pipelined(
                connection,
                [
                    (sql.BEGIN, {}),
                    (sql.LOCK_FENCE, asked),
                    (sql.CHECKPOINT_STATE, asked),
                    (sql.CHECKPOINT_BATCHES, asked),
                ],
            )
            if not state["ours"]:
                return CheckpointRefused.FENCED
            if state["recorded"]:
                return CheckpointRefused.EXISTS
            if not candidates:
                return CheckpointRefused.EMPTY
            batches = tuple(
                replace(batch_record(row), state=BatchState.CLAIMED, turn_id=request.turn_id) for row in candidates
            )
            row = replace(
                request.row,
                session_id=request.session_id,
                turn_id=request.turn_id,
                fence=request.fence,
                state=EffectState.DONE,
                outcome=encode_joined(batches),
            )
            pipelined(
                connection,
                [
                    (sql.CLAIM, {"turn_id": request.turn_id, "seqs": [batch.seq for batch in batches]}),
                    (sql.RECORD_WAITING, self._journal_parameters([row])),
                    (sql.COMMIT, {}),
                ],
            )
        return CheckpointTaken(batches)

    def commit(self, commit: TurnCommit) -> Committed | CommitRefused:
        parameters = _commit_parameters(commit) | {"now_ms": self._database.now_override()}
        first: list[Statement] = [(sql.BEGIN, {})] if commit.changes_session else []
        with self._database.postgres() as connection:
            *_, [landed] = pipelined(connection, [*first, (sql.COMMIT_TURN, parameters)])
            revision, now_ms = landed["revision"], landed["committed_at_ms"]
            if revision is not None and commit.changes_session:
                if not apply_changes(OwnConnection(connection), commit, revision, now_ms):
                    return CommitRefused.CONFLICT
                pipelined(connection, [(sql.COMMIT, {})])
            if revision is not None:
                return Committed(revision, now_ms, landed["more"] or commit.follow_up is not None)
            if landed["ours"]:
                if commit.refuse_if_joinable and landed["joinable"]:
                    return CommitRefused.JOINABLE
                heads = pipelined(connection, [(sql.HEAD_AS_PINNED, parameters)])[-1]
                return CommitRefused.CLAIM_EXPIRED if heads else CommitRefused.HEAD_CONFLICT
            [turns] = pipelined(connection, [(sql.STAMP, parameters)])
        stamp = turns[0]["stamp"] if turns else None
        if stamp is None:
            return CommitRefused.FENCED
        return CommitRefused.ALREADY if stamp == commit.stamp else CommitRefused.TURN_CONFLICT


def _commit_parameters(commit: TurnCommit) -> dict[str, Any]:
    nodes = all_nodes(commit)
    return {
        "scope": fence_scope(commit.session_id),
        "session_id": commit.session_id,
        "turn_id": commit.turn_id,
        "fence": commit.fence,
        "turn_index": commit.turn_index,
        "base_revision": commit.base_revision,
        "batch_ids": list(commit.batch_ids),
        "refuse_if_joinable": commit.refuse_if_joinable,
        "agent": commit.agent,
        "context_digest": commit.context_digest,
        "node_ids": [node.node_id for node in nodes],
        "parent_ids": [node.parent_id for node in nodes],
        "frame_ids": [node.frame_id for node in nodes],
        "messages": [content_bytes(node) for node in nodes],
        "node_kinds": [node_kind(node) for node in nodes],
        "leaf_revision": None if commit.leaf is None else commit.leaf.revision,
        "leaf_ordinal": None if commit.leaf is None else commit.leaf.ordinal,
        "usage_keys": [short_key(entry.effect_key, commit.session_id, commit.turn_id) for entry in commit.usage],
        "usage_sources": [entry.source for entry in commit.usage],
        "usage_models": [entry.model for entry in commit.usage],
        "usage_input": [entry.usage.input_tokens for entry in commit.usage],
        "usage_output": [entry.usage.output_tokens for entry in commit.usage],
        "usage_cached": [entry.usage.cached_input_tokens for entry in commit.usage],
        "usage_reasoning": [entry.usage.reasoning_tokens for entry in commit.usage],
        "stamp": commit.stamp,
        "outcome": commit.outcome,
        "result": commit.result,
        "batch_state": (BatchState.CONSUMED if commit.dead_reason is None else BatchState.DEAD).value,
        "dead_reason": commit.dead_reason,
        "goes_on": commit.follow_up is not None,
    }


def _without_repeats(rows: Sequence[JournalRow]) -> Iterator[list[JournalRow]]:
    """The rows in order, in parts within which no replay key of a turn comes twice."""
    part: list[JournalRow] = []
    keys: set[tuple[str, str, str]] = set()
    for row in rows:
        key = (row.session_id, row.turn_id, row.replay_key)
        if key in keys:
            yield part
            part, keys = [], set()
        part.append(row)
        keys.add(key)
    if part:
        yield part
