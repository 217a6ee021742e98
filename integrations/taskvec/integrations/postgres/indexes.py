"""Indexes for search: over a whole vector, its Matryoshka prefix, or its signs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import psycopg
from psycopg import sql

from taskvec.core.errors import InputError, SchemaError
from taskvec.integrations.postgres.choosing import choose
from taskvec.integrations.postgres.registry import Column, vector_type
from taskvec.integrations.postgres.sessions import in_transaction
from taskvec.integrations.postgres.statements import connected, fill, name, run

FirstPass: TypeAlias = Literal[64, 128, 256, "binary"]
SIGNS: Final = "binary"
FIRST_PASSES: tuple[FirstPass, ...] = get_args(FirstPass)

# The names hold a column's id, and so are the column's own whatever its table is called.
VALID = """
SELECT i.indisvalid FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1 AND c.relname = $2
"""
PARTITIONS = """
SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent = $1 ORDER BY c.oid
"""
CREATE = "CREATE INDEX {how} {index} ON {only} {table} USING hnsw (({what}) {operators})"


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

    def function(self, called: str) -> sql.Identifier:
        """A function of pgvector's."""
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
    attached or the role does not own the table.
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
    """Whether the index of a pass was made here, to its end."""
    row = run(conn, VALID, vectors.place.oid, vectors.index_name(first_pass)).fetchone()
    return bool(row and row[0])


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
    if not vectors.chunked:
        vectors.column.table.require_owner(f"index {vectors.name!r}")
    building = _Building(conn, vectors, first_pass, concurrently=concurrently)
    building.build(vectors.place, vectors.index_name(first_pass))
    return True


class _Building:
    """The building of one index. A partitioned table's is built partition by partition."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        vectors: Vectors,
        first_pass: FirstPass | None,
        *,
        concurrently: bool,
    ) -> None:
        self.conn = conn
        self.vectors = vectors
        self.first_pass = first_pass
        self.concurrently = concurrently

    def build(self, place: Place, index: str) -> None:
        row = run(self.conn, VALID, place.oid, index).fetchone()
        if row and not row[0] and not place.partitioned:
            # An interrupted build: nobody reads it, and it would be kept up to date for nothing.
            stale = sql.Identifier(place.schema, index)
            run(self.conn, "DROP INDEX {how} {index}", how=self._how(), index=stale)
        if not (row and (row[0] or place.partitioned)):
            self._create(place, index)
        if place.partitioned:
            self._attach_parts(place, index)

    def _attach_parts(self, place: Place, index: str) -> None:
        for oid, *rest in run(self.conn, PARTITIONS, place.oid).fetchall():
            part = Place(oid, *rest)
            own = f"{index}_{oid}"
            self.build(part, own)
            run(
                self.conn,
                "ALTER INDEX {whole} ATTACH PARTITION {own}",
                whole=sql.Identifier(place.schema, index),
                own=sql.Identifier(part.schema, own),
            )

    def _create(self, place: Place, index: str) -> None:
        vectors, kind = self.vectors, self.vectors.column.type
        field: sql.Composable = name(vectors.name)
        what = vectors.first(field, self.first_pass) if self.first_pass else field
        family = "bit_hamming_ops" if self.first_pass == SIGNS else f"{kind}_cosine_ops"
        run(
            self.conn,
            CREATE,
            how=sql.SQL("") if place.partitioned else self._how(),
            only=sql.SQL("ONLY" if place.partitioned else ""),
            index=sql.Identifier(index),
            table=place.identifier,
            what=what,
            operators=sql.Identifier(vectors.column.vectors, family),
        )

    def _how(self) -> sql.SQL:
        return sql.SQL("CONCURRENTLY" if self.concurrently else "")
