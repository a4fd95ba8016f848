"""Sessions have a policy, parents, frames and branches; input may be urgent, quiet or a command; blobs are counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_sessions_as_graphs"
down_revision = "0003_shorter_indexes"
branch_labels = None
depends_on = None


def _columns() -> tuple[tuple[str, tuple[sa.Column[object], ...]], ...]:
    return (
        (
            "lash_sessions",
            (
                sa.Column("name", sa.Text),
                sa.Column("parent_id", sa.Text),
                sa.Column("caused_by", sa.Text),
                sa.Column("usage_source", sa.Text),
                sa.Column("spec", sa.Text),
                sa.Column("frame_id", sa.Text),
                sa.Column("path_revision", sa.BigInteger, nullable=False, server_default="0"),
                sa.Column("visible_from", sa.BigInteger, nullable=False, server_default="0"),
                sa.Column("leaf_revision", sa.BigInteger),
                sa.Column("leaf_ordinal", sa.Integer),
                sa.Column("branched", sa.Boolean, nullable=False, server_default=sa.false()),
            ),
        ),
        (
            "lash_nodes",
            (
                sa.Column("kind", sa.Text),
                sa.Column("parent_revision", sa.BigInteger),
                sa.Column("parent_ordinal", sa.Integer),
                sa.Column("tombstoned_at_ms", sa.BigInteger),
            ),
        ),
        (
            "lash_batches",
            (
                sa.Column("kind", sa.Text),
                sa.Column("urgent", sa.Boolean, nullable=False, server_default=sa.false()),
                sa.Column("quiet_ms", sa.BigInteger),
            ),
        ),
        ("lash_blobs", (sa.Column("touched_at_ms", sa.BigInteger, nullable=False, server_default="0"),)),
    )


def upgrade() -> None:
    for table, columns in _columns():
        for column in columns:
            op.add_column(table, column)
    where = sa.text("parent_id IS NOT NULL")
    op.create_index(
        "ix_lash_sessions_parent_id", "lash_sessions", ["parent_id"], postgresql_where=where, sqlite_where=where
    )
    ready = sa.text("state = 'ready'")
    op.drop_index("ix_lash_batches_ready", "lash_batches")
    op.create_index(
        "ix_lash_batches_ready",
        "lash_batches",
        ["session_id", sa.text("urgent DESC"), "seq"],
        postgresql_where=ready,
        sqlite_where=ready,
    )
    _index_due_times("state = 'ready' AND available_at_ms < 9223372036854775807")
    quiet = sa.text("state = 'ready' AND quiet_ms IS NOT NULL")
    op.create_index(
        "ix_lash_batches_quiet",
        "lash_batches",
        ["session_id", "merge_key", "seq"],
        postgresql_where=quiet,
        sqlite_where=quiet,
    )
    op.create_table(
        "lash_frames",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("frame_id", sa.Text, nullable=False),
        sa.Column("previous_id", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("caused_by", sa.Text),
        sa.Column("assignment", sa.Text, nullable=False),
        sa.Column("opened_revision", sa.BigInteger, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "frame_id", name="pk_lash_frames"),
    )
    op.create_table(
        "lash_states",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "name", name="pk_lash_states"),
    )
    op.create_table(
        "lash_attachments",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("intent_at_ms", sa.BigInteger, nullable=False),
        sa.Column("committed_at_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("session_id", "ref", name="pk_lash_attachments"),
    )
    with op.batch_alter_table("lash_turn_cancels") as cancels:
        cancels.add_column(sa.Column("cause", sa.Text, nullable=False, server_default="request"))
        cancels.drop_constraint("pk_lash_turn_cancels", type_="primary")
        cancels.create_primary_key("pk_lash_turn_cancels", ["session_id", "turn_id", "cause"])
    op.create_index("ix_lash_states_ref", "lash_states", ["ref"])
    op.create_index("ix_lash_attachments_ref", "lash_attachments", ["ref"])
    for table, name, over, condition in _PARTIAL:
        where = sa.text(condition)
        op.create_index(name, table, [over], postgresql_where=where, sqlite_where=where)


def _index_due_times(condition: str) -> None:
    where = sa.text(condition)
    op.drop_index("ix_lash_batches_available", "lash_batches")
    op.create_index(
        "ix_lash_batches_available", "lash_batches", ["available_at_ms"], postgresql_where=where, sqlite_where=where
    )


_PARTIAL = (
    ("lash_attachments", "ix_lash_attachments_uncommitted", "intent_at_ms", "committed_at_ms IS NULL"),
    ("lash_effects", "ix_lash_effects_outcome_ref", "outcome_ref", "outcome_ref IS NOT NULL"),
    ("lash_nodes", "ix_lash_nodes_tombstoned", "tombstoned_at_ms", "tombstoned_at_ms IS NOT NULL"),
)


def downgrade() -> None:
    for table, name, *_ in _PARTIAL:
        op.drop_index(name, table)
    # What the columns told apart, older code would take for messages that are shown and for inputs of users.
    op.execute("DELETE FROM lash_nodes WHERE kind IS NOT NULL OR tombstoned_at_ms IS NOT NULL")
    op.execute("DELETE FROM lash_batches WHERE kind = 'command' AND state = 'ready'")
    op.execute(
        "DELETE FROM lash_turn_cancels WHERE EXISTS (SELECT 1 FROM lash_turn_cancels other"
        " WHERE other.session_id = lash_turn_cancels.session_id AND other.turn_id = lash_turn_cancels.turn_id"
        " AND other.cause < lash_turn_cancels.cause)"
    )
    with op.batch_alter_table("lash_turn_cancels") as cancels:
        cancels.drop_constraint("pk_lash_turn_cancels", type_="primary")
        cancels.drop_column("cause")
        cancels.create_primary_key("pk_lash_turn_cancels", ["session_id", "turn_id"])
    for table in ("lash_attachments", "lash_states", "lash_frames"):
        op.drop_table(table)
    op.drop_index("ix_lash_sessions_parent_id", "lash_sessions")
    op.drop_index("ix_lash_batches_quiet", "lash_batches")
    op.drop_index("ix_lash_batches_ready", "lash_batches")
    for table, columns in reversed(_columns()):
        with op.batch_alter_table(table) as altered:
            for column in reversed(columns):
                altered.drop_column(column.name)
    ready = sa.text("state = 'ready'")
    op.create_index(
        "ix_lash_batches_ready", "lash_batches", ["session_id", "seq"], postgresql_where=ready, sqlite_where=ready
    )
    _index_due_times("state = 'ready'")
