"""Attaches a column to its sources, and detaches it: each in one short transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

from taskvec.core import Embedder
from taskvec.core.errors import InputError, SchemaError, StoreError
from taskvec.core.registry import embedder_or_shared
from taskvec.integrations.postgres import registry, triggers
from taskvec.integrations.postgres.choosing import find_relation
from taskvec.integrations.postgres.chunks import CHUNK_COLUMNS, create_chunks
from taskvec.integrations.postgres.conditions import Condition, read_condition
from taskvec.integrations.postgres.following import follow, numbers
from taskvec.integrations.postgres.indexes import (
    all_vectors,
    has_index,
    make_index,
    require_owner,
)
from taskvec.integrations.postgres.monitoring import ensure_view
from taskvec.integrations.postgres.names import Table, find_table, read_table, vector_schema
from taskvec.integrations.postgres.queue import create_queue
from taskvec.integrations.postgres.registry import Column, fixed_path, vector_type
from taskvec.integrations.postgres.seeing import require_all_rows
from taskvec.integrations.postgres.sessions import in_transaction, patiently
from taskvec.integrations.postgres.statements import connected, run, several
from taskvec.integrations.postgres.wishes import Wish, check_model

DEFAULT_CHUNK_CHARACTERS = 800
WAIT_S = 30.0  # for a table's lock
INSERT = """
INSERT INTO taskvec.columns (relation, numbered, numbers, embedding, sources, keys, condition,
  watched, chunks, chunk_characters, model, task, query_task, dim, type, index, fingerprint,
  query_fingerprint, replace_existing)
VALUES ($1::oid::regclass, $1, {numbers}, $2, $3, $4, $5, $6, to_regclass($7), $8, $9, $10, $11,
  $12, $13, $14, $15, $16, $17)
"""
# Nothing to index yet: the index is made at once.
EMPTY = """
SELECT pg_relation_size($1::oid::regclass) = 0 AND NOT EXISTS (
  SELECT FROM pg_partition_tree($1::oid::regclass) WHERE pg_relation_size(relid) > 0)
"""
CHUNK_NAME = """
SELECT (SELECT ARRAY[n.nspname, c.relname]::text[] FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)),
       parse_ident($1), current_schema()::text
"""
# What an attachment is known by; the registry's words for it.
COMPARED = (
    "chunk_characters", "model", "task", "query_task", "dim", "type", "index", "fingerprint",
    "query_fingerprint",
)  # fmt: skip
FINGERPRINTS = ("fingerprint", "query_fingerprint")


@dataclass(frozen=True)
class Attached:
    """What attach did. created: False where the column had been attached like this before."""

    id: int
    name: str
    created: bool


def attach(
    dsn: str | psycopg.Connection[Any],
    table: str,
    *,
    source: str | Sequence[str],
    column: str | None = "embedding",
    dim: int | None = None,
    type: Literal["vector", "halfvec"] = "vector",  # noqa: A002 - SQL's own word, as elsewhere
    model: str = "starter",
    embedder: Embedder | None = None,
    task: str | None = "retrieval.passage",
    query_task: str | None = "retrieval.query",
    index: Literal["hnsw", "none"] = "hnsw",
    where: str | None = None,
    chunks: str | None = None,
    chunk_characters: int = DEFAULT_CHUNK_CHARACTERS,
    existing: Literal["replace", "keep"] = "replace",
    wait_s: float = WAIT_S,
) -> Attached:
    """Let a column hold the vectors of its table's texts from now on. Workers fill it.

    dsn: of the server, or an open connection, inside whose transaction it all happens.
    table: as SQL writes it ('docs', 'app.docs', '"My Docs"'). It needs a primary key.
    source: the columns that are encoded, joined by a blank line; any type that casts to text.
    column: added where it is missing; None keeps chunks alone.
    dim: a Matryoshka dim of the model; None is its full dim.
    model: what workers load; a server by its URL, without a key.
    embedder: an encoder of your own, that your workers are given too.
    where: an SQL condition over the row's own columns; other rows have no vector.
    chunks: a name for a new table of late-chunked passages, of at most `chunk_characters` each.
    existing: whether vectors already in the column are trusted or made anew.
    wait_s: how long to try for the table's lock, which is never waited for in its queue.

    Column, chunk table, triggers and queue are made in one short transaction. The index of a table
    that has rows follows, CONCURRENTLY unless inside a transaction: should it fail, all else stays,
    and the same call again makes it. Otherwise that changes nothing.
    Raises SchemaError where table, column or attachment do
    not fit, InputError for an option, StoreError for what else the server refuses.
    """
    check_model(model)
    encoder = embedder_or_shared(embedder, model)
    full = encoder.dim if dim is None else dim
    wish = Wish(
        embedding=column,
        sources=several(source),
        chunks=chunks,
        chunk_characters=None if chunks is None else chunk_characters,
        model=model,
        task=task,
        query_task=query_task,
        dim=full,
        type=type,
        index=index,
        existing=existing,
        fingerprint=encoder.fingerprint(task, full),
        query_fingerprint=encoder.fingerprint(query_task, full),
    )
    with connected(dsn) as conn:
        outer = in_transaction(conn)
        try:
            made, created = patiently(
                conn,
                lambda: _attach(conn, table, wish, where),
                wait_s=wait_s,
                what=f"attaching {table!r}",
            )
            if made.index == "hnsw":
                for vectors in all_vectors(conn, made):
                    make_index(conn, vectors, None, concurrently=not outer)
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaError(f"no privilege to attach {table!r}: {error}") from error
        return Attached(made.id, str(made), created)


def detach(
    dsn: str | psycopg.Connection[Any],
    table: str | None = None,
    *,
    column: str | None = "embedding",
    chunks: str | None = None,
    id: int | None = None,  # noqa: A002 - what `attach` and `status` call it
    drop: bool = False,
    wait_s: float = WAIT_S,
) -> bool:
    """Stop keeping a column up to date: its triggers, its queue and its registration go.

    column, chunks: as they were attached; with column=None, chunks says which.
    id: of a column in place of all these, also of one whose table is gone.
    drop: drop the column and the chunk table as well. Returns False where nothing was attached.
    wait_s: as of `attach`. Raises StoreError for a lock.
    """
    if (table is None) == (id is None):
        raise InputError(f"table {table!r} and id {id!r}: give one of them")

    def act(conn: psycopg.Connection[Any]) -> bool:
        run(conn, "SELECT pg_advisory_xact_lock($1)", registry.LOCK_KEY)
        known = id if table is None else _attached_id(conn, table, column, chunks)
        with fixed_path(conn):
            found = [] if known is None else registry.rows(conn, known)
            try:
                for row in found:
                    _remove(conn, row, drop=drop)
            except psycopg.errors.InsufficientPrivilege as error:
                raise SchemaError(
                    "only the role that attached a column, one with its rights or a superuser "
                    f"detaches it: {error.diag.message_primary}"
                ) from error
            return bool(found)

    what = f"detaching {table!r}" if table is not None else f"detaching column {id}"
    with connected(dsn) as conn:
        return patiently(conn, lambda: act(conn), wait_s=wait_s, what=what)


def _attached_id(
    conn: psycopg.Connection[Any], table: str, column: str | None, chunks: str | None
) -> int | None:
    oid, *_ = find_relation(conn, table)
    row = _find(conn, oid, column, _chunk_name(conn, chunks))
    return row["id"] if row else None


def _attach(
    conn: psycopg.Connection[Any], table: str, wish: Wish, where: str | None
) -> tuple[Column, bool]:
    """The attached column, and whether it is new."""
    run(conn, "SELECT pg_advisory_xact_lock($1)", registry.LOCK_KEY)
    oid = find_table(conn, table)
    facts = read_table(conn, oid)
    facts.require_key()
    require_all_rows(conn, facts.identifier)
    condition = read_condition(conn, facts, where) if where else None
    chunks = _chunk_name(conn, wish.chunks)
    with fixed_path(conn):
        vector_schema(conn)
        registry.create_schema(conn)
        ensure_view(conn)
        follow(conn)
        present = _find(conn, oid, wish.embedding, chunks)
        if present:
            column = registry.load(conn, present)
            _refuse_other(present, wish, condition, chunks)
        else:
            facts = read_table(conn, oid)
            _prepare(conn, facts, wish, chunks)
            column = _register(conn, facts, wish, condition, chunks)
            _equip(conn, column)
        return column, present is None


def _prepare(
    conn: psycopg.Connection[Any], table: Table, wish: Wish, chunks: tuple[str, str] | None
) -> None:
    """Make sure that the table fits, and make the vector column and the chunk table."""
    table.require(wish.sources, "sources")
    keys = {key.name for key in table.keys}
    if wish.embedding in keys:
        raise SchemaError(f"{wish.embedding!r} is a key of {table}: choose another column")
    _add_column(conn, table, wish)
    if chunks is not None:
        if taken := keys & set(CHUNK_COLUMNS):
            raise SchemaError(f"a chunk table has columns {taken} of its own: rename the key's")
        create_chunks(conn, table, chunks, vector_type(vector_schema(conn), wish.type, wish.dim))


def _register(
    conn: psycopg.Connection[Any],
    table: Table,
    wish: Wish,
    condition: Condition | None,
    chunks: tuple[str, str] | None,
) -> Column:
    """Write the registry's row. table: as it was before; a new column holds nothing of old."""
    keys = [key.name for key in table.keys]
    replace = wish.existing == "replace" and wish.embedding in table.fields
    read = condition.columns if condition else ()
    run(
        conn, INSERT, table.oid, wish.embedding, list(wish.sources), keys,
        condition.text if condition else None, list(dict.fromkeys([*wish.sources, *keys, *read])),
        sql.Identifier(*chunks).as_string(None) if chunks else None, wish.chunk_characters,
        wish.model, wish.task, wish.query_task, wish.dim, wish.type, wish.index, wish.fingerprint,
        wish.query_fingerprint, replace, numbers=numbers("$1"),
    )  # fmt: skip
    row = _find(conn, table.oid, wish.embedding, chunks)
    if row is None:
        raise StoreError(f"{table} was registered and is not there: is taskvec.columns changed?")
    return registry.load(conn, row)


def _equip(conn: psycopg.Connection[Any], column: Column) -> None:
    """Give a registered column its queue and triggers, and the index where there is no row yet."""
    create_queue(conn, column)
    triggers.install(conn, column)
    if column.index == "hnsw":
        for vectors in all_vectors(conn, column):
            if not has_index(conn, vectors, None):
                require_owner(vectors)
            if run(conn, EMPTY, vectors.place.oid).fetchone() == (True,):
                make_index(conn, vectors, None, concurrently=False)
    run(conn, "SELECT pg_notify($1, $2)", registry.CHANNEL, str(column.id))


def _chunk_name(conn: psycopg.Connection[Any], chunks: str | None) -> tuple[str, str] | None:
    """The schema and name of a chunk table: of the one there is, or of the new one."""
    if chunks is None:
        return None
    try:
        row = run(conn, CHUNK_NAME, chunks).fetchone()
    except psycopg.Error as error:
        raise SchemaError(f"{chunks!r} is no table's name: {error.diag.message_primary}") from None
    found, parts, current = row or (None, [], None)
    name = found or ([current, *parts] if len(parts) == 1 else parts)
    if len(name) != 2 or not name[0]:
        raise SchemaError(f"{chunks!r} is no table's name: write it as in SQL, as 'app.chunks'")
    return name[0], name[1]


def _find(
    conn: psycopg.Connection[Any], oid: int, column: str | None, chunks: tuple[str, str] | None
) -> dict[str, Any] | None:
    """The registry's row of a column, or of a chunk table that is kept without one."""
    for row in registry.rows(conn):
        alone = column is None and (row["chunk_schema"], row["chunk_table"]) != chunks
        if row["oid"] == oid and row["embedding"] == column and not alone:
            return row
    return None


def _refuse_other(
    row: dict[str, Any], wish: Wish, condition: Condition | None, chunks: tuple[str, str] | None
) -> None:
    """Raise SchemaError where a column is attached in another way than wished."""
    asked = {name: getattr(wish, name) for name in COMPARED}
    asked |= {"sources": list(wish.sources), "condition": condition.text if condition else None}
    present = {name: row[name] for name in asked}
    asked["chunks"] = chunks
    present["chunks"] = (row["chunk_schema"], row["chunk_table"]) if row["chunk_table"] else None
    if present != asked:
        names = [name for name in asked if present[name] != asked[name]]
        # The fingerprints differ with the others, and mean little to a reader.
        telling = [name for name in names if name not in FINGERPRINTS] or names
        differ = [f"{name} {present[name]!r} (asked: {asked[name]!r})" for name in telling]
        alterable = set(telling) <= {*COMPARED} - {"index"}
        cure = "alter it" if alterable else "detach it, and attach it anew"
        what = wish.embedding or wish.chunks
        raise SchemaError(f"{what!r} is attached with {', '.join(differ)}: {cure}")


def _add_column(conn: psycopg.Connection[Any], table: Table, wish: Wish) -> None:
    """Add the vector column, or make sure that the one that exists fits."""
    if wish.embedding is None:
        return
    wanted = f"{wish.type}({wish.dim})"
    field = table.fields.get(wish.embedding)
    if field is None:
        table.require_owner(f"add column {wish.embedding!r} {wanted}")
        run(
            conn,
            "ALTER TABLE {table} ADD COLUMN {column} {type}",
            table=table.identifier,
            column=sql.Identifier(wish.embedding),
            type=vector_type(vector_schema(conn), wish.type, wish.dim),
        )
    elif field.generated:
        raise SchemaError(f"{wish.embedding!r} is a generated column of {table}: choose another")
    elif (field.base, field.size) != (wish.type, wish.dim):
        raise SchemaError(
            f"column {wish.embedding!r} of {table} is {field.type}, not {wanted}: give its type "
            "and dim, or another column"
        )


def _remove(conn: psycopg.Connection[Any], row: dict[str, Any], *, drop: bool) -> None:
    """Remove what there is of a column; of a broken one that may be less than was made."""
    for other in registry.rows(conn):
        if other["successor_of"] == row["id"]:
            _remove(conn, other, drop=True)
    triggers.remove(conn, row["id"])
    queue = sql.Identifier("taskvec", f"queue_{row['id']}")
    run(conn, "DROP TABLE IF EXISTS {queue}", queue=queue)
    if drop and row["chunk_table"]:
        chunks = sql.Identifier(row["chunk_schema"], row["chunk_table"])
        run(conn, "DROP TABLE {chunks}", chunks=chunks)
    if drop and row["embedding"] and row["table"]:
        table = read_table(conn, row["oid"])
        table.require_owner(f"drop column {row['embedding']!r}")
        statement = "ALTER TABLE {table} DROP COLUMN IF EXISTS {column}"
        run(conn, statement, table=table.identifier, column=sql.Identifier(row["embedding"]))
    run(conn, "DELETE FROM taskvec.columns WHERE id = $1", row["id"])
