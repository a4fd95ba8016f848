"""Which waiting inputs run next, and together: the rule of sessions §6.5 as SQL that both dialects understand."""

from __future__ import annotations

WAITING_COLUMNS = "seq, agent, context_digest, early, exclusive, merge_key"
"""What a CTE `waiting` of the available ready batches must have for `PICK`, in the order and number to be looked at."""

PICK = """
head AS (SELECT * FROM waiting ORDER BY seq LIMIT 1),
picked AS (
  SELECT seq FROM (
    SELECT w.seq, min(CASE WHEN w.seq = h.seq OR (
        NOT h.exclusive AND NOT w.exclusive AND w.merge_key = h.merge_key
        AND w.early = h.early AND w.agent = h.agent AND w.context_digest = h.context_digest
      ) THEN 1 ELSE 0 END) OVER (ORDER BY w.seq) AS unbroken
    FROM waiting w CROSS JOIN head h) run
  WHERE unbroken = 1)"""
"""Two CTEs: `head`, the batch that decides, and `picked`, the seqs of it and of the unbroken run that goes with it."""
