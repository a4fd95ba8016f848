"""Workers say which agents, in which version, they have the code for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_agents_of_workers"
down_revision = "0001_first_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("lash_workers", sa.Column("agents", sa.Text, nullable=False, server_default="{}"))
    op.add_column("lash_workers", sa.Column("machine_version", sa.SmallInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("lash_workers", "machine_version")
    op.drop_column("lash_workers", "agents")
