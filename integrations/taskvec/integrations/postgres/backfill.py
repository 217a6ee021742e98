"""Puts the rows that a table already had into the queue, a slice at a time, in key order."""

from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from taskvec.integrations.postgres.faults import blameless
from taskvec.integrations.postgres.partitions import within
from taskvec.integrations.postgres.registry import LOCK_KEY, Column, hold
from taskvec.integrations.postgres.statements import COMMA, OR, fill, name, run

SLICE = 2_000

STATE = """
SELECT backfill_done, backfill_after, backfill_seen,
       extract(epoch FROM clock_timestamp() - backfill_at)::float8, backfill_part
FROM taskvec.columns WHERE id = $1
"""
# The table is read once, in the order of its key, whose columns may be called like what is
# selected; a writer's queue row is left as it is.
ENQUEUE = """
WITH slice AS (
    SELECT {aliased}, {stale} AS stale FROM {table} d WHERE {among} AND {after}
    ORDER BY {own} LIMIT {limit}
), put AS (
    INSERT INTO {queue} ({plain}, priority) SELECT {plain}, 1 FROM slice WHERE stale
    ON CONFLICT DO NOTHING
)
SELECT count(*) OVER (), ARRAY[{texts}] FROM slice ORDER BY {reversed} LIMIT 1
"""
ADVANCE = """
UPDATE taskvec.columns SET backfill_after = coalesce($2, backfill_after),
    backfill_seen = backfill_seen + $3, backfill_done = $4, backfill_at = clock_timestamp()
WHERE id = $1
"""
ESTIMATE = """
SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::float8 FROM pg_class c WHERE c.relkind = 'r'
  AND (c.oid = $1::oid OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass)))
"""


@dataclass(frozen=True)
class Backfill:
    """Where a backfill stands. seen: rows looked at. moved: some of them just now.

    wait_s: how long the rate asks to rest before the next slice.
    """

    done: bool
    seen: int
    moved: bool = False
    wait_s: float = 0.0


def advance(
    conn: psycopg.Connection[Any], column: Column, *, limit: int = SLICE, rate: float | None = None
) -> Backfill:
    """Queue the next slice of a column's rows, unless another worker is at it.

    rate: rows a second over all workers, or None for no limit. Raises LockNotAvailable where a
    writer holds a queue row: ask again with a smaller limit. Raises MovedError where the column is
    no longer what it was.
    """
    with conn.transaction():
        hold(conn, column)
        mine = alone(conn, column)
        state = run(conn, STATE, column.id).fetchone()
        done, after, seen, age_s, part = state or (True, None, 0, None, None)
        if done or not mine:
            return Backfill(done, seen)
        if rate is not None:
            limit = min(limit, max(1, int(rate)))
            if age_s is not None and age_s < limit / rate:
                return Backfill(done, seen, wait_s=limit / rate - age_s)
        if part is not None:
            column = replace(column, replace_existing=False)
        return _advance(conn, column, after, seen, limit, among=within(conn, column, part))


def alone(conn: psycopg.Connection[Any], column: Column) -> bool:
    """Whether no other worker is filling a column's queue, and none will until the commit."""
    row = run(conn, "SELECT pg_try_advisory_xact_lock($1, $2)", LOCK_KEY, column.id).fetchone()
    return bool(row and row[0])


def estimate(conn: psycopg.Connection[Any], column: Column) -> int:
    """About how many rows the table has; 0 where it was never analyzed."""
    row = run(conn, ESTIMATE, column.table.oid).fetchone()
    return int(row[0]) if row else 0


def enqueue(
    conn: psycopg.Connection[Any],
    column: Column,
    *,
    table: sql.Composable,
    stale: sql.Composable,
    among: sql.Composable,
    after: list[str] | None,
    limit: int,
) -> tuple[int, list[str] | None]:
    """Queue the keys of the next rows that are stale. Returns how many were seen, and the last key.

    column: with the key's names in this table. stale, among: conditions over its rows, called d.
    """
    keys = range(1, len(column.keys) + 1)
    row = run(
        conn,
        ENQUEUE,
        *([after] if after else []),
        aliased=column.aliased(),
        stale=stale,
        table=table,
        among=among,
        after=column.after() if after else sql.SQL("true"),
        own=column.own("d"),
        limit=sql.Literal(limit),
        queue=column.queue,
        plain=column.plain(),
        texts=COMMA.join([sql.SQL(f"key_{i}::text") for i in keys]),
        reversed=COMMA.join([sql.SQL(f"key_{i} DESC") for i in keys]),
    ).fetchone()
    return row or (0, None)


def _advance(
    conn: psycopg.Connection[Any],
    column: Column,
    after: list[str] | None,
    seen: int,
    limit: int,
    *,
    among: sql.Composable,
) -> Backfill:
    table = column.table.identifier

    def put(text: sql.Composable) -> tuple[int, list[str] | None]:
        stale = _stale(column, text)
        return enqueue(
            conn, column, table=table, stale=stale, among=among, after=after, limit=limit
        )

    try:
        with conn.transaction():
            count, last = put(fill("({text}) IS NOT NULL", text=column.text()))
    except psycopg.Error as error:
        if blameless(error):
            raise
        # The text of some row raises: a worker finds out which one when it reads them.
        count, last = put(sql.SQL("true"))
    run(conn, ADVANCE, column.id, last, count, count < limit)
    return Backfill(count < limit, seen + count, moved=True)


def _stale(column: Column, text: sql.Composable) -> sql.Composed:
    """Whether a row of old needs work: a text without its vector, or a vector not to be trusted.

    text: whether it has a text, as SQL.
    """
    lacking = [fill("{column} IS NULL", column=name(column.embedding))] if column.embedding else []
    if column.embedding and column.replace_existing:
        return fill("(NOT {empty} OR {text})", empty=lacking[0], text=text)
    if column.chunks:
        no_chunk = "NOT EXISTS (SELECT FROM {chunks} c WHERE {same})"
        same = column.of_row("c", "d")
        lacking.append(fill(no_chunk, chunks=column.chunk_table, same=same))
    return fill("({text} AND ({lacking}))", text=text, lacking=OR.join(lacking))
