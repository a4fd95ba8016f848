"""The active path of a session with branches, as SQL that both dialects understand.

Nodes of one commit are a chain, so the walk goes from commit to commit: of each it takes what stands up to the place
that the walk came in at, and leaves where the commit's first node hangs. It only ever goes to an earlier commit, so it
ends whatever the rows say. A first node with a parent but without its place follows the last node before it.
"""

from __future__ import annotations

from typing import LiteralString

_LAST = 2147483647

WALK: LiteralString = f"""
walk (revision, upto) AS (
  SELECT revision, ordinal FROM leaf
  UNION ALL
  SELECT coalesce(first.parent_revision, (
      SELECT max(older.revision) FROM lash_nodes older
      WHERE older.session_id = :session_id AND older.revision < walk.revision)),
    coalesce(first.parent_ordinal, {_LAST})
  FROM walk JOIN lash_nodes first ON first.session_id = :session_id AND first.revision = walk.revision
    AND first.ordinal = (
      SELECT min(sibling.ordinal) FROM lash_nodes sibling
      WHERE sibling.session_id = :session_id AND sibling.revision = walk.revision)
  WHERE first.parent_id IS NOT NULL
    AND (first.parent_revision IS NULL OR first.parent_revision < walk.revision))"""
"""A recursive CTE from a CTE `leaf (revision, ordinal)` of at most one row: the commits on the path."""

CURRENT_LEAF: LiteralString = """
leaf (revision, ordinal) AS (
  SELECT found.revision, found.ordinal FROM (
    SELECT n.revision, n.ordinal, 0 AS healed FROM lash_sessions s
    JOIN lash_nodes n ON n.session_id = s.id AND n.revision = s.leaf_revision AND n.ordinal = s.leaf_ordinal
    WHERE s.id = :session_id
    UNION ALL
    SELECT last.revision, last.ordinal, 1 FROM (
      SELECT n.revision, n.ordinal FROM lash_nodes n
      WHERE n.session_id = :session_id AND (
        (SELECT s.leaf_revision FROM lash_sessions s WHERE s.id = :session_id) IS NULL
        OR (n.kind IS NULL AND n.tombstoned_at_ms IS NULL))
      ORDER BY n.revision DESC, n.ordinal DESC LIMIT 1) last
  ) found ORDER BY found.healed LIMIT 1)"""
"""The session's leaf; one that is not there heals to the last message."""

GIVEN_LEAF: LiteralString = """
leaf (revision, ordinal) AS (SELECT CAST(:leaf_revision AS bigint), CAST(:leaf_ordinal AS integer))"""

ON_PATH: LiteralString = """
SELECT n.* FROM walk JOIN lash_nodes n ON n.session_id = :session_id AND n.revision = walk.revision
  AND n.ordinal <= walk.upto
WHERE n.tombstoned_at_ms IS NULL"""
"""The nodes of `walk`, in no order."""

PATH_AS_SHOWN: LiteralString = f"""
WITH RECURSIVE {CURRENT_LEAF}, {WALK} {ON_PATH} AND n.frame_id IS NOT DISTINCT FROM (
  SELECT s.frame_id FROM lash_sessions s WHERE s.id = :session_id)
ORDER BY n.revision, n.ordinal"""
"""The nodes that a branched session shows, oldest first."""
