"""Rows that could not be encoded: what they are, and how they are tried again."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from taskvec.integrations.postgres import registry
from taskvec.integrations.postgres.queue import ALONE_AFTER
from taskvec.integrations.postgres.registry import BrokenError, Column, fixed_path
from taskvec.integrations.postgres.statements import connected, run

Result = TypeVar("Result")
LOG = logging.getLogger("taskvec.postgres")
LIST = """
SELECT to_jsonb(ARRAY[{texts}]), attempts + lost, error, parked, enqueued_at, not_before
FROM {queue} WHERE error IS NOT NULL ORDER BY parked DESC, enqueued_at, {plain} LIMIT $1
"""
# A row that ended workers goes on being claimed alone. What a writer has locked is passed over, so
# that a retry waits for no writer and has no part in a deadlock.
RETRY = """
WITH held AS (
    SELECT {plain} FROM {queue} WHERE error IS NOT NULL AND (parked OR $1) FOR UPDATE SKIP LOCKED
)
UPDATE {queue} q SET parked = false, attempts = 0, lost = least(lost, $2), error = NULL,
    not_before = now()
FROM held c WHERE {same}
"""


@dataclass(frozen=True)
class Failure:
    """A row that failed. key: of the row, as text. parked: it is tried no more until `retry`.

    attempts: how often it was tried, the times included that its worker or its connection ended.
    """

    column: str
    key: dict[str, str]
    attempts: int
    error: str
    parked: bool
    enqueued_at: datetime
    next_try: datetime


def failures(
    dsn: str | psycopg.Connection[Any], *, columns: list[int] | None = None, limit: int = 100
) -> list[Failure]:
    """Rows that failed, of each column at most `limit`, the parked ones first.

    columns: ids that `attach` returned, which mean their successors as well; None is all, but for
    those whose queue this role may not read, of which the log tells.
    """
    with connected(dsn) as conn, conn.transaction():
        found = _each(conn, columns, lambda column: _list(conn, column, limit))
        return [failure for own in found for failure in own]


def retry(
    dsn: str | psycopg.Connection[Any], *, columns: list[int] | None = None, waiting: bool = False
) -> int:
    """Put parked rows back into the queue, with all their attempts before them. Returns how many.

    waiting: those as well that would be tried again by themselves later.
    A row that a writer or a worker has locked is left out: what a writer commits frees it.
    """
    with connected(dsn) as conn, conn.transaction():
        count = sum(_each(conn, columns, lambda column: _retry(conn, column, waiting)))
        run(conn, "SELECT pg_notify($1, '')", registry.CHANNEL)
        return count


def _each(
    conn: psycopg.Connection[Any], chosen: list[int] | None, act: Callable[[Column], Result]
) -> list[Result]:
    """What comes of each column. One that this role may not read is left out, unless chosen."""
    results = []
    for column in _columns(conn, chosen):
        try:
            with conn.transaction():
                results.append(act(column))
        except psycopg.errors.InsufficientPrivilege as error:
            if chosen is not None:
                raise
            LOG.warning("column %s is left alone: %s", column.id, error.diag.message_primary)
    return results


def _retry(conn: psycopg.Connection[Any], column: Column, waiting: bool) -> int:
    return run(
        conn,
        RETRY,
        waiting,
        ALONE_AFTER,
        queue=column.queue,
        plain=column.plain(),
        same=column.matches("q", "c", own=False),
    ).rowcount


def _columns(conn: psycopg.Connection[Any], chosen: list[int] | None) -> list[Column]:
    with fixed_path(conn):
        return list(_served(conn, chosen))


def _served(conn: psycopg.Connection[Any], chosen: list[int] | None) -> Iterator[Column]:
    """The columns that are chosen, but for those that are broken; of these the log is told."""
    for row in registry.meant(registry.rows(conn), chosen):
        try:
            yield registry.load(conn, row)
        except BrokenError as error:
            LOG.warning("column %s is left alone: %s", row["id"], error)


def _list(conn: psycopg.Connection[Any], column: Column, limit: int) -> list[Failure]:
    keys = [f"key_{i}" for i, _ in enumerate(column.keys, 1)]
    texts = sql.SQL(", ").join([sql.SQL(f"{key}::text") for key in keys])
    found = run(conn, LIST, limit, texts=texts, queue=column.queue, plain=column.plain())
    return [
        Failure(
            str(column),
            dict(zip([key.name for key in column.keys], values, strict=True)),
            *rest,
        )
        for values, *rest in found
    ]
