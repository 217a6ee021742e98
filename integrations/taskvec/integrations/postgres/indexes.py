"""Indexes for search: over a whole vector, its Matryoshka prefix, or its signs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from taskvec.core.errors import InputError, SchemaError, StoreError
from taskvec.integrations.postgres.choosing import choose
from taskvec.integrations.postgres.registry import Column, vector_type
from taskvec.integrations.postgres.sessions import in_transaction
from taskvec.integrations.postgres.statements import connected, fill, name, run

FirstPass: TypeAlias = Literal[64, 128, 256, "binary"]
SIGNS: Final = "binary"
FIRST_PASSES: tuple[FirstPass, ...] = get_args(FirstPass)

INDEX_LOCK_KEY = 7_313_003  # of advisory locks: builds on one table take turns
POLL_S = 0.1

# A name of ours holds a column's id, and so is the column's own whatever its table is called.
VALID = """
SELECT i.indisvalid FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1 AND c.relname = $2
"""
WHOLE = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_am m ON m.oid = c.relam AND m.amname = 'hnsw'
  JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0] AND o.opcname LIKE '%cosine\\_ops'
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
  WHERE i.indrelid = $1 AND a.attname = $2 AND i.indpred IS NULL AND i.indisvalid)
"""
PARTITIONS = """
SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent = $1 ORDER BY c.oid
"""
CREATE = "CREATE {unique} INDEX {how} {index} ON {only} {table} {definition}"
LOCK, LOCK_HERE = "pg_try_advisory_lock", "pg_try_advisory_xact_lock"


@dataclass(frozen=True)
class Place:
    """A table that has vectors to index: the user's own, its partitions, or a chunk table."""

    oid: int
    schema: str
    table: str
    partitioned: bool

    @property
    def identifier(self) -> sql.Identifier:
        """The table's quoted name."""
        return sql.Identifier(self.schema, self.table)


@dataclass(frozen=True)
class Vectors:
    """Where vectors of an attached column stand: in its table, or in its chunk table."""

    column: Column
    place: Place
    name: str
    chunked: bool

    def index_name(self, first_pass: FirstPass | None) -> str:
        """The name of an index that is made here."""
        kind = "chunks" if self.chunked else "column"
        return f"taskvec_{self.column.id}_{kind}_{first_pass or 'full'}"

    def definition(self, first_pass: FirstPass | None) -> sql.Composed:
        """How the index of a pass is made."""
        field: sql.Composable = name(self.name)
        what = self.first(field, first_pass) if first_pass else field
        binary = first_pass == SIGNS
        family = "bit_hamming_ops" if binary else f"{self.column.type}_cosine_ops"
        return fill("USING hnsw (({what}) {operators})", what=what, operators=self.function(family))

    def function(self, called: str) -> sql.Identifier:
        """A function of pgvector's, or a family of operators."""
        return sql.Identifier(self.column.vectors, called)

    def operator(self, sign: str) -> sql.Composed:
        """An operator of pgvector's, whatever the search_path."""
        return fill(f"OPERATOR({{schema}}.{sign})", schema=sql.Identifier(self.column.vectors))

    def whole(self, value: sql.Composable) -> sql.Composed:
        """A value as a vector of the column's type."""
        return fill("({value})::{type}", value=value, type=self.column.vector_type)

    def first(self, value: sql.Composable, first_pass: FirstPass) -> sql.Composed:
        """What a first pass compares of a vector: its prefix, or the signs of its dimensions."""
        column = self.column
        if first_pass == SIGNS:
            text, called = "({f}({value})::pg_catalog.bit({dim}))", "binary_quantize"
            dim = sql.Literal(column.dim)
            return fill(text, f=self.function(called), value=value, dim=dim)
        return fill(
            "({f}({value}, 1, {dim})::{type})",
            f=self.function("subvector"),
            value=value,
            dim=sql.Literal(first_pass),
            type=vector_type(column.vectors, column.type, first_pass),
        )


def index_first_pass(
    dsn: str | psycopg.Connection[Any],
    table: str,
    first_pass: FirstPass,
    *,
    column: str | None = None,
    chunks: str | None = None,
) -> bool:
    """Make the index that a search with this first pass uses. Returns False where it is there.

    first_pass: the Matryoshka dim of the first pass, or "binary" for the signs of all dimensions.
    column, chunks: as in `search`.

    Built CONCURRENTLY, so that writers go on, unless the connection is inside a transaction. What
    an interrupted build left behind is built anew.
    Raises InputError for a first pass that does not fit the column, SchemaError where nothing is
    attached or the role does not own the table, StoreError where another session is building and
    a transaction could not wait for it.
    """
    with connected(dsn) as conn:
        outer = in_transaction(conn)
        with conn.transaction():
            vectors = vectors_of(conn, choose(conn, table, column, chunks), chunks=bool(chunks))
        check_first_pass(vectors.column, first_pass)
        return make_index(conn, vectors, first_pass, concurrently=not outer)


def check_first_pass(column: Column, first_pass: FirstPass) -> None:
    """Raise InputError unless a first pass is known and smaller than the column's vectors."""
    if first_pass not in FIRST_PASSES:
        raise InputError(f"unknown first pass {first_pass!r}: use one of {[*FIRST_PASSES]}")
    if not fits(column, first_pass):
        raise InputError(
            f"a first pass of {first_pass} dims does not fit {column}, which has {column.dim}: "
            "take fewer dims, or search without a first pass"
        )


def fits(column: Column, first_pass: FirstPass) -> bool:
    """Whether a first pass reads less than the column's whole vectors."""
    return first_pass == SIGNS or first_pass < column.dim


def vectors_of(conn: psycopg.Connection[Any], column: Column, *, chunks: bool = False) -> Vectors:
    """Where a column's vectors are: in its chunk table if asked for, or if it has no other."""
    table = column.table
    if column.embedding is not None and not chunks:
        place = Place(table.oid, table.schema, table.name, table.partitioned)
        return Vectors(column, place, column.embedding, chunked=False)
    if column.chunks is None:
        raise SchemaError(f"{column} keeps no chunks: attach it with a chunk table")
    spelled = column.chunk_table.as_string(conn)
    (oid,) = run(conn, "SELECT pg_catalog.to_regclass($1)::oid", spelled).fetchone() or (0,)
    place = Place(oid, *column.chunks, partitioned=False)
    return Vectors(column, place, "embedding", chunked=True)


def all_vectors(conn: psycopg.Connection[Any], column: Column) -> Iterator[Vectors]:
    """Both places where a column may have vectors."""
    if column.embedding is not None:
        yield vectors_of(conn, column)
    if column.chunks is not None:
        yield vectors_of(conn, column, chunks=True)


def has_index(
    conn: psycopg.Connection[Any], vectors: Vectors, first_pass: FirstPass | None
) -> bool:
    """Whether a complete index serves a pass: one made here, or any of whole vectors for none."""
    if first_pass is None:
        return run(conn, WHOLE, vectors.place.oid, vectors.name).fetchone() == (True,)
    return is_built(conn, vectors.place, vectors.index_name(first_pass))


def is_built(conn: psycopg.Connection[Any], place: Place, index: str) -> bool:
    """Whether a table has an index of this name, complete."""
    return run(conn, VALID, place.oid, index).fetchone() == (True,)


def make_index(
    conn: psycopg.Connection[Any],
    vectors: Vectors,
    first_pass: FirstPass | None,
    *,
    concurrently: bool,
) -> bool:
    """Make the index of a pass, unless it is there. Returns whether it was made."""
    if has_index(conn, vectors, first_pass):
        return False
    require_owner(vectors)
    index = Index(vectors.index_name(first_pass), vectors.definition(first_pass))
    return build(conn, vectors.place, index, concurrently=concurrently)


def require_owner(vectors: Vectors) -> None:
    """Raise SchemaError where this role may not index a column. Chunk tables are its own."""
    if not vectors.chunked:
        vectors.column.table.require_owner(f"index column {vectors.name!r}")


@dataclass(frozen=True)
class Index:
    """An index to be made: its name, and its definition from USING on."""

    name: str
    definition: sql.Composed
    unique: bool = False


def build(conn: psycopg.Connection[Any], place: Place, index: Index, *, concurrently: bool) -> bool:
    """Make an index, unless it is there. Returns whether it was made."""
    with _turn(conn, place, wait=concurrently):
        if is_built(conn, place, index.name):
            return False
        _Building(conn, index, concurrently=concurrently).build(place, index.name)
        return True


@contextmanager
def _turn(conn: psycopg.Connection[Any], place: Place, *, wait: bool) -> Iterator[None]:
    """No other session builds here meanwhile: what is half built is then an interrupted build.

    Waited for outside of any statement, since a build waits for the snapshots of all statements.
    """
    key = INDEX_LOCK_KEY << 32 | place.oid
    statement = f"SELECT {LOCK if wait else LOCK_HERE}($1)"
    while run(conn, statement, key).fetchone() != (True,):
        if not wait:
            raise StoreError(
                f"another session builds an index on {place.identifier.as_string(conn)}: try again "
                "in a new transaction"
            )
        time.sleep(POLL_S)
    try:
        yield
    finally:
        if wait and not conn.closed:
            run(conn, "SELECT pg_advisory_unlock($1)", key)


class _Building:
    """The building of one index. A partitioned table's is built partition by partition."""

    def __init__(self, conn: psycopg.Connection[Any], index: Index, *, concurrently: bool) -> None:
        self.conn = conn
        self.index = index
        self.how = sql.SQL("CONCURRENTLY" if concurrently else "")

    def build(self, place: Place, name: str) -> None:
        row = run(self.conn, VALID, place.oid, name).fetchone()
        if row and not row[0] and not place.partitioned:
            # An interrupted build: nobody reads it, and it would be kept up to date for nothing.
            self._drop(place, name)
        if not (row and (row[0] or place.partitioned)):
            self._create(place, name)
        if place.partitioned:
            self._attach_parts(place, name)

    def _attach_parts(self, place: Place, name: str) -> None:
        for oid, *rest in run(self.conn, PARTITIONS, place.oid).fetchall():
            part = Place(oid, *rest)
            own = f"{name}_{oid}"
            self.build(part, own)
            run(
                self.conn,
                "ALTER INDEX {whole} ATTACH PARTITION {own}",
                whole=sql.Identifier(place.schema, name),
                own=sql.Identifier(part.schema, own),
            )

    def _create(self, place: Place, name: str) -> None:
        try:
            run(
                self.conn,
                CREATE,
                unique=sql.SQL("UNIQUE" if self.index.unique else ""),
                how=sql.SQL("") if place.partitioned else self.how,
                only=sql.SQL("ONLY" if place.partitioned else ""),
                index=sql.Identifier(name),
                table=place.identifier,
                definition=self.index.definition,
            )
        except (psycopg.DataError, psycopg.ProgrammingError):
            # What rows do not fit is not left behind half built.
            if self.conn.info.transaction_status == TransactionStatus.IDLE:
                self._drop(place, name)
            raise

    def _drop(self, place: Place, name: str) -> None:
        index = sql.Identifier(place.schema, name)
        run(self.conn, "DROP INDEX {how} IF EXISTS {index}", how=self.how, index=index)
