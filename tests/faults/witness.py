"""A witness in the database of a run: triggers of the test's own that note whoever writes what is not his any more.

The journal says under which fence a row stands and cannot say what the session's fence was at that moment. The
triggers see both, in the writer's transaction, whatever its statement looks at: what was written and, apart from it,
what was about to be and found its key there already.
"""

from __future__ import annotations

from sqlalchemy import text as sql

from lash_tasks.client import Client
from tests.faults.evidence import StaleWrite

CONNECTION_NAME = "lash-worker:{pid}"
"""What a connection is called whose process is to be held to the turns that it holds."""

# A turn's fence is its session's while it runs; the commit raises that of the session alone. Who opens a turn raises
# both, so whatever leaves a running turn's fence as it is comes from the process that holds it.
_INSTALL = r"""
CREATE TABLE witness (session_id text NOT NULL, turn_id text NOT NULL, what text NOT NULL, written boolean NOT NULL);

CREATE FUNCTION witness_effect() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  session text = regexp_replace(NEW.scope, '/[^/]*$', '');
  now_at bigint = (SELECT f.fence FROM lash_fences f WHERE f.scope = session);
BEGIN
  IF NEW.fence IS DISTINCT FROM now_at THEN
    INSERT INTO witness VALUES (substr(session, length('session:') + 1), substr(NEW.scope, length(session) + 2),
      format('%s written under the fence %s when it was %s', NEW.replay_key, NEW.fence, now_at), TG_WHEN = 'AFTER');
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER witness_try BEFORE INSERT ON lash_effects FOR EACH ROW EXECUTE FUNCTION witness_effect();
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON lash_effects FOR EACH ROW EXECUTE FUNCTION witness_effect();

CREATE FUNCTION witness_turn() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  now_at bigint = (SELECT f.fence FROM lash_fences f WHERE f.scope = 'session:' || NEW.session_id);
  ends boolean = NEW.status <> 'running';
  writer text = substring(current_setting('application_name') FROM '^lash-worker:(\d+)$');
  holder text;
BEGIN
  IF TG_OP = 'UPDATE' THEN
    IF OLD.status <> 'running' THEN
      RETURN NULL;
    END IF;
    IF OLD.fence = NEW.fence THEN
      holder = substring(OLD.holder FROM ':(\d+):');
    END IF;
  END IF;
  IF now_at IS DISTINCT FROM NEW.fence + ends::int THEN
    INSERT INTO witness VALUES (NEW.session_id, NEW.turn_id,
      format('%s with the fence %s when that of the session was %s', NEW.status, NEW.fence, now_at), true);
  END IF;
  IF holder <> writer THEN
    INSERT INTO witness VALUES (NEW.session_id, NEW.turn_id,
      format('left %s by the process %s while %s held it', NEW.status, writer, holder), true);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON lash_turns FOR EACH ROW EXECUTE FUNCTION witness_turn()"""


def install(client: Client) -> None:
    """Watch the journals and turns of this PostgreSQL database from now on."""
    with client.stores.database.transaction() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(_INSTALL)


def stale_writes(client: Client) -> list[StaleWrite]:
    """All that was written so. Nothing is, as long as every writer is held to the fence."""
    with client.stores.database.reading() as connection:
        rows = connection.execute(sql("SELECT session_id, turn_id, what FROM witness WHERE written"))
        return [StaleWrite(session=row.session_id, turn_id=row.turn_id, what=row.what) for row in rows]


def stale_attempts(client: Client) -> int:
    """How many journal rows were about to be written so, those included that were there already."""
    with client.stores.database.reading() as connection:
        return int(connection.execute(sql("SELECT count(*) FROM witness WHERE NOT written")).scalar_one())
