"""Begins to change a column's model, task or dim: a successor fills beside it."""

import enum
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import psycopg
from psycopg import sql

from taskvec.core import Embedder
from taskvec.core.errors import InputError, SchemaError
from taskvec.core.registry import embedder_or_shared
from taskvec.integrations.postgres import registry, triggers
from taskvec.integrations.postgres.carrying import carry_settings
from taskvec.integrations.postgres.choosing import choose, successor
from taskvec.integrations.postgres.chunks import create_chunks
from taskvec.integrations.postgres.following import follow, numbers
from taskvec.integrations.postgres.grants import (
    copy_owner,
    pass_on_column,
    pass_on_table,
)
from taskvec.integrations.postgres.queue import create_queue
from taskvec.integrations.postgres.registry import Column, fixed_path
from taskvec.integrations.postgres.sessions import patiently
from taskvec.integrations.postgres.statements import connected, run
from taskvec.integrations.postgres.wishes import Wish, check_model

WAIT_S = 30.0  # for a table's lock


class Same(enum.Enum):
    """What an option of `alter` is that was not given; None is a task of its own."""

    SAME = "same"


SAME: Final = Same.SAME

NEXT_ID = "SELECT nextval(pg_catalog.pg_get_serial_sequence('taskvec.columns', 'id'))"
# What is not asked for is as it is in the column that is succeeded.
INSERT = """
INSERT INTO taskvec.columns (id, relation, numbered, numbers, embedding, sources, keys, condition,
  watched, chunks, chunk_characters, model, task, query_task, dim, type, index, fingerprint,
  query_fingerprint, replace_existing, state, successor_of, succeeds)
SELECT $2, relation, relation, {numbers}, $3, sources, keys, condition, watched, to_regclass($4),
  $5, $6, $7, $8, $9, $10, index, $11, $12, false, 'building', id, succeeds || id
FROM taskvec.columns WHERE id = $1
"""


@dataclass(frozen=True)
class Altered:
    """A successor that fills in the background. created: False where it was there already."""

    id: int
    name: str
    created: bool


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
        check_model(wanted.model)
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
    try:
        return _begun(conn, live, wanted)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"{live} is altered by the role that attached it, one with its rights or a superuser: "
            f"{error.diag.message_primary}"
        ) from error


def _begun(conn: psycopg.Connection[Any], live: Column, wanted: Column) -> Altered:
    run(conn, "SELECT pg_advisory_xact_lock($1)", registry.LOCK_KEY)
    registry.require_unmoved(conn, live)
    with fixed_path(conn):
        follow(conn)
        present = successor(conn, live)
        if present is not None:
            return _same_or_refused(registry.load(conn, present), wanted)
        new = _register(conn, live, wanted)
        create_queue(conn, new)
        pass_on_table(conn, live.queue, new.queue)
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
        chunk_keys=present.chunk_keys,
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
        chunk_keys=tuple(key.name for key in live.keys) if chunks else (),
        replace_existing=False,
    )
    _add_column(conn, live, new)
    if chunks is not None:
        create_chunks(conn, new.table, chunks, new.vector_type)
        copy_owner(conn, live.chunk_table, new.chunk_table)
        pass_on_table(conn, live.chunk_table, new.chunk_table)
    run(
        conn, INSERT, live.id, new.id, new.embedding,
        new.chunk_table.as_string(conn) if chunks else None, new.chunk_characters, new.model,
        new.task, new.query_task, new.dim, new.type, new.fingerprint, new.query_fingerprint,
        numbers=numbers("relation"),
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
    pass_on_column(conn, new.table.identifier, live.embedding, new.embedding)
    carry_settings(conn, new.table.identifier, live.embedding, new.embedding)


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
