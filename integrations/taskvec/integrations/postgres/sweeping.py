"""Finds chunks whose row went unseen: a partition was dropped, detached, or truncated when new.

No trigger tells of these. The files that partitions are kept in do, which `writing` notes together
with chunks: a truncated one gets another, as after VACUUM FULL, and one that is gone has none.
"""

from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from taskvec.integrations.postgres.backfill import SLICE, alone, enqueue
from taskvec.integrations.postgres.registry import Column, hold
from taskvec.integrations.postgres.statements import fill, run

LOOK = """
SELECT c.partitions, coalesce((
  SELECT jsonb_object_agg(r.oid::text, r.relfilenode::text) FROM pg_partition_tree(c.relation) p
  JOIN pg_class r ON r.oid = p.relid WHERE r.relkind = 'r'
), '{{}}') FROM taskvec.columns c WHERE c.id = $1
"""
NOTE = """
UPDATE taskvec.columns SET partitions = $2, swept = swept AND $3,
  swept_to = CASE WHEN $3 THEN swept_to END
WHERE id = $1 AND partitions = $4
"""
STATE = "SELECT swept, swept_to FROM taskvec.columns WHERE id = $1"
ADVANCE = "UPDATE taskvec.columns SET swept = $2, swept_to = $3 WHERE id = $1"


def look(conn: psycopg.Connection[Any], column: Column) -> None:
    """Have a column's chunks swept if rows may have gone unseen from its partitions."""
    if column.chunks is None or not column.table.partitioned:
        return
    before, now = run(conn, LOOK, column.id).fetchone() or ({}, {})
    if before != now:
        kept = all(now.get(part) == file for part, file in before.items())
        run(conn, NOTE, column.id, Jsonb(now), kept, Jsonb(before))


def sweep(
    conn: psycopg.Connection[Any], column: Column, *, limit: int = SLICE
) -> tuple[bool, bool]:
    """Queue keys of chunks that have no row: a worker takes out what is left of such a key.

    Returns whether the sweep is at its end, and whether anything was done for it. Raises
    LockNotAvailable and MovedError as `backfill.advance` does.
    """
    with conn.transaction():
        hold(conn, column)
        mine = alone(conn, column)
        swept, after = run(conn, STATE, column.id).fetchone() or (True, None)
        if swept or not mine:
            return swept, False
        rowless = "NOT EXISTS (SELECT FROM {table} r WHERE {same})"
        count, last = enqueue(
            conn,
            column.under(column.chunk_keys),
            table=column.chunk_table,
            stale=fill(rowless, table=column.table.identifier, same=column.of_row("d", "r")),
            among=sql.SQL("d.ordinal = 0"),
            after=after,
            limit=limit,
        )
        run(conn, ADVANCE, column.id, count < limit, last)
        return count < limit, True
