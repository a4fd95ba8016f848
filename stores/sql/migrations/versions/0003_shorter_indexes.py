"""What every turn writes into indexes gets shorter: keys that most rows lack are partial, ids nobody looks up go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_shorter_indexes"
down_revision = "0002_agents_of_workers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("lash_nodes") as nodes:
        nodes.drop_constraint("uq_lash_nodes_session_id_node_id", type_="unique")
    with op.batch_alter_table("lash_batches") as batches:
        batches.drop_constraint("uq_lash_batches_replay_of", type_="unique")
    op.drop_index("ix_lash_batches_claimed", "lash_batches")
    op.drop_index("ix_lash_turns_holder", "lash_turns")  # running turns are few
    _partial("uq_lash_batches_replay_of", ["replay_of"], "replay_of IS NOT NULL", unique=True)
    _partial("ix_lash_batches_claimed", ["session_id"], "state = 'claimed'")


def downgrade() -> None:
    for name in ("ix_lash_batches_claimed", "uq_lash_batches_replay_of"):
        op.drop_index(name, "lash_batches")
    with op.batch_alter_table("lash_batches") as batches:
        batches.create_unique_constraint("uq_lash_batches_replay_of", ["replay_of"])
    _partial("ix_lash_batches_claimed", ["session_id", "turn_id"], "state = 'claimed'")
    _partial("ix_lash_turns_holder", ["holder"], "status = 'running'", table="lash_turns")
    with op.batch_alter_table("lash_nodes") as nodes:
        nodes.create_unique_constraint("uq_lash_nodes_session_id_node_id", ["session_id", "node_id"])


def _partial(name: str, columns: list[str], where: str, *, unique: bool = False, table: str = "lash_batches") -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)
