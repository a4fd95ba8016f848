"""All SQL tables, on Postgres and SQLite alike. Alembic owns their history; times are epoch milliseconds.

There are no foreign keys from the queue to sessions: a caller's open transaction must never stop a turn.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from lash_tasks.domain.journal import EffectState
from lash_tasks.domain.queue import BatchState
from lash_tasks.domain.turns import TurnStatus

PREFIX = "lash_"
VERSION_TABLE = "lash_alembic_version"
FOREVER_MS = 2**63 - 1

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column that is exactly INTEGER PRIMARY KEY.
_Sequence = BigInteger().with_variant(Integer(), "sqlite")


def _one_of(column: str, values: type[BatchState] | type[TurnStatus] | type[EffectState]) -> CheckConstraint:
    allowed = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


sessions = Table(
    "lash_sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("head_revision", BigInteger, nullable=False, server_default="0"),
    Column("turn_index", BigInteger, nullable=False, server_default="0"),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("deleted_at_ms", BigInteger),  # set: the tombstone of a deleted session
    Column("name", Text),  # NULL: the id
    Column("parent_id", Text),  # NULL: a root; else the session that this one is a child of
    Column("caused_by", Text),  # JSON, of a child
    Column("usage_source", Text),  # of a child: the label its usage has in the parent's report
    Column("spec", Text),  # JSON: what the session says over its agent's own policy; NULL: nothing
    Column("frame_id", Text),  # of the current frame; NULL: the initial one
    Column("path_revision", BigInteger, nullable=False, server_default="0"),  # last that did more than add to the path
    Column("visible_from", BigInteger, nullable=False, server_default="0"),  # first revision that the path may show
    Column("leaf_revision", BigInteger),  # NULL: the leaf is the last node
    Column("leaf_ordinal", Integer),
    Column("branched", Boolean, nullable=False, server_default=false()),  # not every node lies on the path
    Index(
        "ix_lash_sessions_parent_id",
        "parent_id",
        postgresql_where=text("parent_id IS NOT NULL"),
        sqlite_where=text("parent_id IS NOT NULL"),
    ),
)

frames = Table(
    "lash_frames",
    metadata,
    Column("session_id", Text, nullable=False),
    Column("frame_id", Text, nullable=False),
    Column("previous_id", Text),  # NULL: the initial frame, which has no row
    Column("reason", Text, nullable=False),
    Column("caused_by", Text),  # JSON
    Column("assignment", Text, nullable=False),  # JSON: what turns in this frame are given
    Column("opened_revision", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("session_id", "frame_id"),
)

states = Table(
    "lash_states",
    metadata,
    Column("session_id", Text, nullable=False),
    Column("name", Text, nullable=False),  # plugin:<id>, …
    Column("generation", BigInteger, nullable=False),
    Column("ref", Text, nullable=False, index=True),  # the body, a blob
    PrimaryKeyConstraint("session_id", "name"),
)

fences = Table(
    "lash_fences",
    metadata,
    Column("scope", Text, primary_key=True),  # session:<id>; never deleted, so that a fence never starts again
    Column("fence", BigInteger, nullable=False, server_default="0"),
)

workers = Table(
    "lash_workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("queues", Text, nullable=False),  # JSON array
    Column("version", Text, nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
    Column("agents", Text, nullable=False, server_default="{}"),  # JSON object: name to snapshot ref
    Column("machine_version", SmallInteger, nullable=False, server_default="0"),
)

agents = Table(
    "lash_agents",
    metadata,
    Column("name", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("snapshot", LargeBinary, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", "ref"),
)

nodes = Table(
    "lash_nodes",
    metadata,
    Column("session_id", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),  # of the commit that brought it
    Column("ordinal", Integer, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("parent_id", Text),  # NULL: a root
    Column("frame_id", Text),  # NULL: the initial frame
    Column("message", LargeBinary, nullable=False),
    Column("kind", Text),  # NULL: a message
    Column("parent_revision", BigInteger),  # NULL with a parent: it stands just before, in the same commit
    Column("parent_ordinal", Integer),
    Column("tombstoned_at_ms", BigInteger),  # set: hidden, until vacuum removes it
    PrimaryKeyConstraint("session_id", "revision", "ordinal"),
    Index(
        "ix_lash_nodes_tombstoned",
        "tombstoned_at_ms",
        postgresql_where=text("tombstoned_at_ms IS NOT NULL"),
        sqlite_where=text("tombstoned_at_ms IS NOT NULL"),
    ),
)

batches = Table(
    "lash_batches",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("session_id", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=BatchState.READY.value),
    Column("turn_id", Text),  # NULL until claimed; never taken back
    Column("source_key", Text),  # NULL: sent without an idempotency key
    Column("input_digest", Text, nullable=False),
    Column("context_digest", Text, nullable=False),
    Column("early", Boolean, nullable=False),
    Column("exclusive", Boolean, nullable=False),
    Column("merge_key", Text),  # NULL: never merges
    Column("available_at_ms", BigInteger, nullable=False),
    Column("enqueued_at_ms", BigInteger, nullable=False),
    Column("ended_at_ms", BigInteger),  # NULL until consumed, cancelled or dead
    Column("replay_of", Text),  # the dead batch whose input this is
    Column("payload", LargeBinary, nullable=False),
    Column("kind", Text),  # NULL: input of a user
    Column("urgent", Boolean, nullable=False, server_default=false()),  # goes before those that are not
    Column("quiet_ms", BigInteger),  # NULL: does not wait for others of its merge key to stop coming
    UniqueConstraint("session_id", "source_key"),
    _one_of("state", BatchState),
    Index(
        "ix_lash_batches_ready",
        "session_id",
        text("urgent DESC"),
        "seq",
        postgresql_where=text("state = 'ready'"),
        sqlite_where=text("state = 'ready'"),
    ),
    Index(
        "ix_lash_batches_quiet",
        "session_id",
        "merge_key",
        "seq",
        postgresql_where=text("state = 'ready' AND quiet_ms IS NOT NULL"),
        sqlite_where=text("state = 'ready' AND quiet_ms IS NOT NULL"),
    ),
    # Partial, because hardly any row has it; every row would be entered again with each change of its state.
    Index(
        "uq_lash_batches_replay_of",
        "replay_of",
        unique=True,
        postgresql_where=text("replay_of IS NOT NULL"),
        sqlite_where=text("replay_of IS NOT NULL"),
    ),
    Index(
        "ix_lash_batches_claimed",
        "session_id",
        postgresql_where=text("state = 'claimed'"),
        sqlite_where=text("state = 'claimed'"),
    ),
    Index(
        "ix_lash_batches_available",
        "available_at_ms",
        postgresql_where=text(f"state = 'ready' AND available_at_ms < {FOREVER_MS}"),  # see `conditions.is_listed`
        sqlite_where=text(f"state = 'ready' AND available_at_ms < {FOREVER_MS}"),
    ),
    Index(
        "ix_lash_batches_ended",
        "ended_at_ms",
        postgresql_where=text("ended_at_ms IS NOT NULL"),
        sqlite_where=text("ended_at_ms IS NOT NULL"),
    ),
)

dead_letters = Table(
    "lash_dead_letters",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("session_id", Text, nullable=False, index=True),
    Column("turn_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("died_at_ms", BigInteger, nullable=False),
)

turns = Table(
    "lash_turns",
    metadata,
    Column("session_id", Text, nullable=False),
    Column("turn_id", Text, nullable=False),
    Column("turn_index", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("base_revision", BigInteger, nullable=False),
    Column("batch_ids", Text, nullable=False),  # JSON array: the inputs of the intent, in order
    Column("agent", Text, nullable=False),
    Column("agent_ref", Text, nullable=False),
    Column("machine_version", SmallInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("holder", Text),  # NULL: given up on purpose; 'crashed': given up by a crash; else a worker
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("seen_effects", Integer, nullable=False, server_default="0"),  # recorded when it was last opened
    Column("admitted_at_ms", BigInteger, nullable=False),
    Column("committed_at_ms", BigInteger),
    Column("outcome", Text),
    Column("stamp", Text),
    Column("result", LargeBinary),
    Column("pruned_at_ms", BigInteger),  # NULL: its journal was not removed yet
    PrimaryKeyConstraint("session_id", "turn_id"),
    UniqueConstraint("session_id", "turn_index"),
    _one_of("status", TurnStatus),
    Index(
        "uq_lash_turns_unfinished",
        "session_id",
        unique=True,
        postgresql_where=text("status = 'running'"),
        sqlite_where=text("status = 'running'"),
    ),
    Index(
        "ix_lash_turns_journaled",
        "committed_at_ms",
        postgresql_where=text("status = 'committed' AND pruned_at_ms IS NULL"),
        sqlite_where=text("status = 'committed' AND pruned_at_ms IS NULL"),
    ),
)

turn_cancels = Table(
    "lash_turn_cancels",
    metadata,
    Column("session_id", Text, nullable=False),
    Column("turn_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_at_ms", BigInteger, nullable=False),
    # The input that interrupts, so that its sender meets no other; also of workers before 0004, which know none.
    Column("cause", Text, nullable=False, server_default="request"),
    PrimaryKeyConstraint("session_id", "turn_id", "cause"),
)

effects = Table(
    "lash_effects",
    metadata,
    Column("scope", Text, nullable=False),  # session:<id>/<turn id>
    Column("replay_key", Text, nullable=False),  # without session and turn, see rows.short_key
    Column("ordinal", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("outcome", LargeBinary),  # NULL while begun, and when outcome_ref holds it
    Column("outcome_ref", Text),  # a blob, when the outcome is over 64 kB
    PrimaryKeyConstraint("scope", "replay_key"),
    _one_of("state", EffectState),
    Index(
        "ix_lash_effects_outcome_ref",
        "outcome_ref",
        postgresql_where=text("outcome_ref IS NOT NULL"),
        sqlite_where=text("outcome_ref IS NOT NULL"),
    ),
)

usage = Table(
    "lash_usage",
    metadata,
    Column("session_id", Text, nullable=False),
    Column("effect_key", Text, nullable=False),  # short as well; the turn's index in it keeps turns apart
    Column("source", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("counted_at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("session_id", "effect_key"),
)

blobs = Table(
    "lash_blobs",
    metadata,
    Column("ref", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("touched_at_ms", BigInteger, nullable=False, server_default="0"),  # last put; 0: before this was written
)

attachments = Table(
    "lash_attachments",
    metadata,
    Column("session_id", Text, nullable=False),
    Column("ref", Text, nullable=False, index=True),  # the blob
    Column("intent_at_ms", BigInteger, nullable=False),  # written no later than the bytes
    Column("committed_at_ms", BigInteger),  # NULL until a turn has committed it
    PrimaryKeyConstraint("session_id", "ref"),
    Index(
        "ix_lash_attachments_uncommitted",
        "intent_at_ms",
        postgresql_where=text("committed_at_ms IS NULL"),
        sqlite_where=text("committed_at_ms IS NULL"),
    ),
)
