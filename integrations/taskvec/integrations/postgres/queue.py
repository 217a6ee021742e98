"""A column's queue: one row per key that waits to be encoded, claimed by lease."""

import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from taskvec.integrations.postgres.faults import blameless
from taskvec.integrations.postgres.halving import Outcome, halving
from taskvec.integrations.postgres.registry import Column, MovedError, hold
from taskvec.integrations.postgres.statements import COMMA, each, fill, name, run

LOG = logging.getLogger("taskvec.postgres")
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 3600.0
LONGEST_ERROR = 2_000
# A row is lost when its lease runs out, since its worker was killed or cannot be reached, or when
# the connection ends while it is written. One that was lost so often is claimed alone, so that it
# takes no other row down with it, and none is blamed for it; at so many losses it is parked.
ALONE_AFTER, PARKED_AFTER = 2, 7

# The keys' types come from the table, collations included. Claims touch no indexed column.
CREATE = """
CREATE TABLE {queue} AS SELECT {keys} FROM {table} WITH NO DATA;
ALTER TABLE {queue} ADD PRIMARY KEY ({plain}),
    ADD COLUMN version bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN priority smallint NOT NULL DEFAULT 0,
    ADD COLUMN enqueued_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN not_before timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN leased_until timestamptz,
    ADD COLUMN lease uuid,
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN lost integer NOT NULL DEFAULT 0,
    ADD COLUMN error text,
    ADD COLUMN parked boolean NOT NULL DEFAULT false,
    SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX ON {queue} (priority, not_before) WHERE NOT parked
"""
# Whoever attached a column first owns what the status is read by, and maybe none of the queues.
FIGURES = """
SELECT pg_get_userbyid(p.proowner) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'taskvec' AND p.proname = 'queue_figures'
"""
# Among rows to be claimed alone the least lost goes first: what kills all workers blames no row.
CLAIM = """
WITH due AS (
    SELECT {plain}, priority, not_before, lost + (lease IS NOT NULL)::integer AS lost FROM {queue}
    WHERE NOT parked AND not_before <= now() AND (leased_until IS NULL OR leased_until <= now())
      AND NOT EXISTS (SELECT FROM taskvec.columns WHERE id = $4 AND held_until > now())
    ORDER BY priority, not_before LIMIT $3 FOR UPDATE SKIP LOCKED
), ranked AS (
    SELECT *, first_value(lost) OVER (ORDER BY priority, not_before) >= $5 AS alone,
        row_number() OVER (ORDER BY lost < $5, lost, priority, not_before) AS place FROM due
), taken AS (
    SELECT * FROM ranked WHERE CASE WHEN alone THEN place = 1 ELSE lost < $5 END
)
UPDATE {queue} q SET lease = $1, leased_until = now() + make_interval(secs => $2), lost = c.lost
FROM taken c WHERE {same} RETURNING {texts}, q.version, q.attempts, q.lost
"""
# `version` tells whether a row is still the one that was claimed. OFFSET 0 keeps the planner from
# making the text of rows that are not asked for, which may raise.
READ = """
SELECT s.text, sha256(convert_to(s.text, 'UTF8')) FROM {keys}
LEFT JOIN LATERAL (SELECT {text} AS text FROM {table} d WHERE {same} OFFSET 0) s ON true
ORDER BY c.n
"""
# Rows that a writer has locked are passed over: what it commits ends their lease anyway.
IN_HAND = """
WITH held AS (SELECT {plain} FROM {queue} q {only} WHERE q.lease = $1 FOR UPDATE OF q SKIP LOCKED)
UPDATE {queue} q SET {changes} FROM held c WHERE {same}
"""
RENEW = "leased_until = now() + make_interval(secs => $2)"
RELEASE = "lease = NULL, leased_until = NULL"
RUN_OUT = "leased_until = now()"
GIVE_BACK = f"{RELEASE}, not_before = now() + make_interval(secs => $2)"
FAIL = f"{GIVE_BACK}, attempts = q.attempts + 1, lost = 0, error = $3, parked = $4"
PARK = f"{RELEASE}, error = $2, parked = true"
COUNT_FAILED = """
UPDATE taskvec.columns SET failed = failed + $2, last_failed = now() WHERE id = $1
"""
NEXT_DUE = """
SELECT extract(epoch FROM greatest(min(greatest(not_before, leased_until)),
    (SELECT held_until FROM taskvec.columns WHERE id = $1 AND held_until > now())) - now())::float8
FROM {queue} WHERE NOT parked HAVING count(*) > 0
"""


@dataclass(frozen=True)
class Claimed:
    """A row in hand. keys: as text. text, hash: what there is to encode; None for nothing.

    attempts: how often it failed. lost: how often a worker ended, or was not heard of again, with
    the row in hand.
    """

    keys: tuple[str, ...]
    version: int
    attempts: int
    lost: int
    text: str | None = None
    hash: bytes | None = None

    @property
    def suspect(self) -> bool:
        """Whether the row is claimed alone, since it may be what ends workers."""
        return self.lost >= ALONE_AFTER

    @property
    def deadly(self) -> bool:
        """Whether it has ended so many workers that no other one is to try it."""
        return self.lost >= PARKED_AFTER


def create_queue(conn: psycopg.Connection[Any], column: Column) -> None:
    """Make the queue of a new column."""
    run(
        conn,
        CREATE,
        queue=column.queue,
        keys=column.aliased(),
        plain=column.plain(),
        table=column.table.identifier,
    )
    for (reader,) in run(conn, FIGURES).fetchall():
        run(conn, "GRANT SELECT ON {queue} TO {role}", queue=column.queue, role=name(reader))


def claim(
    conn: psycopg.Connection[Any],
    column: Column,
    lease: UUID,
    *,
    lease_s: float,
    batch: int,
    most_attempts: int,
) -> Outcome[Claimed, Claimed]:
    """Take a lease on rows that are due, writes before backfill, and read what they say now.

    A suspect row comes alone, a deadly one unread. A row that cannot be read, since its condition
    or a cast of a source raises, is failed at once. The lease is there before the rows are read: a
    row that ends the connection then is lost with it.
    Raises MovedError where the column is no longer what it was.
    """
    with conn.transaction():
        hold(conn, column)
        taken = run(
            conn,
            CLAIM,
            lease,
            lease_s,
            batch,
            column.id,
            ALONE_AFTER,
            queue=column.queue,
            plain=column.plain(),
            same=column.matches("q", "c", own=False),
            texts=_texts(column),
        ).fetchall()
    width = len(column.keys)
    rows = [Claimed(row[:width], *row[width:]) for row in taken]
    if any(row.deadly for row in rows):
        return Outcome(rows)
    try:
        with conn.transaction():
            hold(conn, column)
            claimed = halving(rows, partial(_read, conn, column), outage=blameless)
            if claimed.failed:
                fail(conn, column, claimed.failed, lease, most_attempts)
    except (MovedError, psycopg.Error):
        if not conn.closed:
            release(conn, column, lease, lost=False)
        raise
    return claimed


def _read(conn: psycopg.Connection[Any], column: Column, rows: Sequence[Claimed]) -> list[Claimed]:
    """Rows with what they say now. What raises leaves the transaction as it was."""
    with conn.transaction():
        found = run(
            conn,
            READ,
            *_columns([row.keys for row in rows]),
            keys=key_rows(column),
            text=column.text(),
            table=column.table.identifier,
            same=column.matches("d", "c", cast=True),
        ).fetchall()
    return [
        replace(row, text=text, hash=digest)
        for row, (text, digest) in zip(rows, found, strict=True)
    ]


def renew(
    conn: psycopg.Connection[Any],
    column: Column,
    rows: Sequence[Claimed],
    lease: UUID,
    lease_s: float,
) -> None:
    """Make the leases of rows last for lease_s from now."""
    _change(conn, column, RENEW, lease, lease_s, rows=rows)


def give_back(
    conn: psycopg.Connection[Any],
    column: Column,
    rows: Sequence[Claimed],
    lease: UUID,
    pause_s: float = 0.0,
) -> None:
    """End the leases of rows that nothing was tried on; they are due after pause_s."""
    _change(conn, column, GIVE_BACK, lease, pause_s, rows=rows)


def release(conn: psycopg.Connection[Any], column: Column, lease: UUID, *, lost: bool) -> None:
    """End all leases of a worker that has no row in hand, unless the queue is gone.

    lost: count the rows as lost.
    """
    with suppress(psycopg.errors.UndefinedTable):
        _change(conn, column, RUN_OUT if lost else RELEASE, lease)


def fail(
    conn: psycopg.Connection[Any],
    column: Column,
    failed: Sequence[tuple[Claimed, Exception]],
    lease: UUID,
    most_attempts: int,
) -> None:
    """Try rows again later and later; park those that have failed most_attempts times."""
    with conn.transaction():
        for row, error in failed:
            attempts = row.attempts + 1
            values = (retry_s(attempts), describe(conn, error), attempts >= most_attempts)
            _change(conn, column, FAIL, lease, *values, rows=[row])
            if attempts >= most_attempts:
                told = (column, row.keys, attempts, type(error).__name__)
                LOG.warning("%s: row %s is parked after %d attempts: %s, see failures", *told)
        run(conn, COUNT_FAILED, column.id, len(failed))


def park(conn: psycopg.Connection[Any], column: Column, row: Claimed, lease: UUID) -> None:
    """Try a deadly row no more."""
    error = f"the worker or its connection ended {row.lost} times while this row was in hand"
    with conn.transaction():
        _change(conn, column, PARK, lease, error, rows=[row])
        run(conn, COUNT_FAILED, column.id, 1)


def next_due_s(conn: psycopg.Connection[Any], column: Column) -> float | None:
    """Seconds until a row is due or its lease runs out.

    None where the queue is empty, gone, or closed to this role.
    """
    try:
        row = run(conn, NEXT_DUE, column.id, queue=column.queue).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None
    return row[0] if row else None


def retry_s(attempts: int) -> float:
    """How long a row rests after its n-th failure: twice as long each time, give or take half."""
    pause = min(FIRST_RETRY_S * 2.0 ** (attempts - 1), LONGEST_RETRY_S)
    return pause * random.uniform(0.5, 1.5)  # noqa: S311 - keeps workers apart, no secret


def describe(conn: psycopg.Connection[Any], error: Exception) -> str:
    """An error as the queue keeps it: in what the server can store."""
    told = f"{type(error).__name__}: {error}".replace("\0", "")[:LONGEST_ERROR]
    unicode = conn.info.parameter_status("server_encoding") == "UTF8"
    encoding = "utf-8" if unicode else "ascii"
    return told.encode(encoding, "backslashreplace").decode(encoding)


def key_rows(column: Column, first: int = 1) -> sql.Composed:
    """Keys of text[] parameters from $first on, as the rows c (key_1, …, n)."""
    count = len(column.keys)
    arrays = COMMA.join([sql.SQL(f"${first + i}::text[]") for i in range(count)])
    return fill(
        "unnest({arrays}) WITH ORDINALITY AS c ({keys}, n)",
        arrays=arrays,
        keys=each("key_{i}", count),
    )


def _change(
    conn: psycopg.Connection[Any],
    column: Column,
    changes: str,
    lease: UUID,
    *values: object,
    rows: Sequence[Claimed] | None = None,
) -> None:
    """Change queue rows under a lease: these rows, or all."""
    values = (lease, *values)
    only: sql.Composable = sql.SQL("")
    if rows is not None:
        keys = key_rows(column, len(values) + 1)
        same = column.matches("q", "c", own=False, cast=True)
        only = fill("JOIN {keys} ON {same}", keys=keys, same=same)
        values += tuple(_columns([row.keys for row in rows]))
    run(
        conn,
        IN_HAND,
        *values,
        queue=column.queue,
        plain=column.plain("q"),
        only=only,
        changes=sql.SQL(changes),
        same=column.matches("q", "c", own=False),
    )


def _columns(keys: Sequence[tuple[str, ...]]) -> list[list[str]]:
    return [list(values) for values in zip(*keys, strict=True)]


def _texts(column: Column) -> sql.Composed:
    keys = range(1, len(column.keys) + 1)
    return COMMA.join([name(f"key_{i}", "q") + sql.SQL("::text") for i in keys])
