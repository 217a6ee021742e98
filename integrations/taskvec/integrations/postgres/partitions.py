"""Has the rows of old queued that a partition brings along when it is attached to its table.

Triggers follow a partition from then on, and nothing tells of what it had before. Which partitions
there were when a backfill began is noted, each with the transactions that put it, and what it is a
part of, into its place: one that was detached and comes back has others.
"""

from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from taskvec.integrations.postgres.registry import Column
from taskvec.integrations.postgres.statements import fill, run

LOOK = """
SELECT c.leaves, c.backfill_done, coalesce((
  SELECT jsonb_object_agg(p.relid::oid::text, (
    SELECT string_agg(i.xmin::text, ' ' ORDER BY a.place)
    FROM pg_partition_ancestors(p.relid) WITH ORDINALITY a (relid, place)
    JOIN pg_inherits i ON i.inhrelid = a.relid
  )) FROM pg_partition_tree(c.relation) p WHERE p.isleaf AND p.level > 0
), '{{}}') FROM taskvec.columns c WHERE c.id = $1
"""
NOTE = "UPDATE taskvec.columns SET leaves = $2 WHERE id = $1 AND leaves IS NULL"
BEGIN = """
UPDATE taskvec.columns SET leaves = $2, backfill_part = $3, backfill_after = NULL,
  backfill_done = false
WHERE id = $1 AND backfill_done AND leaves = $4
"""
# Its bounds, by which the server leaves out the other partitions: rights on a table are none on its
# partitions, so that it cannot be read by itself.
BOUNDS = """
SELECT pg_get_partition_constraintdef(p.relid) FROM taskvec.columns c
CROSS JOIN pg_partition_tree(c.relation) p WHERE c.id = $1 AND p.relid = $2::oid
"""


def look(conn: psycopg.Connection[Any], column: Column) -> bool:
    """Begin the backfill of a partition that is new, if there is one and no other is under way.

    Returns whether there was one.
    """
    if not column.table.partitioned:
        return False
    before, done, now = run(conn, LOOK, column.id).fetchone() or (None, False, {})
    if before is None:
        run(conn, NOTE, column.id, Jsonb(now))
        return False
    new = [part for part, mark in now.items() if before.get(part) != mark]
    if not (new and done):
        return False
    part = new[0]
    kept = {one: mark for one, mark in before.items() if one in now}
    noted = Jsonb(kept | {part: now[part]})
    return run(conn, BEGIN, column.id, noted, int(part), Jsonb(before)).rowcount > 0


def within(conn: psycopg.Connection[Any], column: Column, part: int | None) -> sql.Composable:
    """Whether a row of the table, called d, is of a partition, as SQL; of None all are."""
    if part is None:
        return sql.SQL("true")
    bounds = run(conn, BOUNDS, column.id, part).fetchone()
    if bounds is None:
        return sql.SQL("false")  # it was detached or dropped meanwhile
    of_part = "(d.tableoid = {part} AND {bounds})"
    return fill(of_part, part=sql.Literal(part), bounds=sql.SQL(bounds[0] or "true"))
