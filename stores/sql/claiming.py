"""Which waiting inputs run next, and together: the rule of sessions §6.5 as SQL that both dialects understand."""

from __future__ import annotations

from typing import LiteralString

from lash_tasks.domain.queue import LONGEST_QUIET

IN_ORDER: LiteralString = "b.urgent DESC, b.seq"
"""The order in which batches `b` run."""

_LONGEST_QUIET: LiteralString = f"{LONGEST_QUIET:d}"


def waits_for_quiet(now: LiteralString) -> LiteralString:
    """Whether an available ready batch `b` waits at `now` for others of its merge key to stop coming.

    Neither the last of them has been quiet for its time nor the first has waited for many times its own.
    """
    others = """FROM lash_batches q
    WHERE q.session_id = b.session_id AND q.state = 'ready' AND q.quiet_ms IS NOT NULL AND q.merge_key = b.merge_key
      AND q.agent = b.agent AND q.context_digest = b.context_digest ORDER BY q.seq"""
    return f"""(b.quiet_ms IS NOT NULL
    AND (SELECT q.available_at_ms + q.quiet_ms {others} DESC LIMIT 1) > {now}
    AND (SELECT q.available_at_ms + {_LONGEST_QUIET} * q.quiet_ms {others} LIMIT 1) > {now})"""


WAITING_COLUMNS: LiteralString = (
    "b.seq, b.urgent, b.agent, b.context_digest, b.early, b.exclusive, b.merge_key, coalesce(b.kind, '') AS kind"
)
"""What a CTE `waiting` of the batches `b` that may be taken must have for `PICK`, as many as may be taken."""

PICK: LiteralString = """
first AS (SELECT * FROM waiting ORDER BY urgent DESC, seq LIMIT 1),
picked AS (
  SELECT seq FROM (
    SELECT w.seq, min(CASE WHEN w.seq = f.seq OR (
        NOT f.exclusive AND NOT w.exclusive AND w.merge_key = f.merge_key AND w.kind = f.kind
        AND w.early = f.early AND w.urgent = f.urgent AND w.agent = f.agent AND w.context_digest = f.context_digest
      ) THEN 1 ELSE 0 END) OVER (ORDER BY w.urgent DESC, w.seq) AS unbroken
    FROM waiting w CROSS JOIN first f) run
  WHERE unbroken = 1)"""
"""Two CTEs: `first`, the batch that decides, and `picked`, the seqs of it and of the unbroken run that goes with it."""
