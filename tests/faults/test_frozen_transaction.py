"""A process stops in the middle of a transaction: it is paused, or its machine is gone.

The story: a sender that cancels an input, or a turn at a checkpoint, locks rows and asks a second time before it
commits. Stopped in between, it kept its locks for as long as it was paused (for hours, if nobody told the database
that its machine was gone), and every worker that wanted the session ran into its lock timeout again and again.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from sqlalchemy import insert, select, update

from lash_tasks.errors import StoreUnavailable
from lash_tasks.stores.sql.engine import Database
from lash_tasks.stores.sql.tables import fences, metadata
from tests.services import wait_until

pytestmark = pytest.mark.timeout(120)


def test_whoever_stops_in_mid_transaction_loses_its_locks(postgres_url: str) -> None:
    stopped, other = Database.open(postgres_url), Database.open(postgres_url)
    take = update(fences).where(fences.c.scope == "session:s").values(fence=fences.c.fence + 1)

    def got_in() -> bool:
        try:
            with other.transaction() as connection:
                connection.execute(take)
        except StoreUnavailable:
            return False
        return True

    try:
        with other.transaction() as connection:
            metadata.create_all(connection)
            connection.execute(insert(fences).values(scope="session:s", fence=0))
        with ExitStack() as transaction:
            transaction.enter_context(stopped.transaction()).execute(take)
            wait_until(got_in, 40, "the other to get the lock")
            with pytest.raises(StoreUnavailable):
                transaction.close()
        with other.reading() as connection:
            assert connection.execute(select(fences.c.fence)).scalar_one() == 1
    finally:
        stopped.close()
        other.close()
