"""Changes a column's model, task or dim: a successor fills beside it, then takes its place."""

import enum
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import psycopg
from psycopg import sql

from taskvec.core import Embedder
from taskvec.core.errors import InputError, SchemaError, SyncError
from taskvec.core.registry import embedder_or_shared
from taskvec.integrations.postgres import registry, triggers
from taskvec.integrations.postgres.choosing import choose, successor
from taskvec.integrations.postgres.chunks import create_chunks
from taskvec.integrations.postgres.grants import copy_column_grants, copy_table_grants
from taskvec.integrations.postgres.indexes import (
    FIRST_PASSES,
    all_vectors,
    fits,
    has_index,
    make_index,
)
from taskvec.integrations.postgres.queue import create_queue
from taskvec.integrations.postgres.registry import Column, fixed_path
from taskvec.integrations.postgres.sessions import in_transaction, patiently
from taskvec.integrations.postgres.statements import connected, run
from taskvec.integrations.postgres.wishes import Wish

WAIT_S = 30.0
POLL_S = 0.05
HOLD_S = 10.0


class Same(enum.Enum):
    """What an option of `alter` is that was not given; None is a task of its own."""

    SAME = "same"


SAME: Final = Same.SAME

NEXT_ID = "SELECT nextval(pg_catalog.pg_get_serial_sequence('taskvec.columns', 'id'))"
# What is not asked for is as it is in the column that is succeeded.
INSERT = """
INSERT INTO taskvec.columns (id, relation, embedding, sources, keys, condition, watched, chunks,
  chunk_characters, model, task, query_task, dim, type, index, fingerprint, query_fingerprint,
  replace_existing, state, successor_of)
SELECT $2, relation, $3, sources, keys, condition, watched, to_regclass($4),
  $5, $6, $7, $8, $9, $10, index, $11, $12, false, 'building', id
FROM taskvec.columns WHERE id = $1
"""
# Rows that the successor has yet to make and the live column has made. A write that neither has
# followed yet is no reason to wait: search would find no less after the swap than before it.
BEHIND = """
SELECT (SELECT backfill_done FROM taskvec.columns WHERE id = $1),
  count(*) FILTER (WHERE NOT n.parked), count(*) FILTER (WHERE n.parked),
  count(*) FILTER (WHERE NOT n.parked
    AND (n.priority <> 0 OR n.enqueued_at < now() - make_interval(secs => $2)))
FROM {new} n
WHERE n.priority <> 0 OR NOT EXISTS (SELECT FROM {old} o WHERE {same})
"""
# Runs out by itself, should whoever holds be killed.
HOLD = """
UPDATE taskvec.columns SET held_until = now() + make_interval(secs => $2)
WHERE id = $1 AND (held_until IS NULL OR held_until < now() + make_interval(secs => $2 / 2))
"""
LET_GO = "UPDATE taskvec.columns SET held_until = NULL WHERE id = $1"
INDEX_NAME = """
SELECT c.relname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = c.relam AND m.amname = 'hnsw'
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = $1 AND a.attname = $2 ORDER BY c.oid LIMIT 1
"""
KEY_INDEX = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisprimary
"""
RETIRE = "UPDATE taskvec.columns SET successor_of = NULL WHERE id = $1"
PROMOTE = "UPDATE taskvec.columns SET state = 'live', embedding = $2 WHERE id = $1"


@dataclass(frozen=True)
class Altered:
    """A successor that fills in the background. created: False where it was there already."""

    id: int
    name: str
    created: bool


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


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a call of alter asks for; the names are its options."""

    model: str | None
    task: str | Literal[Same.SAME] | None
    query_task: str | Literal[Same.SAME] | None
    dim: int | None
    type: str | None
    chunk_characters: int | None

    def of(self, live: Column, embedder: Embedder | None) -> Column:
        """The column as it is wanted, under the names that it has now. Raises InputError."""
        if self.chunk_characters is not None and live.chunks is None:
            raise InputError(f"chunk_characters {self.chunk_characters}: {live} keeps no chunks")
        wanted = replace(
            live,
            model=live.model if self.model is None else self.model,
            task=live.task if self.task is SAME else self.task,
            query_task=live.query_task if self.query_task is SAME else self.query_task,
            dim=live.dim if self.dim is None else self.dim,
            type=self.type or live.type,
            chunk_characters=self.chunk_characters or live.chunk_characters,
        )
        wanted = _fingerprinted(wanted, embedder_or_shared(embedder, wanted.model))
        _check(wanted)
        if wanted == live:
            raise InputError(f"nothing would change in {live}: give another model, task or dim")
        return wanted


def alter(
    dsn: str | psycopg.Connection[Any],
    table: str,
    *,
    column: str | None = None,
    chunks: str | None = None,
    model: str | None = None,
    embedder: Embedder | None = None,
    task: str | Literal[Same.SAME] | None = SAME,
    query_task: str | Literal[Same.SAME] | None = SAME,
    dim: int | None = None,
    type: Literal["vector", "halfvec"] | None = None,  # noqa: A002 - SQL's own word
    chunk_characters: int | None = None,
    wait_s: float = WAIT_S,
) -> Altered:
    """Begin to change how a column is made. Workers fill its successor; searches see none of it.

    column, chunks: as in `search`. What is not given stays as it is.
    embedder: an encoder of your own, which the workers of the successor are given too.
    wait_s: how long to try for the table's lock, which is never waited for in its queue.

    `swap` puts the successor in the column's place, `abandon` removes it. The same call again
    changes nothing. Raises InputError where nothing would change, SchemaError where another
    successor is being made already or the role does not own the table, StoreError for a lock.
    """
    change = Change(
        model=model,
        task=task,
        query_task=query_task,
        dim=dim,
        type=type,
        chunk_characters=chunk_characters,
    )
    with connected(dsn) as conn:
        with conn.transaction():
            live = choose(conn, table, column, chunks)
        wanted = change.of(live, embedder)
        return patiently(
            conn, lambda: _begin(conn, live, wanted), wait_s=wait_s, what=f"altering {live}"
        )


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

    Its indexes are built first, CONCURRENTLY unless inside a transaction. Then workers leave the
    column alone until its successor has caught up, a matter of seconds; the swap itself is one
    short transaction. The former column goes, and its chunks.
    wait_s: how long to wait for the successor to be complete, and then for the table's lock.
    allow_parked: leave rows without a vector that the successor failed at.

    Raises SyncError where it is not complete by then, SchemaError where there is no successor or
    something else depends on the column, StoreError for a lock.
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


def abandon(
    dsn: str | psycopg.Connection[Any],
    table: str,
    *,
    column: str | None = None,
    chunks: str | None = None,
    wait_s: float = WAIT_S,
) -> bool:
    """Remove a column's successor, and all that was made for it. Returns False without one."""
    with connected(dsn) as conn:
        with conn.transaction():
            live = choose(conn, table, column, chunks)
        return patiently(conn, lambda: _abandon(conn, live), wait_s=wait_s, what=f"altering {live}")


def coverage(conn: psycopg.Connection[Any], live: Column, new: Column) -> Coverage:
    """How far a successor is."""
    same = live.matches("o", "n", own=False)
    row = run(conn, BEHIND, new.id, HOLD_S, new=new.queue, old=live.queue, same=same).fetchone()
    return Coverage(*(row or (False, 0, 0, 0)))


def _fingerprinted(column: Column, encoder: Embedder) -> Column:
    return replace(
        column,
        fingerprint=encoder.fingerprint(column.task, column.dim),
        query_fingerprint=encoder.fingerprint(column.query_task, column.dim),
    )


def _check(wanted: Column) -> None:
    """Raise InputError for options that fit no column."""
    chunks = ".".join(wanted.chunks) if wanted.chunks else None
    Wish(
        embedding=wanted.embedding,
        sources=wanted.sources,
        chunks=chunks,
        chunk_characters=wanted.chunk_characters,
        model=wanted.model,
        task=wanted.task,
        query_task=wanted.query_task,
        dim=wanted.dim,
        type=wanted.type,
        index=wanted.index,
        existing="keep",
        fingerprint=wanted.fingerprint,
        query_fingerprint=wanted.query_fingerprint,
    )


def _begin(conn: psycopg.Connection[Any], live: Column, wanted: Column) -> Altered:
    run(conn, "SELECT pg_advisory_xact_lock($1)", registry.LOCK_KEY)
    registry.require_unmoved(conn, live)
    with fixed_path(conn):
        present = successor(conn, live)
        if present is not None:
            return _same_or_refused(registry.load(conn, present), wanted)
        new = _register(conn, live, wanted)
        create_queue(conn, new)
        copy_table_grants(conn, live.queue, new.queue)
        triggers.install(conn, new)
        run(conn, "SELECT pg_notify($1, $2)", registry.CHANNEL, str(new.id))
        return Altered(new.id, str(live), created=True)


def _same_or_refused(present: Column, wanted: Column) -> Altered:
    asked = replace(
        wanted,
        id=present.id,
        table=present.table,
        embedding=present.embedding,
        chunks=present.chunks,
        replace_existing=present.replace_existing,
    )
    if asked == present:
        return Altered(present.id, str(wanted), created=False)
    raise SchemaError(
        f"{wanted} is being altered already, to model {present.model!r}, task {present.task!r} and "
        f"dim {present.dim}: swap or abandon that first"
    )


def _register(conn: psycopg.Connection[Any], live: Column, wanted: Column) -> Column:
    """Make the places that the successor's vectors go to, and its row in the registry."""
    (new_id,) = run(conn, NEXT_ID).fetchone() or (0,)
    name = f"taskvec_next_{new_id}"
    chunks = (live.chunks[0], name) if live.chunks else None
    new = replace(
        wanted,
        id=new_id,
        embedding=name if live.embedding is not None else None,
        chunks=chunks,
        replace_existing=False,
    )
    _add_column(conn, live, new)
    if chunks is not None:
        create_chunks(conn, new.table, chunks, new.vector_type)
        copy_table_grants(conn, live.chunk_table, new.chunk_table)
    run(
        conn, INSERT, live.id, new.id, new.embedding,
        new.chunk_table.as_string(conn) if chunks else None, new.chunk_characters, new.model,
        new.task, new.query_task, new.dim, new.type, new.fingerprint, new.query_fingerprint,
    )  # fmt: skip
    return new


def _add_column(conn: psycopg.Connection[Any], live: Column, new: Column) -> None:
    if live.embedding is None or new.embedding is None:
        return
    live.table.require_owner(f"add a successor of {live.embedding!r}")
    run(
        conn,
        "ALTER TABLE {table} ADD COLUMN {column} {type}",
        table=new.table.identifier,
        column=sql.Identifier(new.embedding),
        type=new.vector_type,
    )
    copy_column_grants(conn, new.table.identifier, live.embedding, new.embedding)


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
    for old, place in zip(all_vectors(conn, live), all_vectors(conn, new), strict=True):
        if new.index == "hnsw":
            make_index(conn, place, None, concurrently=concurrently)
        for first_pass in FIRST_PASSES:
            if fits(new, first_pass) and has_index(conn, old, first_pass):
                make_index(conn, place, first_pass, concurrently=concurrently)


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
        indexes = self._index_names()
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
        self._rename_indexes(indexes)
        run(self.conn, RETIRE, new.id)
        run(self.conn, "DELETE FROM taskvec.columns WHERE id = $1", live.id)
        run(self.conn, PROMOTE, new.id, live.embedding)
        run(self.conn, "SELECT pg_notify($1, $2)", registry.CHANNEL, str(new.id))

    def _replace_column(self) -> None:
        if self.live.embedding is None or self.new.embedding is None:
            return
        old, new = sql.Identifier(self.live.embedding), sql.Identifier(self.new.embedding)
        self._run("ALTER TABLE {table} DROP COLUMN {old}", old=old)
        self._run("ALTER TABLE {table} RENAME COLUMN {new} TO {old}", old=old, new=new)

    def _replace_chunks(self) -> None:
        """The new chunk table takes the old one's name, and its key's index that one's."""
        if self.live.chunks is None:
            return
        old, new = self.live.chunk_table, self.new.chunk_table
        former = run(self.conn, KEY_INDEX, old.as_string(self.conn)).fetchone()
        self._run("DROP TABLE {old}", old=old)
        bare = sql.Identifier(self.live.chunks[1])
        self._run("ALTER TABLE {new} RENAME TO {bare}", new=new, bare=bare)
        present = run(self.conn, KEY_INDEX, old.as_string(self.conn)).fetchone()
        if former and present:
            self._rename_index(present[0], present[1], former[1])

    def _index_names(self) -> list[tuple[str, str, str]]:
        """Schema and name of the successor's indexes, and the names of those they succeed."""
        found = []
        olds, news = all_vectors(self.conn, self.live), all_vectors(self.conn, self.new)
        for old, new in zip(olds, news, strict=True):
            row = run(self.conn, INDEX_NAME, old.place.oid, old.name).fetchone()
            if row and has_index(self.conn, new, None):
                found.append((new.place.schema, new.index_name(None), row[0]))
        return found

    def _rename_indexes(self, indexes: list[tuple[str, str, str]]) -> None:
        for schema, present, wanted in indexes:
            # An index of ours is called by its column's id, which it keeps.
            if not wanted.startswith("taskvec_"):
                self._rename_index(schema, present, wanted)

    def _rename_index(self, schema: str, present: str, wanted: str) -> None:
        index, bare = sql.Identifier(schema, present), sql.Identifier(wanted)
        self._run("ALTER INDEX {index} RENAME TO {bare}", index=index, bare=bare)

    def _run(self, statement: str, **parts: sql.Composable) -> None:
        run(self.conn, statement, table=self.live.table.identifier, **parts)


def _abandon(conn: psycopg.Connection[Any], live: Column) -> bool:
    run(conn, "SELECT pg_advisory_xact_lock($1)", registry.LOCK_KEY)
    with fixed_path(conn):
        row = successor(conn, live)
        if row is None:
            return False
        # Locks are taken in a worker's order: the table, the queue, the registry.
        triggers.remove(conn, row["id"])
        queue = sql.Identifier("taskvec", f"queue_{row['id']}")
        run(conn, "DROP TABLE IF EXISTS {queue}", queue=queue)
        _drop_places(conn, live, row)
        run(conn, "DELETE FROM taskvec.columns WHERE id = $1", row["id"])
        run(conn, "SELECT pg_notify($1, $2)", registry.CHANNEL, str(row["id"]))
        return True


def _drop_places(conn: psycopg.Connection[Any], live: Column, row: dict[str, Any]) -> None:
    if row["chunk_table"] is not None:
        chunks = sql.Identifier(row["chunk_schema"], row["chunk_table"])
        run(conn, "DROP TABLE {chunks}", chunks=chunks)
    if row["embedding"] is not None:
        column = sql.Identifier(row["embedding"])
        statement = "ALTER TABLE {table} DROP COLUMN IF EXISTS {column}"
        run(conn, statement, table=live.table.identifier, column=column)
