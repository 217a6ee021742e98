"""pgvector values of queries and passages, and binary COPY of rows that hold them."""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from taskvec.core import Embedder, Roles
from taskvec.core.embedder import Array, Role
from taskvec.core.errors import InputError, MissingExtraError, SchemaError, StoreError
from taskvec.core.inputs import check_several
from taskvec.core.registry import embedder_or_shared

try:
    import psycopg
    from psycopg import sql
    from psycopg.adapt import Dumper
    from psycopg.pq import Format
    from psycopg.rows import tuple_row

    try:
        from pgvector import Bit, HalfVector, Vector  # since 0.4
    except ImportError:
        from pgvector.psycopg import Bit, HalfVector, Vector
except ImportError as error:
    raise MissingExtraError("taskvec.adapters.pgvector", "pgvector") from error

__all__ = ["PgVectors", "acopy_rows", "copy_rows"]

Value: TypeAlias = Vector | HalfVector | Bit
KINDS: dict[str, type[Value]] = {"vector": Vector, "halfvec": HalfVector, "bit": Bit}


@dataclass(frozen=True, kw_only=True)
class PgVectors:
    """Makes the values of a pgvector column; a query and a passage each get their own task.

    model: "starter", a folder, a hub id, or the URL of a server.
    dim: a Matryoshka dim of the model; None is its full dim.
    type: the column's type; "bit" keeps the sign of each dimension, as binary_quantize() does.
    task: one task for both roles, instead of query_task and passage_task.
    embedder: an encoder of your own, used in place of the shared one of `model`.

    psycopg writes the values once `pgvector.psycopg.register_vector(conn)` was called.
    Raises InputError for another type.

    Example:
        vectors = PgVectors(dim=128)
        conn.execute("SELECT … ORDER BY embedding <=> %s LIMIT 5", [vectors.query("how to?")])
    """

    model: str = field(default="starter", kw_only=False)
    dim: int | None = None
    type: Literal["vector", "halfvec", "bit"] = "vector"
    task: str | None = None
    query_task: str | None = "retrieval.query"
    passage_task: str | None = "retrieval.passage"
    device: str = "auto"
    dtype: str = "auto"
    embedder: Embedder | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.type not in KINDS:
            raise InputError(f"unknown type {self.type!r} of a column: use one of {list(KINDS)}")

    def query(self, text: str) -> Value:
        """The value of one query, of `dim` dimensions."""
        made = self._embedder().encode([text], task=self._task("query"), dim=self.dim, lane="query")
        return self._values(made)[0]

    async def aquery(self, text: str) -> Value:
        """`query`, awaited."""
        source, task = self._embedder(), self._task("query")
        return self._values(await source.aencode([text], task=task, dim=self.dim, lane="query"))[0]

    def passages(self, texts: Sequence[str]) -> list[Value]:
        """The values of passages, of `dim` dimensions each."""
        check_several(texts)
        made = self._embedder().encode(texts, task=self._task("passage"), dim=self.dim)
        return self._values(made)

    async def apassages(self, texts: Sequence[str]) -> list[Value]:
        """`passages`, awaited."""
        check_several(texts)
        source, task = self._embedder(), self._task("passage")
        return self._values(await source.aencode(texts, task=task, dim=self.dim))

    def _values(self, vectors: Array) -> list[Value]:
        return [_value(KINDS[self.type], vector) for vector in vectors]

    def _embedder(self) -> Embedder:
        return embedder_or_shared(self.embedder, self.model, device=self.device, dtype=self.dtype)

    def _task(self, role: Role) -> str | None:
        return Roles.choose(self.task, self.query_task, self.passage_task).task(role)


def _value(kind: type[Value], vector: Array) -> Value:
    return Bit(vector > 0) if kind is Bit else kind(vector)


def copy_rows(
    conn: psycopg.Connection[Any],
    table: str | sql.Identifier,
    rows: Iterable[Sequence[Any]],
    *,
    columns: Sequence[str] | None = None,
) -> int:
    """Write rows by one binary COPY, all or none. Returns their number.

    table: as SQL writes it ('docs', 'app.docs', '"My Docs"'), or a psycopg.sql.Identifier.
    rows: one value per column. Vectors may be pgvector values, arrays or lists.
    columns: by default every column that is not generated, in the table's order.

    Inside a transaction it is a savepoint; otherwise it commits.
    Raises SchemaError for an unknown table or column, InputError for a row that does not fit its
    columns, and StoreError for what the server refuses; the latter two name the row's index.
    """
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        try:
            found = cursor.execute(COLUMNS, [_name(table)]).fetchall()
            target = _target(cursor, table, found, columns)
            with cursor.copy(target.statement) as copy:
                copy.set_types(target.oids)
                for index, row in enumerate(rows):
                    try:
                        copy.write_row(row)
                    except Exception as error:
                        raise _misfit(table, index, error) from error
        except psycopg.Error as error:
            raise _refused(table, error) from error
        return cursor.rowcount


async def acopy_rows(
    conn: psycopg.AsyncConnection[Any],
    table: str | sql.Identifier,
    rows: Iterable[Sequence[Any]],
    *,
    columns: Sequence[str] | None = None,
) -> int:
    """`copy_rows`, awaited."""
    async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        try:
            found = await (await cursor.execute(COLUMNS, [_name(table)])).fetchall()
            target = _target(cursor, table, found, columns)
            async with cursor.copy(target.statement) as copy:
                copy.set_types(target.oids)
                for index, row in enumerate(rows):
                    try:
                        await copy.write_row(row)
                    except Exception as error:
                        raise _misfit(table, index, error) from error
        except psycopg.Error as error:
            raise _refused(table, error) from error
        return cursor.rowcount


# A domain is written as the type under it; enums and all kinds of strings as text.
COLUMNS = """
SELECT n.nspname, c.relname, a.attname, b.typname,
       CASE WHEN b.typtype = 'e' OR b.typcategory = 'S' THEN 'text'::regtype::oid ELSE b.oid END
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
WHERE c.oid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""


@dataclass(frozen=True)
class _Target:
    statement: sql.Composed
    oids: list[int]


def _target(
    cursor: Any, table: Any, found: list[tuple[Any, ...]], columns: Sequence[str] | None
) -> _Target:
    """The COPY statement for a table, with dumpers for its vector columns on the cursor."""
    if not found:
        raise SchemaError(f"no table {_name(table)}: write it as in SQL, with quotes for capitals")
    known = {column: (kind, oid) for _, _, column, kind, oid in found}
    names = list(known) if columns is None else list(columns)
    if not names:
        raise SchemaError(f"no columns to write in {_name(table)}: it has {list(known)}")
    if missing := [name for name in names if name not in known]:
        raise SchemaError(f"no columns {missing} to write in {_name(table)}: it has {list(known)}")
    for kind, oid in known.values():
        if kind in KINDS:
            cursor.adapters.register_dumper(KINDS[kind], _dumper(kind, oid))
    statement = sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT BINARY)").format(
        sql.Identifier(*found[0][:2]), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    return _Target(statement, [known[name][1] for name in names])


class _ValueDumper(Dumper):
    """Writes anything that is a vector as the type of its column."""

    format = Format.BINARY
    kind: type[Value]

    def dump(self, obj: Any) -> bytes:
        if not isinstance(obj, self.kind):
            array = obj.to_numpy() if hasattr(obj, "to_numpy") else obj
            obj = _value(self.kind, np.asarray(array, dtype=np.float32))
        data: bytes = obj.to_binary()
        return data


@functools.cache
def _dumper(kind: str, oid: int) -> type[_ValueDumper]:
    """One class for each type of each database: psycopg keeps all that it ever sees."""
    return type("ValueDumper", (_ValueDumper,), {"oid": oid, "kind": KINDS[kind]})


def _name(table: str | sql.Identifier) -> str:
    return table if isinstance(table, str) else table.as_string(None)


def _misfit(table: str | sql.Identifier, index: int, error: Exception) -> StoreError | InputError:
    kind = StoreError if isinstance(error, psycopg.OperationalError) else InputError
    return kind(f"row {index} cannot be written to {_name(table)}: {error!r}")


def _refused(table: str | sql.Identifier, error: psycopg.Error) -> StoreError:
    line = re.search(r"line (\d+)", error.diag.context or "")
    place = f"row {int(line[1]) - 1} of the copy" if line else "the copy"
    return StoreError(f"{place} to {_name(table)} was refused: {error}")
