"""How attached columns stand: as a view of the schema `taskvec`, and as Python objects.

Figures of the queue and the counters are exact. `rows`, and with it `embedded` and `coverage`,
comes from the server's statistics, so that polling reads no user's table; 100 % is exact all the
same, since it takes an empty queue and a finished backfill.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from taskvec.core.errors import InputError, SchemaError
from taskvec.integrations.postgres import registry
from taskvec.integrations.postgres.registry import Column, fixed_path
from taskvec.integrations.postgres.statements import connected, fill, name, run

VERSION = "taskvec 3"  # of the view's columns, kept as its comment
PRESENT = "SELECT obj_description(to_regclass('taskvec.status'), 'pg_class')"
# Whoever may read the view sees figures of the queues, and nothing of what is in them.
CREATE = """
DROP VIEW IF EXISTS taskvec.status;
CREATE OR REPLACE FUNCTION taskvec.queue_figures(id integer, OUT queued bigint,
    OUT filling bigint, OUT leased bigint, OUT retrying bigint, OUT parked bigint,
    OUT lag_s float8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('SELECT count(*) FILTER (WHERE NOT q.parked),
      count(*) FILTER (WHERE NOT q.parked AND q.priority > 0),
      count(*) FILTER (WHERE q.leased_until > clock_timestamp()),
      count(*) FILTER (WHERE NOT q.parked AND q.error IS NOT NULL),
      count(*) FILTER (WHERE q.parked),
      coalesce(extract(epoch FROM clock_timestamp()
        - min(q.enqueued_at) FILTER (WHERE NOT q.parked))::float8, 0)
    FROM taskvec.%I q', 'queue_' || id)
    INTO queued, filling, leased, retrying, parked, lag_s;
EXCEPTION WHEN undefined_table THEN  -- just detached
  SELECT 0, 0, 0, 0, 0, 0 INTO queued, filling, leased, retrying, parked, lag_s;
END $$;
CREATE VIEW taskvec.status AS
SELECT f.*, least(greatest(f.rows - f.waiting, 0), f.rows) AS embedded,
  CASE WHEN f.waiting = 0 AND f.backfill_done THEN 100.0 WHEN f.rows = 0 THEN 0.0
       ELSE least(round(greatest(100.0 * (f.rows - f.waiting), 0.0) / f.rows, 2), 99.99)
  END::float8 AS coverage
FROM (
  SELECT c.id, c.relation::text AS "table",
    coalesce(p.names ->> c.embedding, c.embedding) AS "column", c.chunks::text AS chunks,
    c.state, b.problem, c.successor_of, c.succeeds, c.model, c.task, c.query_task, c.dim, c.type,
    c.fingerprint, c.query_fingerprint, e.rows, c.backfill_done, q.queued, q.filling, q.leased,
    q.retrying, q.parked, q.lag_s, c.done, c.failed, c.last_done, c.last_failed, c.created_at,
    q.queued + q.parked
      + CASE WHEN c.backfill_done THEN 0 ELSE greatest(e.rows - c.backfill_seen, 0) END AS waiting
  FROM taskvec.columns c {standing} CROSS JOIN LATERAL taskvec.queue_figures(c.id) q
  CROSS JOIN LATERAL (
    SELECT coalesce(sum(coalesce(nullif(pg_stat_get_live_tuples(x.oid), 0),
        greatest(x.reltuples, 0)::bigint)), 0)::bigint AS rows
    FROM pg_class x WHERE x.relkind = 'r' AND (x.oid = c.relation
      OR x.oid IN (SELECT p.relid FROM pg_partition_tree(c.relation) p))
  ) e
) f;
COMMENT ON VIEW taskvec.status IS {version}
"""
READ = """
SELECT id, "table", "column", chunks, state, problem, successor_of, model, task, query_task, dim,
  type, fingerprint, query_fingerprint, rows, embedded, coverage, backfill_done, waiting,
  queued, leased, retrying, parked, lag_s, done, failed, last_done, last_failed, created_at
FROM taskvec.status WHERE $1::integer[] IS NULL OR id = ANY($1) OR succeeds && $1::integer[]
ORDER BY id
"""
COUNT = """
SELECT count(*), count(*) FILTER (WHERE s.wanted),
  count(*) FILTER (WHERE s.wanted AND s.made AND NOT EXISTS (SELECT FROM {queue} q WHERE {queued}))
FROM (SELECT {aliased}, ({text}) IS NOT NULL AS wanted, {made} AS made FROM {table} d) s
"""


@dataclass(frozen=True)
class Status:
    """How an attached column stands.

    rows, embedded, coverage: of its table; how many are as they should be; and in per cent.
    Estimates, unless `exact`: then embedded counts the rows with a text and its own vector, and
    coverage is of the rows that have a text. waiting: rows that need work, those included that the
    backfill has yet to reach, and parked ones. queued, leased, retrying: rows in the queue, that a
    worker has in hand, that failed and are tried again. parked: rows that are tried no more.
    problem: why no worker serves the column any more; None where it is well.
    lag_s: how long the oldest row of the queue waits. done, failed: since the column was attached;
    done counts a row each time that it is made right, be it by having no vector.
    rate: rows embedded a second, where a time to measure it over was given.
    """

    id: int
    table: str
    column: str | None
    chunks: str | None
    state: str
    problem: str | None
    successor_of: int | None
    model: str
    task: str | None
    query_task: str | None
    dim: int
    type: str
    fingerprint: str
    query_fingerprint: str
    rows: int
    embedded: int
    coverage: float
    backfill_done: bool
    waiting: int
    queued: int
    leased: int
    retrying: int
    parked: int
    lag_s: float
    done: int
    failed: int
    last_done: datetime | None
    last_failed: datetime | None
    created_at: datetime
    rate: float | None = None
    exact: bool = False

    def record(self) -> dict[str, object]:
        """The figures as JSON has them, times in ISO 8601."""
        return {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in asdict(self).items()
        }


def status(
    dsn: str | psycopg.Connection[Any],
    *,
    columns: Sequence[int] | None = None,
    exact: bool = False,
    over_s: float | None = None,
) -> list[Status]:
    """How columns stand. Cheap enough to ask for every few seconds, unless exact.

    columns: ids that `attach` returned, which mean their successors as well; None is all.
    exact: count the rows of the tables, which reads them once; of broken columns none are. It runs
    the columns' conditions with the caller's rights, so trust those who attached them, or ask as a
    worker's role.
    over_s: measure the rates, which takes so long.
    Raises SchemaError without the privilege to read the schema, StoreError for the server's errors.
    """
    if over_s is not None and over_s <= 0:
        raise InputError(f"over_s {over_s!r}: give more than 0 seconds")
    with connected(dsn) as conn:
        first = _read(conn, columns)
        if over_s is not None:
            began = time.monotonic()
            time.sleep(over_s)
            second = _read(conn, columns)
            first = _rated(first, second, time.monotonic() - began)
        return _counted(conn, first) if exact else first


def ensure_view(conn: psycopg.Connection[Any]) -> None:
    """Make the view taskvec.status, unless it is there as this version has it."""
    if run(conn, PRESENT).fetchone() == (VERSION,):
        return
    with conn.transaction():
        run(conn, "SELECT pg_advisory_xact_lock($1)", registry.LOCK_KEY)
        standing = sql.SQL(registry.STANDING)
        run(conn, CREATE, version=sql.Literal(VERSION), standing=standing)


def _read(conn: psycopg.Connection[Any], columns: Sequence[int] | None) -> list[Status]:
    chosen = None if columns is None else list(columns)
    try:
        with conn.transaction():
            if not registry.installed(conn):
                return []
            ensure_view(conn)
            cursor = psycopg.RawCursor(conn, row_factory=dict_row)
            found = cursor.execute(READ, [chosen]).fetchall()
            return [Status(**row) for row in found]
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            "no privilege to read the status: GRANT USAGE ON SCHEMA taskvec and SELECT ON "
            f"taskvec.status to this role ({error.diag.message_primary})"
        ) from error


def _rated(first: Iterable[Status], second: Iterable[Status], elapsed_s: float) -> list[Status]:
    before = {one.id: one.done for one in first}
    return [
        replace(one, rate=(one.done - before.get(one.id, one.done)) / elapsed_s) for one in second
    ]


def _counted(conn: psycopg.Connection[Any], found: Iterable[Status]) -> list[Status]:
    with conn.transaction(), fixed_path(conn):
        rows = {row["id"]: row for row in registry.rows(conn)}
        return [
            _count(conn, registry.load(conn, rows[one.id]), one) if one.problem is None else one
            for one in found
            if one.id in rows
        ]


def _count(conn: psycopg.Connection[Any], column: Column, one: Status) -> Status:
    row = run(
        conn,
        COUNT,
        queue=column.queue,
        queued=column.matches("q", "s", own=False),
        aliased=column.aliased("d"),
        text=column.text(),
        made=_made(column),
        table=column.table.identifier,
    ).fetchone()
    rows, wanted, embedded = row or (0, 0, 0)
    coverage = 100.0 * embedded / wanted if wanted else 100.0
    return replace(one, rows=rows, embedded=embedded, coverage=coverage, exact=True)


def _made(column: Column) -> sql.Composed:
    """Whether a row has what is to be made of it, stale or not."""
    if column.embedding is not None:
        return fill("{column} IS NOT NULL", column=name(column.embedding, "d"))
    text = "EXISTS (SELECT FROM {c} c WHERE {same})"
    return fill(text, c=column.chunk_table, same=column.of_row("c", "d"))
