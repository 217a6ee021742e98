"""A column's queue: one row per key that waits to be encoded, claimed by lease."""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from taskvec.integrations.postgres.registry import Column, hold
from taskvec.integrations.postgres.statements import COMMA, each, fill, name, run

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 3600.0
LONGEST_ERROR = 2_000

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
    ADD COLUMN error text,
    ADD COLUMN parked boolean NOT NULL DEFAULT false,
    SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX ON {queue} (priority, not_before) WHERE NOT parked
"""
CLAIM = """
WITH due AS (
    SELECT {plain} FROM {queue}
    WHERE NOT parked AND not_before <= now() AND (leased_until IS NULL OR leased_until <= now())
      AND NOT EXISTS (SELECT FROM taskvec.columns WHERE id = $4 AND held_until > now())
    ORDER BY priority, not_before LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE {queue} q SET lease = $1, leased_until = now() + make_interval(secs => $2),
    attempts = attempts + 1
FROM due c WHERE {same} RETURNING {texts}, q.version, q.attempts
"""
# `version` tells whether a row is still the one that was claimed.
READ = """
SELECT s.text, sha256(convert_to(s.text, 'UTF8'))
FROM {keys} LEFT JOIN (SELECT {aliased}, {text} AS text FROM {table}) s ON {same} ORDER BY c.n
"""
RENEW = """
UPDATE {queue} q SET leased_until = now() + make_interval(secs => $1)
FROM {keys} WHERE {same} AND q.lease = $2
"""
RELEASE = "UPDATE {queue} SET lease = NULL, leased_until = NULL WHERE lease = $1"
GIVE_BACK = """
UPDATE {queue} q SET lease = NULL, leased_until = NULL, attempts = greatest(q.attempts - 1, 0),
    not_before = now() + make_interval(secs => $1)
FROM {keys} WHERE {same} AND q.lease = $2
"""
FAIL = """
UPDATE {queue} q SET lease = NULL, leased_until = NULL, error = $1, parked = $2,
    not_before = now() + make_interval(secs => $3)
FROM {keys} WHERE {same} AND q.lease = $4 AND q.version = $5
"""
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
    """A row in hand. keys: as text. text, hash: what there is to encode; None for nothing."""

    keys: tuple[str, ...]
    version: int
    attempts: int
    text: str | None
    hash: bytes | None


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


def claim(
    conn: psycopg.Connection[Any], column: Column, lease: UUID, *, lease_s: float, batch: int
) -> list[Claimed]:
    """Take a lease on rows that are due, writes before backfill, and read what they say now.

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
            queue=column.queue,
            plain=column.plain(),
            same=column.matches("q", "c", own=False),
            texts=_texts(column),
        ).fetchall()
        if not taken:
            return []
        width = len(column.keys)
        keys = [row[:width] for row in taken]
        read = run(
            conn,
            READ,
            *_columns(keys),
            keys=key_rows(column),
            aliased=column.aliased(),
            text=column.text(),
            table=column.table.identifier,
            same=column.matches("s", "c", own=False, cast=True),
        ).fetchall()
    return [
        Claimed(key, row[width], row[width + 1], text, digest)
        for key, row, (text, digest) in zip(keys, taken, read, strict=True)
    ]


def renew(
    conn: psycopg.Connection[Any],
    column: Column,
    rows: Sequence[Claimed],
    lease: UUID,
    lease_s: float,
) -> None:
    """Make the leases of rows last for lease_s from now."""
    _on_rows(conn, RENEW, column, rows, lease_s, lease)


def give_back(
    conn: psycopg.Connection[Any],
    column: Column,
    rows: Sequence[Claimed],
    lease: UUID,
    pause_s: float = 0.0,
) -> None:
    """End the leases of rows that nothing was tried on; they are due after pause_s."""
    _on_rows(conn, GIVE_BACK, column, rows, pause_s, lease)


def release(conn: psycopg.Connection[Any], column: Column, lease: UUID) -> None:
    """End all leases of a worker that has no row in hand, unless the queue is gone."""
    with suppress(psycopg.errors.UndefinedTable):
        run(conn, RELEASE, lease, queue=column.queue)


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
            parked = row.attempts >= most_attempts
            values = (describe(error), parked, retry_s(row.attempts), lease, row.version)
            _on_rows(conn, FAIL, column, [row], *values)
        run(conn, COUNT_FAILED, column.id, len(failed))


def next_due_s(conn: psycopg.Connection[Any], column: Column) -> float | None:
    """Seconds until a row is due or its lease runs out; None where the queue is empty, or gone."""
    try:
        row = run(conn, NEXT_DUE, column.id, queue=column.queue).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return row[0] if row else None


def retry_s(attempts: int) -> float:
    """How long a row rests after its n-th failure: twice as long each time, give or take half."""
    pause = min(FIRST_RETRY_S * 2.0 ** (attempts - 1), LONGEST_RETRY_S)
    return pause * random.uniform(0.5, 1.5)  # noqa: S311 - keeps workers apart, no secret


def describe(error: Exception) -> str:
    """An error as the queue keeps it."""
    return f"{type(error).__name__}: {error}".replace("\0", "")[:LONGEST_ERROR]


def key_rows(column: Column, first: int = 1) -> sql.Composed:
    """Keys of text[] parameters from $first on, as the rows c (key_1, …, n)."""
    count = len(column.keys)
    arrays = COMMA.join([sql.SQL(f"${first + i}::text[]") for i in range(count)])
    return fill(
        "unnest({arrays}) WITH ORDINALITY AS c ({keys}, n)",
        arrays=arrays,
        keys=each("key_{i}", count),
    )


def _on_rows(
    conn: psycopg.Connection[Any],
    statement: str,
    column: Column,
    rows: Sequence[Claimed],
    *values: object,
) -> None:
    run(
        conn,
        statement,
        *values,
        *_columns([row.keys for row in rows]),
        queue=column.queue,
        keys=key_rows(column, len(values) + 1),
        same=column.matches("q", "c", own=False, cast=True),
    )


def _columns(keys: Sequence[tuple[str, ...]]) -> list[list[str]]:
    return [list(values) for values in zip(*keys, strict=True)]


def _texts(column: Column) -> sql.Composed:
    keys = range(1, len(column.keys) + 1)
    return COMMA.join([name(f"key_{i}", "q") + sql.SQL("::text") for i in keys])
