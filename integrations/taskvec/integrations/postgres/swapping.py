"""Puts a complete successor in its column's place, in one short transaction."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from taskvec.core.errors import SchemaError, SyncError
from taskvec.integrations.postgres import registry, triggers
from taskvec.integrations.postgres.carrying import (
    carry,
    carry_settings,
    require_carried,
    user_indexes,
)
from taskvec.integrations.postgres.choosing import choose, successor
from taskvec.integrations.postgres.following import follow
from taskvec.integrations.postgres.grants import (
    copy_owner,
    pass_on_column,
    pass_on_table,
    restore_row_security,
    row_security,
)
from taskvec.integrations.postgres.indexes import (
    FIRST_PASSES,
    Vectors,
    all_vectors,
    fits,
    has_index,
    is_built,
    make_index,
)
from taskvec.integrations.postgres.registry import Column, fixed_path
from taskvec.integrations.postgres.sessions import in_transaction, patiently
from taskvec.integrations.postgres.statements import OR, connected, fill, name, run

LOG = logging.getLogger("taskvec.postgres")
WAIT_S = 30.0  # for the successor to be complete, and for the table's lock
POLL_S = 0.05
HOLD_S = 10.0


# Rows that the successor has yet to make and the live column has made. A write that neither has
# followed yet is no reason to wait, unless the row would lose the vector of its former text: search
# finds no less after the swap than before it.
BEHIND = """
SELECT (SELECT backfill_done FROM taskvec.columns WHERE id = $1),
  count(*) FILTER (WHERE NOT n.parked), count(*) FILTER (WHERE n.parked),
  count(*) FILTER (WHERE NOT n.parked
    AND (n.priority <> 0 OR n.enqueued_at < now() - make_interval(secs => $2)))
FROM {new} n
WHERE n.priority <> 0 OR NOT EXISTS (SELECT FROM {old} o WHERE {same}) OR {lost}
"""
LOST_VECTOR = "EXISTS (SELECT FROM {table} d WHERE {same} AND {old} IS NOT NULL AND {new} IS NULL)"
LOST_CHUNKS = """(EXISTS (SELECT FROM {old} c WHERE {same})
  AND NOT EXISTS (SELECT FROM {new} c WHERE {same}))"""
# Runs out by itself, should whoever holds be killed.
HOLD = """
UPDATE taskvec.columns SET held_until = now() + make_interval(secs => $2)
WHERE id = $1 AND (held_until IS NULL OR held_until < now() + make_interval(secs => $2 / 2))
"""
LET_GO = "UPDATE taskvec.columns SET held_until = NULL WHERE id = $1"
KEY_INDEX = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisprimary
"""
RETIRE = "UPDATE taskvec.columns SET successor_of = NULL WHERE id = $1"
PROMOTE = "UPDATE taskvec.columns SET state = 'live' WHERE id = $1"


@dataclass(frozen=True)
class Coverage:
    """How far a successor is. behind: rows it has yet to embed and the live column has not.

    parked: rows that it failed at, and tries no more. late: rows of the backfill, or that have
    waited for longer than a hold lasts.
    """

    filled: bool
    behind: int
    parked: int
    late: int

    def near(self, *, allow_parked: bool) -> bool:
        """Whether it would catch up within a moment if the live column stood still."""
        return self.filled and not self.late and (allow_parked or not self.parked)

    def complete(self, *, allow_parked: bool) -> bool:
        """Whether a swap loses nothing."""
        return self.filled and not self.behind and (allow_parked or not self.parked)


def swap(
    dsn: str | psycopg.Connection[Any],
    table: str,
    *,
    column: str | None = None,
    chunks: str | None = None,
    wait_s: float = WAIT_S,
    allow_parked: bool = False,
) -> int:
    """Put a column's complete successor in its place, under its name. Returns its id.

    Its indexes are built first, those that users made over the column or its chunks as well,
    CONCURRENTLY unless inside a transaction. Then workers leave the
    column alone until its successor has caught up, a matter of seconds; the swap itself is one
    short transaction. The former column goes, and its chunks. Grants and row security stay.
    wait_s: how long to wait for the successor to be complete, and then for the table's lock.
    allow_parked: leave rows without a vector that the successor failed at.

    Raises SyncError where it is not complete by then, SchemaError where there is no successor or
    something belongs to the column or its chunks that it cannot have, StoreError for a lock.
    """
    with connected(dsn) as conn:
        outer = in_transaction(conn)
        with conn.transaction():
            live, new = _pair(conn, choose(conn, table, column, chunks))
        end = time.monotonic() + wait_s
        _wait(conn, live, new, end, lambda found: found.near(allow_parked=allow_parked))
        _make_indexes(conn, live, new, concurrently=not outer)
        act = _Swap(conn, live, new, allow_parked=allow_parked)
        # What a transaction has not committed holds nobody.
        with nullcontext(_nothing) if outer else _holding(conn, live) as hold:
            _take_turns(act, hold, end)
        return new.id


def coverage(conn: psycopg.Connection[Any], live: Column, new: Column) -> Coverage:
    """How far a successor is."""
    row = run(
        conn,
        BEHIND,
        new.id,
        HOLD_S,
        new=new.queue,
        old=live.queue,
        same=live.matches("o", "n", own=False),
        lost=OR.join(_lost(live, new)),
    ).fetchone()
    return Coverage(*(row or (False, 0, 0, 0)))


def _lost(live: Column, new: Column) -> Iterator[sql.Composed]:
    """Whether a swap would leave a queued row n without what the live column has of it."""
    if live.embedding and new.embedding:
        yield fill(
            LOST_VECTOR,
            table=live.table.identifier,
            same=live.matches("d", "n"),
            old=name(live.embedding, "d"),
            new=name(new.embedding, "d"),
        )
    if live.chunks:
        same = live.matches("c", "n")
        yield fill(LOST_CHUNKS, old=live.chunk_table, new=new.chunk_table, same=same)


def _pair(conn: psycopg.Connection[Any], live: Column) -> tuple[Column, Column]:
    with fixed_path(conn):
        row = successor(conn, live)
        if row is None:
            raise SchemaError(f"{live} has no successor: alter it first")
        return live, registry.load(conn, row)


def _wait(
    conn: psycopg.Connection[Any],
    live: Column,
    new: Column,
    end: float,
    enough: Callable[[Coverage], bool],
) -> None:
    """Return once a successor is far enough. Raises SyncError at the end, or for what won't do."""
    while not enough(found := coverage(conn, live, new)):
        if found.filled and found.parked and not found.behind:
            raise SyncError(
                f"the successor of {live} failed at {found.parked} rows: see failures, and retry "
                "them or allow parked rows"
            )
        if time.monotonic() >= end:
            state = f"{found.behind} rows behind" if found.filled else "still being filled"
            raise SyncError(
                f"the successor of {live} is {state}: let a worker of its model run, then swap"
            )
        time.sleep(POLL_S)


def _nothing() -> None:
    return None


@contextmanager
def _holding(conn: psycopg.Connection[Any], live: Column) -> Iterator[Callable[[], None]]:
    """Gives what to call now and then, so that workers claim no row of a column meanwhile."""

    def hold() -> None:
        run(conn, HOLD, live.id, HOLD_S)

    try:
        yield hold
    except BaseException:
        if not conn.broken:
            run(conn, LET_GO, live.id)
            run(conn, "SELECT pg_notify($1, $2)", registry.CHANNEL, str(live.id))
        raise


def _take_turns(act: "_Swap", hold: Callable[[], None], end: float) -> None:
    """Hold the column, wait until its successor is complete, and try to swap; until it is done."""

    def complete(found: Coverage) -> bool:
        hold()
        return found.complete(allow_parked=act.allow_parked)

    swapped = False
    while not swapped:
        _wait(act.conn, act.live, act.new, end, complete)
        left = max(end - time.monotonic(), 0.0)
        swapped = patiently(act.conn, act, wait_s=left, what=f"swapping {act.live}")


def _make_indexes(
    conn: psycopg.Connection[Any], live: Column, new: Column, *, concurrently: bool
) -> None:
    """The indexes that the live column has: built once the vectors are there, which is quicker."""
    for old, place in _places(conn, live, new):
        require_carried(conn, old, place)
        carry(conn, old, place, concurrently=concurrently)
        if new.index == "hnsw":
            make_index(conn, place, None, concurrently=concurrently)
        for first_pass in FIRST_PASSES:
            if not has_index(conn, old, first_pass):
                continue
            if fits(new, first_pass):
                make_index(conn, place, first_pass, concurrently=concurrently)
            else:
                told = (first_pass, live, new.dim)
                LOG.warning("the index for a first pass of %s of %s goes: its dim is %d now", *told)


def _places(
    conn: psycopg.Connection[Any], live: Column, new: Column
) -> list[tuple[Vectors, Vectors]]:
    """Where the live column has vectors, each with where its successor has them."""
    return list(zip(all_vectors(conn, live), all_vectors(conn, new), strict=True))


class _Swap:
    """The short transaction of a swap. Called, it returns False where it has to wait."""

    def __init__(
        self, conn: psycopg.Connection[Any], live: Column, new: Column, *, allow_parked: bool
    ) -> None:
        self.conn = conn
        self.live = live
        self.new = new
        self.allow_parked = allow_parked

    def __call__(self) -> bool:
        run(self.conn, "SELECT pg_advisory_xact_lock($1)", registry.LOCK_KEY)
        self._run("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        registry.require_unmoved(self.conn, self.live)
        registry.require_unmoved(self.conn, self.new)
        with fixed_path(self.conn):
            found = coverage(self.conn, self.live, self.new)
            if not found.complete(allow_parked=self.allow_parked):
                return False
            self._take_place()
        return True

    def _take_place(self) -> None:
        """Writers and readers wait from here to the end of the transaction."""
        live, new = self.live, self.new
        indexes = self._carried()
        triggers.remove(self.conn, live.id)
        self._run("DROP TABLE {queue}", queue=live.queue)
        try:
            self._replace_column()
            self._replace_chunks()
        except psycopg.errors.DependentObjectsStillExist as error:
            raise SchemaError(
                f"{live} cannot be swapped, since something depends on it: "
                f"{error.diag.message_detail}"
            ) from error
        for index in indexes:
            self._rename_index(*index)
        run(self.conn, RETIRE, new.id)
        run(self.conn, "DELETE FROM taskvec.columns WHERE id = $1", live.id)
        run(self.conn, PROMOTE, new.id)
        follow(self.conn)
        run(self.conn, "SELECT pg_notify($1, $2)", registry.CHANNEL, str(new.id))

    def _replace_column(self) -> None:
        if self.live.embedding is None or self.new.embedding is None:
            return
        # Of what was said of the former column since the successor was begun.
        names = self.live.embedding, self.new.embedding
        pass_on_column(self.conn, self.live.table.identifier, *names)
        carry_settings(self.conn, self.live.table.identifier, *names)
        old, new = map(sql.Identifier, names)
        self._run("ALTER TABLE {table} DROP COLUMN {old}", old=old)
        self._run("ALTER TABLE {table} RENAME COLUMN {new} TO {old}", old=old, new=new)

    def _replace_chunks(self) -> None:
        """The new chunk table takes the old one's name, row security, and name of the key."""
        if self.live.chunks is None:
            return
        old, new = self.live.chunk_table, self.new.chunk_table
        former = run(self.conn, KEY_INDEX, old.as_string(self.conn)).fetchone()
        security = row_security(self.conn, old)
        copy_owner(self.conn, old, new)
        pass_on_table(self.conn, old, new)
        self._run("DROP TABLE {old}", old=old)
        bare = sql.Identifier(self.live.chunks[1])
        self._run("ALTER TABLE {new} RENAME TO {bare}", new=new, bare=bare)
        restore_row_security(self.conn, old, security)
        present = run(self.conn, KEY_INDEX, old.as_string(self.conn)).fetchone()
        if former and present:
            self._rename_index(present[0], present[1], former[1])

    def _carried(self) -> list[tuple[str, str, str]]:
        """Schema and name of indexes like those that users made, and the names of the latter."""
        found = []
        for old, new in _places(self.conn, self.live, self.new):
            require_carried(self.conn, old, new)
            for index in user_indexes(self.conn, old):
                place, called = index.successor(new)
                if not is_built(self.conn, place, called):
                    raise SchemaError(
                        f"index {index.name!r} was made while {self.live} was swapped: swap again"
                    )
                found.append((place.schema, called, index.name))
        return found

    def _rename_index(self, schema: str, present: str, wanted: str) -> None:
        index, bare = sql.Identifier(schema, present), sql.Identifier(wanted)
        self._run("ALTER INDEX {index} RENAME TO {bare}", index=index, bare=bare)

    def _run(self, statement: str, **parts: sql.Composable) -> None:
        run(self.conn, statement, table=self.live.table.identifier, **parts)
