"""The hot statements on Postgres. Each is one round trip, alone or in a pipeline; READ COMMITTED is assumed.

A statement that waits for the fence row sees every other table as of before the wait. So whatever is decided on rows
that a holder of the fence may have written is decided in a later statement than the one that locks.
"""

from __future__ import annotations

from typing import LiteralString

from lash_tasks.domain.ids import TURN_DIGITS
from lash_tasks.domain.queue import MAX_BATCHES_PER_CLAIM
from lash_tasks.stores.sql.attachments import TOUCH
from lash_tasks.stores.sql.claiming import IN_ORDER, PICK, WAITING_COLUMNS, waits_for_quiet
from lash_tasks.stores.sql.engine import POSTGRES_NOW
from lash_tasks.stores.sql.paths import PATH_AS_SHOWN

_NOW: LiteralString = f"coalesce(%(now_ms)s::bigint, {POSTGRES_NOW})"
_CLOCK: LiteralString = f"clock AS MATERIALIZED (SELECT {_NOW} AS now_ms)"
_DUE: LiteralString = f"""b.state = 'ready' AND b.available_at_ms <= (SELECT now_ms FROM clock)
  AND NOT {waits_for_quiet("(SELECT now_ms FROM clock)")}"""
_READY: LiteralString = f"b.session_id = %(session_id)s::text AND {_DUE}"

HAS_CODE: LiteralString = """(
      t.agent = ANY(%(agents)s::text[]) AND t.agent_ref = ANY(%(refs)s::text[])
        AND t.machine_version = %(machine_version)s::smallint
      OR EXISTS (SELECT 1 FROM lash_turn_cancels c WHERE c.session_id = t.session_id AND c.turn_id = t.turn_id))"""
"""Whether a worker may go on with turn `t`: `OpenRequest.has_code_for`, or a cancel, which any may heed."""

BEGIN: LiteralString = "BEGIN"
COMMIT: LiteralString = "COMMIT"

# ---------------------------------------------------------------- open

MAKE_FENCE: LiteralString = "INSERT INTO lash_fences (scope) VALUES (%(scope)s) ON CONFLICT (scope) DO NOTHING"
LOCK_FENCE: LiteralString = "SELECT fence FROM lash_fences WHERE scope = %(scope)s FOR NO KEY UPDATE"

_FACTS: LiteralString = "head_revision, turn_index, frame_id, spec, path_revision, branched"

# `locked` waits for a cancel that is under way and leaves out what it took; the turn's id comes from what is left. The
# empty string in it keeps the planner off the indexes of ready input, which look empty if it was when last analyzed.
# All writing hangs on `raised`: no fence raised, nothing written.
OPEN: LiteralString = f"""
WITH {_CLOCK},
unfinished AS MATERIALIZED (
  SELECT t.turn_id, t.holder,
    (t.holder IS NULL OR t.holder = %(worker)s::text OR NOT EXISTS (
      SELECT 1 FROM lash_workers w
      WHERE w.id = t.holder AND w.seen_at_ms > clock.now_ms - %(worker_ttl_ms)s::bigint)) AS free,
    {HAS_CODE} AS known,
    (SELECT count(*) FROM lash_effects e
     WHERE e.scope = %(scope)s::text || '/' || t.turn_id AND e.state = 'done')::int AS done
  FROM lash_turns t CROSS JOIN clock WHERE t.session_id = %(session_id)s::text AND t.status = 'running'),
waiting AS MATERIALIZED (
  SELECT {WAITING_COLUMNS} FROM lash_batches b
  WHERE {_READY} AND NOT EXISTS (SELECT 1 FROM unfinished)
    AND NOT EXISTS (
      SELECT 1 FROM lash_sessions s WHERE s.id = %(session_id)s::text AND s.deleted_at_ms IS NOT NULL)
  ORDER BY {IN_ORDER} LIMIT {MAX_BATCHES_PER_CLAIM}),
{PICK},
locked AS MATERIALIZED (
  SELECT b.seq, b.id, b.agent FROM lash_batches b
  WHERE b.seq IN (SELECT seq FROM picked) AND b.state || '' = 'ready' AND b.agent = ANY(%(agents)s::text[])
  FOR NO KEY UPDATE),
fresh AS MATERIALIZED (
  SELECT 'queue:' || left(encode(sha256(convert_to(string_agg(id, ',' ORDER BY seq), 'UTF8')), 'hex'), {TURN_DIGITS})
      AS turn_id,
    json_agg(id ORDER BY seq)::text AS batch_ids, min(agent) AS agent
  FROM locked HAVING count(*) > 0),
born AS (
  INSERT INTO lash_sessions (id, created_at_ms) SELECT %(session_id)s::text, clock.now_ms FROM fresh CROSS JOIN clock
  ON CONFLICT (id) DO NOTHING RETURNING {_FACTS}),
base AS MATERIALIZED (
  SELECT {_FACTS} FROM lash_sessions WHERE id = %(session_id)s::text UNION ALL SELECT {_FACTS} FROM born),
raised AS (
  UPDATE lash_fences SET fence = fence + 1 WHERE scope = %(scope)s::text
    AND (EXISTS (SELECT 1 FROM unfinished WHERE free AND known) OR EXISTS (SELECT 1 FROM fresh CROSS JOIN base))
  RETURNING fence),
claimed AS (
  UPDATE lash_batches b SET state = 'claimed', turn_id = fresh.turn_id
  FROM raised CROSS JOIN fresh CROSS JOIN locked WHERE b.seq = locked.seq),
started AS (
  INSERT INTO lash_turns (session_id, turn_id, turn_index, status, base_revision, batch_ids, agent, agent_ref,
    machine_version, fence, holder, admitted_at_ms)
  SELECT %(session_id)s::text, fresh.turn_id, base.turn_index + 1, 'running', base.head_revision, fresh.batch_ids,
    fresh.agent, (%(agent_refs)s::text[])[array_position(%(agents)s::text[], fresh.agent)],
    %(machine_version)s::smallint, raised.fence, %(worker)s::text, clock.now_ms
  FROM raised CROSS JOIN fresh CROSS JOIN base CROSS JOIN clock RETURNING *),
resumed AS (
  UPDATE lash_turns t SET fence = raised.fence, holder = %(worker)s::text, seen_effects = unfinished.done,
    attempt = CASE WHEN unfinished.holder IS NULL OR unfinished.holder = %(worker)s::text THEN t.attempt
                   WHEN unfinished.done > t.seen_effects THEN 1
                   ELSE t.attempt + 1 END
  FROM raised CROSS JOIN unfinished
  WHERE t.session_id = %(session_id)s::text AND t.turn_id = unfinished.turn_id RETURNING t.*)
SELECT
  CASE WHEN EXISTS (SELECT 1 FROM unfinished WHERE NOT free) THEN 'holder_lives'
       WHEN EXISTS (SELECT 1 FROM unfinished WHERE NOT known)
         OR EXISTS (SELECT 1 FROM first WHERE agent <> ALL(%(agents)s::text[])) THEN 'held'
       ELSE 'nothing' END AS otherwise,
  base.frame_id, base.spec, base.path_revision, base.branched, turn.*
FROM clock LEFT JOIN (
  SELECT false AS resumed, started.* FROM started UNION ALL SELECT true, resumed.* FROM resumed) turn ON true
LEFT JOIN base ON true"""

# The statements below run in the same pipeline, before the answer of OPEN is known here. They find the turn by what
# OPEN left: it runs, we hold it, and its fence is the one just raised.
_OURS: LiteralString = """lash_turns t WHERE t.session_id = %(session_id)s::text AND t.status = 'running'
  AND t.holder = %(worker)s::text AND t.fence = (SELECT fence FROM lash_fences WHERE scope = %(scope)s::text)"""

OPENED_BATCHES: LiteralString = f"""
WITH {_CLOCK}, ours AS (SELECT t.session_id, t.turn_id, t.agent, t.batch_ids FROM {_OURS})
SELECT own.*,
  EXISTS (
    SELECT 1 FROM lash_turn_cancels c WHERE c.session_id = ours.session_id AND c.turn_id = ours.turn_id) AS cancel,
  coalesce((
    SELECT b.early AND b.agent = ours.agent AND b.context_digest = own.context_digest FROM lash_batches b
    WHERE {_READY} ORDER BY {IN_ORDER} LIMIT 1), false) AS joinable
FROM ours
CROSS JOIN LATERAL json_array_elements_text(ours.batch_ids::json) WITH ORDINALITY AS wanted(id, place)
JOIN lash_batches own ON own.id = wanted.id ORDER BY wanted.place"""

# Of a path with branches too, what is newer than a revision that is known is on it. Only the whole of it has to be
# walked, which is left to BRANCHED_HISTORY.
OPENED_HISTORY: LiteralString = f"""
WITH ours AS (
  SELECT t.session_id, s.frame_id,
    CASE WHEN %(known_revision)s::bigint >= s.path_revision THEN %(known_revision)s::bigint + 1
         WHEN NOT s.branched THEN s.visible_from END AS first_revision
  FROM lash_sessions s CROSS JOIN {_OURS} AND s.id = t.session_id)
SELECT n.* FROM ours JOIN lash_nodes n ON n.session_id = ours.session_id
WHERE n.revision >= ours.first_revision AND n.frame_id IS NOT DISTINCT FROM ours.frame_id
  AND n.tombstoned_at_ms IS NULL
ORDER BY n.revision, n.ordinal"""

# Read after the transaction, as the journal is.
BRANCHED_HISTORY: LiteralString = PATH_AS_SHOWN.replace(":session_id", "%(session_id)s::text")

# Read after the transaction, and only where there may be one: the fence that was raised keeps it as it is.
JOURNAL: LiteralString = """
SELECT e.replay_key, e.ordinal, e.fence, e.state, e.envelope, coalesce(e.outcome, blob.content) AS outcome
FROM lash_effects e LEFT JOIN lash_blobs blob ON blob.ref = e.outcome_ref
WHERE e.scope = %(effect_scope)s::text ORDER BY e.ordinal, e.replay_key"""

CLAIMED: LiteralString = """
SELECT b.id FROM lash_batches b
WHERE b.session_id = %(session_id)s::text AND b.turn_id = %(turn_id)s::text AND b.state = 'claimed' ORDER BY b.seq"""

# ---------------------------------------------------------------- record


# Fences are locked in the order of their scopes, so that two writers of many turns cannot deadlock. No key may come
# twice: ON CONFLICT DO UPDATE changes a row once. The flags are scalar subqueries because for many rows the planner
# would answer EXISTS from a hash of all ready input there is. Whether anything early waits at all is asked first,
# because to find the head of a line many may be looked at that wait for quiet.
def _record(lock: LiteralString, without_it: LiteralString) -> LiteralString:
    """The statement that takes fences by `lock`; a row whose fence it does not get is `without_it`."""
    return f"""
WITH {_CLOCK},
given AS MATERIALIZED (
  SELECT x.*, 'session:' || x.session_id AS fence_scope, 'session:' || x.session_id || '/' || x.turn_id AS scope
  FROM unnest(%(session_ids)s::text[], %(turn_ids)s::text[], %(keys)s::text[], %(ordinals)s::int[],
    %(fences)s::bigint[], %(states)s::text[], %(envelopes)s::bytea[], %(outcomes)s::bytea[]) WITH ORDINALITY
    AS x(session_id, turn_id, replay_key, ordinal, fence, state, envelope, outcome, place)),
current AS MATERIALIZED (
  SELECT f.scope, f.fence FROM lash_fences f WHERE f.scope = ANY(%(fence_scopes)s::text[])
  ORDER BY f.scope {lock}),
written AS (
  INSERT INTO lash_effects AS e (scope, replay_key, ordinal, fence, state, envelope, outcome, outcome_ref)
  SELECT g.scope, g.replay_key, g.ordinal, g.fence, g.state, g.envelope,
    CASE WHEN octet_length(g.outcome) <= %(inline)s::int THEN g.outcome END,
    CASE WHEN octet_length(g.outcome) > %(inline)s::int THEN encode(sha256(g.outcome), 'hex') END
  FROM given g JOIN current f ON f.scope = g.fence_scope AND f.fence = g.fence
  ON CONFLICT (scope, replay_key) DO UPDATE
    SET state = excluded.state, fence = excluded.fence, outcome = excluded.outcome, outcome_ref = excluded.outcome_ref
    WHERE e.state = 'begun' AND excluded.state = 'done' AND e.envelope = excluded.envelope
  RETURNING e.scope, e.replay_key, e.outcome_ref),
large AS (
  INSERT INTO lash_blobs (ref, content, touched_at_ms)
  SELECT DISTINCT ON (w.outcome_ref) w.outcome_ref, g.outcome, clock.now_ms
  FROM written w JOIN given g USING (scope, replay_key) CROSS JOIN clock
  WHERE w.outcome_ref IS NOT NULL ORDER BY w.outcome_ref
  ON CONFLICT (ref) DO UPDATE SET {TOUCH})
SELECT
  CASE WHEN f.scope IS NULL THEN '{without_it}'
       WHEN f.fence <> g.fence THEN 'fenced'
       WHEN w.scope IS NULL THEN 'exists'
       ELSE 'recorded' END AS verdict,
  (SELECT true FROM lash_turn_cancels c WHERE c.session_id = g.session_id AND c.turn_id = g.turn_id LIMIT 1) AS cancel,
  CASE WHEN (
      SELECT true FROM lash_batches e WHERE e.session_id = g.session_id AND e.state = 'ready' AND e.early LIMIT 1)
    THEN (SELECT b.early FROM lash_batches b WHERE b.session_id = g.session_id AND {_DUE} ORDER BY {IN_ORDER} LIMIT 1)
    END AS joinable
FROM given g LEFT JOIN current f ON f.scope = g.fence_scope
LEFT JOIN written w ON w.scope = g.scope AND w.replay_key = g.replay_key ORDER BY g.place"""


RECORD_WAITING: LiteralString = _record("FOR SHARE", "fenced")
RECORD: LiteralString = _record("FOR SHARE SKIP LOCKED", "locked")
"""Nobody waits here for somebody else's lock."""

# ---------------------------------------------------------------- checkpoint

CHECKPOINT_STATE: LiteralString = """
SELECT
  EXISTS (
    SELECT 1 FROM lash_turns t
    WHERE t.session_id = %(session_id)s::text AND t.turn_id = %(turn_id)s::text AND t.status = 'running'
      AND t.fence = %(fence)s::bigint) AS ours,
  EXISTS (
    SELECT 1 FROM lash_effects e WHERE e.scope = %(effect_scope)s AND e.replay_key = %(replay_key)s) AS recorded"""

CHECKPOINT_BATCHES: LiteralString = f"""
WITH {_CLOCK},
waiting AS MATERIALIZED (
  SELECT {WAITING_COLUMNS} FROM lash_batches b WHERE {_READY} ORDER BY {IN_ORDER} LIMIT %(limit)s::int),
{PICK}
SELECT b.* FROM lash_batches b
WHERE b.seq IN (SELECT seq FROM picked) AND b.state || '' = 'ready' AND EXISTS (
  SELECT 1 FROM first WHERE early AND agent = %(agent)s::text AND context_digest = %(context_digest)s::text)
ORDER BY b.seq FOR NO KEY UPDATE OF b"""

CLAIM: LiteralString = """
UPDATE lash_batches SET state = 'claimed', turn_id = %(turn_id)s::text WHERE seq = ANY(%(seqs)s::bigint[])"""

# ---------------------------------------------------------------- commit

# Raising the fence shuts out whatever of the turn comes later, such as a journal row of a call that nobody awaited.
COMMIT_TURN: LiteralString = f"""
WITH gate AS MATERIALIZED (
  SELECT 1 FROM lash_fences WHERE scope = %(scope)s AND fence = %(fence)s::bigint FOR NO KEY UPDATE),
clock AS MATERIALIZED (SELECT {_NOW} AS now_ms FROM gate),
first AS (
  SELECT b.early AND b.agent = %(agent)s::text AND b.context_digest = %(context_digest)s::text AS joinable
  FROM lash_batches b WHERE {_READY} ORDER BY {IN_ORDER} LIMIT 1),
head AS (
  UPDATE lash_sessions SET head_revision = head_revision + 1, turn_index = %(turn_index)s::bigint,
    leaf_revision = CASE WHEN cardinality(%(node_ids)s::text[]) = 0 THEN leaf_revision END,
    leaf_ordinal = CASE WHEN cardinality(%(node_ids)s::text[]) = 0 THEN leaf_ordinal END
  FROM gate
  WHERE id = %(session_id)s::text AND head_revision = %(base_revision)s::bigint AND deleted_at_ms IS NULL
    AND (SELECT count(*) = cardinality(%(batch_ids)s::text[])
           AND count(*) FILTER (WHERE b.id = ANY(%(batch_ids)s::text[])) = count(*) FROM lash_batches b
         WHERE b.session_id = %(session_id)s::text AND b.turn_id = %(turn_id)s::text AND b.state = 'claimed')
    AND EXISTS (
      SELECT 1 FROM lash_turns t
      WHERE t.session_id = %(session_id)s::text AND t.turn_id = %(turn_id)s::text AND t.status = 'running')
    AND NOT (%(refuse_if_joinable)s::boolean AND coalesce((SELECT joinable FROM first), false))
  RETURNING head_revision),
closed AS (UPDATE lash_fences SET fence = fence + 1 FROM head WHERE scope = %(scope)s),
stamped AS (
  UPDATE lash_turns SET status = 'committed', holder = NULL, committed_at_ms = clock.now_ms,
    outcome = %(outcome)s::text, stamp = %(stamp)s::text, result = %(result)s::bytea
  FROM head CROSS JOIN clock WHERE session_id = %(session_id)s::text AND turn_id = %(turn_id)s::text),
grown AS (
  INSERT INTO lash_nodes (session_id, revision, ordinal, node_id, parent_id, frame_id, message, kind,
    parent_revision, parent_ordinal)
  SELECT %(session_id)s::text, head.head_revision, x.place - 1, x.node_id, x.parent_id, x.frame_id, x.message, x.kind,
    CASE WHEN x.place = 1 THEN %(leaf_revision)s::bigint END, CASE WHEN x.place = 1 THEN %(leaf_ordinal)s::int END
  FROM head CROSS JOIN unnest(%(node_ids)s::text[], %(parent_ids)s::text[], %(frame_ids)s::text[],
    %(messages)s::bytea[], %(node_kinds)s::text[]) WITH ORDINALITY
    AS x(node_id, parent_id, frame_id, message, kind, place)),
counted AS (
  INSERT INTO lash_usage (session_id, effect_key, source, model, input_tokens, output_tokens, cached_input_tokens,
    reasoning_tokens, counted_at_ms)
  SELECT %(session_id)s::text, x.*, clock.now_ms
  FROM head CROSS JOIN clock CROSS JOIN unnest(%(usage_keys)s::text[], %(usage_sources)s::text[],
    %(usage_models)s::text[], %(usage_input)s::bigint[], %(usage_output)s::bigint[], %(usage_cached)s::bigint[],
    %(usage_reasoning)s::bigint[]) AS x
  ON CONFLICT (session_id, effect_key) DO NOTHING),
ended AS (
  UPDATE lash_batches SET state = %(batch_state)s::text, ended_at_ms = clock.now_ms FROM head CROSS JOIN clock
  WHERE session_id = %(session_id)s::text AND turn_id = %(turn_id)s::text AND state = 'claimed'),
dead AS (
  INSERT INTO lash_dead_letters (batch_id, session_id, turn_id, reason, died_at_ms)
  SELECT x.batch_id, %(session_id)s::text, %(turn_id)s::text, %(dead_reason)s::text, clock.now_ms
  FROM head CROSS JOIN clock CROSS JOIN unnest(%(batch_ids)s::text[]) AS x(batch_id)
  WHERE %(dead_reason)s::text IS NOT NULL),
heard AS (
  DELETE FROM lash_turn_cancels USING head
  WHERE session_id = %(session_id)s::text AND turn_id = %(turn_id)s::text AND NOT %(goes_on)s::boolean)
SELECT EXISTS (SELECT 1 FROM gate) AS ours, coalesce((SELECT joinable FROM first), false) AS joinable,
  (SELECT head_revision FROM head) AS revision, (SELECT now_ms FROM clock) AS committed_at_ms,
  EXISTS (SELECT 1 FROM lash_batches b WHERE {_READY}) AS more"""

HEAD_AS_PINNED: LiteralString = """
SELECT head_revision FROM lash_sessions
WHERE id = %(session_id)s::text AND head_revision = %(base_revision)s::bigint AND deleted_at_ms IS NULL"""

STAMP: LiteralString = """
SELECT stamp FROM lash_turns
WHERE session_id = %(session_id)s::text AND turn_id = %(turn_id)s::text"""
