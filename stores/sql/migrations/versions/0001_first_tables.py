"""The first tables: sessions, their fences and history, the queue, turns with their journal, workers, usage, blobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_first_tables"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lash_sessions",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("head_revision", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("turn_index", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("deleted_at_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lash_sessions")),
    )
    op.create_table(
        "lash_fences",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_lash_fences")),
    )
    op.create_table(
        "lash_workers",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("queues", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("started_at_ms", sa.BigInteger, nullable=False),
        sa.Column("seen_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lash_workers")),
    )
    op.create_table(
        "lash_agents",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("snapshot", sa.LargeBinary, nullable=False),
        sa.Column("seen_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", "ref", name=op.f("pk_lash_agents")),
    )
    op.create_table(
        "lash_nodes",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Text),
        sa.Column("frame_id", sa.Text),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "revision", "ordinal", name=op.f("pk_lash_nodes")),
        sa.UniqueConstraint("session_id", "node_id", name=op.f("uq_lash_nodes_session_id_node_id")),
    )
    op.create_table(
        "lash_batches",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="ready"),
        sa.Column("turn_id", sa.Text),
        sa.Column("source_key", sa.Text),
        sa.Column("input_digest", sa.Text, nullable=False),
        sa.Column("context_digest", sa.Text, nullable=False),
        sa.Column("early", sa.Boolean, nullable=False),
        sa.Column("exclusive", sa.Boolean, nullable=False),
        sa.Column("merge_key", sa.Text),
        sa.Column("available_at_ms", sa.BigInteger, nullable=False),
        sa.Column("enqueued_at_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger),
        sa.Column("replay_of", sa.Text),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_lash_batches")),
        sa.UniqueConstraint("id", name=op.f("uq_lash_batches_id")),
        sa.UniqueConstraint("session_id", "source_key", name=op.f("uq_lash_batches_session_id_source_key")),
        sa.UniqueConstraint("replay_of", name=op.f("uq_lash_batches_replay_of")),
        sa.CheckConstraint(
            "state IN ('ready', 'claimed', 'consumed', 'cancelled', 'dead')", name=op.f("ck_lash_batches_state")
        ),
    )
    _partial_index("ix_lash_batches_ready", "lash_batches", ["session_id", "seq"], "state = 'ready'")
    _partial_index("ix_lash_batches_claimed", "lash_batches", ["session_id", "turn_id"], "state = 'claimed'")
    _partial_index("ix_lash_batches_available", "lash_batches", ["available_at_ms"], "state = 'ready'")
    _partial_index("ix_lash_batches_ended", "lash_batches", ["ended_at_ms"], "ended_at_ms IS NOT NULL")
    op.create_table(
        "lash_dead_letters",
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("died_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_lash_dead_letters")),
    )
    op.create_index("ix_lash_dead_letters_session_id", "lash_dead_letters", ["session_id"])
    op.create_table(
        "lash_turns",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("turn_index", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("base_revision", sa.BigInteger, nullable=False),
        sa.Column("batch_ids", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("agent_ref", sa.Text, nullable=False),
        sa.Column("machine_version", sa.SmallInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
        sa.Column("seen_effects", sa.Integer, nullable=False, server_default="0"),
        sa.Column("admitted_at_ms", sa.BigInteger, nullable=False),
        sa.Column("committed_at_ms", sa.BigInteger),
        sa.Column("outcome", sa.Text),
        sa.Column("stamp", sa.Text),
        sa.Column("result", sa.LargeBinary),
        sa.Column("pruned_at_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("session_id", "turn_id", name=op.f("pk_lash_turns")),
        sa.UniqueConstraint("session_id", "turn_index", name=op.f("uq_lash_turns_session_id_turn_index")),
        sa.CheckConstraint("status IN ('running', 'committed')", name=op.f("ck_lash_turns_status")),
    )
    _partial_index("uq_lash_turns_unfinished", "lash_turns", ["session_id"], "status = 'running'", unique=True)
    _partial_index("ix_lash_turns_holder", "lash_turns", ["holder"], "status = 'running'")
    _partial_index(
        "ix_lash_turns_journaled", "lash_turns", ["committed_at_ms"], "status = 'committed' AND pruned_at_ms IS NULL"
    )
    op.create_table(
        "lash_turn_cancels",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("requested_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "turn_id", name=op.f("pk_lash_turn_cancels")),
    )
    op.create_table(
        "lash_effects",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("replay_key", sa.Text, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("outcome", sa.LargeBinary),
        sa.Column("outcome_ref", sa.Text),
        sa.PrimaryKeyConstraint("scope", "replay_key", name=op.f("pk_lash_effects")),
        sa.CheckConstraint("state IN ('begun', 'done')", name=op.f("ck_lash_effects_state")),
    )
    op.create_table(
        "lash_usage",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("effect_key", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("counted_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "effect_key", name=op.f("pk_lash_usage")),
    )
    op.create_table(
        "lash_blobs",
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("ref", name=op.f("pk_lash_blobs")),
    )


def downgrade() -> None:
    for table in (
        "lash_blobs",
        "lash_usage",
        "lash_effects",
        "lash_turn_cancels",
        "lash_turns",
        "lash_dead_letters",
        "lash_batches",
        "lash_nodes",
        "lash_agents",
        "lash_workers",
        "lash_fences",
        "lash_sessions",
    ):
        op.drop_table(table)


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)
