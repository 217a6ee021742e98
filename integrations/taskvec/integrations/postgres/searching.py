"""Searches an attached column: the query's own task, filters, a first pass, exact re-ranking."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from taskvec.core import Embedder
from taskvec.core.embedder import Array
from taskvec.core.errors import FingerprintError, InputError, SchemaError
from taskvec.core.registry import embedder_or_shared
from taskvec.integrations.postgres.choosing import choose
from taskvec.integrations.postgres.indexes import (
    SIGNS,
    FirstPass,
    Vectors,
    check_first_pass,
    has_index,
    vectors_of,
)
from taskvec.integrations.postgres.registry import Column, MovedError
from taskvec.integrations.postgres.sessions import local_settings
from taskvec.integrations.postgres.statements import AND, connected, fill, name, names, run

# pgvector's bounds and its own default for how many candidates an HNSW scan keeps.
LEAST_CANDIDATES, MOST_CANDIDATES = 40, 1_000
ATTEMPTS = 3  # each of which a swap may come across
CHUNK_FIELDS = ("ordinal", "first", "last", "text")

# MATERIALIZED keeps the planner from merging the passes into one, which no index would serve.
STAGED = """WITH candidates AS MATERIALIZED (
  SELECT {fields}, {vector} AS "taskvec vector" FROM {table} AS s
  WHERE {filters}
  ORDER BY {rough} LIMIT {candidates}
)
SELECT {plain}, 1 - ("taskvec vector" {nearest} {query}) AS score FROM candidates
ORDER BY "taskvec vector" {nearest} {query} LIMIT {k}"""
DIRECT = """SELECT {fields}, 1 - ({vector} {nearest} {query}) AS score FROM {table} AS s
WHERE {filters}
ORDER BY {vector} {nearest} {query} LIMIT {k}"""
# No index serves a sum, so that all rows that fit are compared.
EXACT = """SELECT {fields}, 1 - ({vector} {nearest} {query}) AS score FROM {table} AS s
WHERE {filters}
ORDER BY ({vector} {nearest} {query}) + 0 LIMIT {k}"""
# How the server's plan shows that an index gave the order: rows may then be left out.
APPROXIMATE = "Order By:"
# On lines of their own, so that a comment at the filter's end hides nothing.
PARAMETER = re.compile(r"\$(\d{1,5})\b")
OF_ROW = "(\n{where}\n)"
OF_DOCUMENT = "EXISTS (SELECT FROM {table} AS d WHERE {same} AND (\n{where}\n))"
# The lock that reading takes, before anything is read; a swap needs all others gone. Whether the
# queue is there says whether there was one, in a transaction with an older snapshot as well.
LOCK = "SELECT {vector} FROM {table} AS s LIMIT 0"
MOVED = "SELECT pg_catalog.to_regclass($1) IS NULL"
HAS_SETTING = "SELECT count(*) FROM pg_catalog.pg_settings WHERE name = $1"


class Found(list[dict[str, Any]]):
    """The rows of a search, best first, each a dict.

    exact: True where all rows that fit were compared, so that there are no nearer ones and, of
    fewer than k, no more; False where an index may have left some out.
    sql: the statements that were run, with $1 … for values. plan: the server's, if asked for.
    """

    def __init__(
        self, rows: Sequence[dict[str, Any]], *, exact: bool, sql: str, plan: str | None
    ) -> None:
        super().__init__(rows)
        self.exact = exact
        self.sql = sql
        self.plan = plan


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a column, save the text. Raises InputError for what no column could serve.

    The names are the options of `search`.
    """

    k: int
    where: str | None
    params: tuple[object, ...]
    first_pass: FirstPass | None
    oversample: int
    exact: bool | None

    def __post_init__(self) -> None:
        for option in ("k", "oversample"):
            if (value := getattr(self, option)) < 1:
                raise InputError(f"{option} {value!r}: give at least 1")
        if self.params and self.where is None:
            raise InputError(f"params {[*self.params]} without a condition: give where as well")
        asked = {int(number) for number in PARAMETER.findall(self.where or "")}
        if asked and max(asked) > len(self.params):
            raise InputError(
                f"the condition has ${max(asked)}, and params are {len(self.params)}: give a value "
                "for each"
            )
        if "%s" in (self.where or "") and not asked:
            raise InputError("the condition has %s: write $1, $2 … for params")
        if self.exact and self.first_pass is not None:
            raise InputError(
                f"exact with a first pass of {self.first_pass!r}, which an index serves: leave one "
                "of them out"
            )

    @property
    def candidates(self) -> int:
        """How many rows the index is asked for."""
        return self.k if self.first_pass is None else self.k * self.oversample


def search(
    dsn: str | psycopg.Connection[Any],
    table: str,
    text: str,
    *,
    k: int = 10,
    column: str | None = None,
    chunks: str | None = None,
    where: str | None = None,
    params: Sequence[object] = (),
    first_pass: FirstPass | None = None,
    oversample: int = 10,
    exact: bool | None = None,
    embedder: Embedder | None = None,
    explain: bool = False,
) -> Found:
    """The k rows nearest to a text: keys, sources and `score`, the cosine, best first.

    dsn: of the server, or an open connection, whose search_path `where` is read under.
    column: needed where a table has several attachments. chunks: search this chunk table; that is
    what is searched anyway where a table keeps chunks alone. Rows are then a document's key,
    `ordinal`, `first`, `last` (its half-open span of characters), `text` and `score`.
    where: an SQL condition over the table's columns, with $1, $2 … for params. It is the caller's
    own SQL: never make it of what a user typed.
    first_pass: let an index of a Matryoshka prefix (64, 128, 256 dims) or of the signs ("binary")
    find k·oversample candidates, which are ranked exactly by their whole vectors.
    `index_first_pass` makes the index.
    exact: an index looks at some ten thousand rows at most, of which a selective filter may leave
    fewer than k, or none. None: then all rows that fit are compared, without the index. False: they
    never are, however few were found. True: they are at once.
    embedder: an encoder of your own, in place of the model that the column was attached with.
    explain: run EXPLAIN first and keep the plan.

    While a successor of the column is built, the column itself is searched; where it takes the
    column's place meanwhile, the search begins anew.
    Raises FingerprintError where the encoder is not the one that the column's queries need,
    InputError for an option, SchemaError where nothing fits, SyncError where the column was swapped
    after the snapshot of the caller's own transaction, StoreError for what the server says.
    """
    if not text.strip():
        raise InputError("the text is blank: say what to look for")
    asked = Question(
        k=k,
        where=where,
        params=tuple(params),
        first_pass=first_pass,
        oversample=oversample,
        exact=exact,
    )
    with connected(dsn) as conn:

        def once() -> Found:
            with conn.transaction():
                found = choose(conn, table, column, chunks)
                vectors = _checked(conn, vectors_of(conn, found, chunks=chunks is not None), asked)
            query = _encode(found, text, embedder_or_shared(embedder, found.model))
            with conn.transaction():
                return _Search(conn, vectors, asked).run(query, explain=explain)

        for _ in range(ATTEMPTS - 1):
            with suppress(MovedError):
                return once()
        return once()


def _checked(conn: psycopg.Connection[Any], vectors: Vectors, asked: Question) -> Vectors:
    if asked.first_pass is not None:
        check_first_pass(vectors.column, asked.first_pass)
        if not has_index(conn, vectors, asked.first_pass):
            raise SchemaError(
                f"{vectors.column} has no index for a first pass of {asked.first_pass!r}: make it "
                "with index_first_pass, or `taskvec pg index`"
            )
    return vectors


def _encode(column: Column, text: str, embedder: Embedder) -> str:
    """The query's vector, as pgvector reads it. Raises FingerprintError."""
    present = embedder.fingerprint(column.query_task, column.dim)
    if present != column.query_fingerprint:
        raise FingerprintError(
            f"{column} takes queries of fingerprint {column.query_fingerprint!r} and this encoder "
            f"has {present!r}: search with model {column.model!r}, or change the column's model "
            "with alter"
        )
    made = embedder.encode([text], task=column.query_task, dim=column.dim, lane="query")
    return _spelled(made[0])


def _spelled(vector: Array) -> str:
    return f"[{','.join(map(repr, vector.tolist()))}]"


class _Search:
    """One search of one table."""

    def __init__(self, conn: psycopg.Connection[Any], vectors: Vectors, asked: Question) -> None:
        self.conn = conn
        self.vectors = vectors
        self.asked = asked
        self.chunked = vectors.chunked

    def run(self, query: str, *, explain: bool) -> Found:
        self._hold()
        # pgvector's settings exist once it was used.
        run(self.conn, "SELECT $1::{type}", query, type=self.vectors.column.vector_type)
        values = [*self.asked.params, query]
        if self.asked.exact:
            return self._exact(values, explain=explain)
        found = self._nearest(values, explain=explain)
        if len(found) == self.asked.k or found.exact or self.asked.exact is not None:
            return found
        again = self._exact(values, explain=explain)
        again.sql = f"{found.sql};\n{again.sql}"
        again.plan = f"{found.plan}\n{again.plan}" if explain else None
        return again

    def _hold(self) -> None:
        """Keep swaps away. Raises MovedError where there was one since the column was chosen."""
        vectors = self.vectors
        field = name(vectors.name, "s")
        run(self.conn, LOCK, vector=field, table=vectors.place.identifier)
        queue = vectors.column.queue.as_string(self.conn)
        if run(self.conn, MOVED, queue).fetchone() == (True,):
            raise MovedError(
                f"{vectors.column} gave way to its successor, or was detached, after this "
                "transaction began: search in a new one"
            )

    def _nearest(self, values: list[object], *, explain: bool) -> Found:
        """What the server finds in its own way."""
        statement = self.statement(DIRECT if self.asked.first_pass is None else STAGED)
        with local_settings(self.conn, self.settings()):
            plan = self._plan(statement, values) if explain else None
            rows = self._rows(statement, values)
            short = len(rows) < self.asked.k and self.asked.exact is None
            exact = short and APPROXIMATE not in (plan or self._plan(statement, values))
        return Found(rows, exact=exact, sql=self._told(statement), plan=plan)

    def _exact(self, values: list[object], *, explain: bool) -> Found:
        """What comparing all rows that fit finds."""
        statement = self.statement(EXACT)
        plan = self._plan(statement, values) if explain else None
        rows = self._rows(statement, values)
        return Found(rows, exact=True, sql=statement.as_string(self.conn), plan=plan)

    def _rows(self, statement: sql.Composed, values: list[object]) -> list[dict[str, Any]]:
        cursor = psycopg.RawCursor(self.conn, row_factory=dict_row)
        return cursor.execute(statement, values).fetchall()

    def settings(self) -> dict[str, str]:
        """How the index is to be scanned; candidates of a first pass need no order."""
        candidates = min(max(LEAST_CANDIDATES, self.asked.candidates), MOST_CANDIDATES)
        order = "strict_order" if self.asked.first_pass is None else "relaxed_order"
        return {"hnsw.ef_search": str(candidates), "hnsw.iterative_scan": order}

    def statement(self, template: str) -> sql.Composed:
        vectors, asked = self.vectors, self.asked
        query = vectors.whole(sql.SQL(f"${len(asked.params) + 1}"))
        fields = self._fields()
        vector = name(vectors.name, "s")
        return fill(
            template,
            fields=names(fields, "s"),
            plain=names(fields),
            vector=vector,
            table=vectors.place.identifier,
            filters=self._filters(),
            rough=self._rough(vector, query),
            candidates=sql.Literal(asked.candidates),
            nearest=vectors.operator("<=>"),
            query=query,
            k=sql.Literal(asked.k),
        )

    def _fields(self) -> list[str]:
        column = self.vectors.column
        if self.chunked:
            return [*column.chunk_keys, *CHUNK_FIELDS]
        return list(dict.fromkeys([*[key.name for key in column.keys], *column.sources]))

    def _rough(self, vector: sql.Composed, query: sql.Composed) -> sql.Composed:
        first_pass, vectors = self.asked.first_pass, self.vectors
        if first_pass is None:
            return sql.Composed([])
        sign = vectors.operator("<~>" if first_pass == SIGNS else "<=>")
        sides = [vectors.first(side, first_pass) for side in (vector, query)]
        return sql.SQL(" ").join([sides[0], sign, sides[1]])

    def _filters(self) -> sql.Composed:
        # Where nothing but a scan of all rows serves, those without a vector would come last.
        present = fill("{vector} IS NOT NULL", vector=name(self.vectors.name, "s"))
        if self.asked.where is None:
            return present
        where, column = sql.SQL(self.asked.where), self.vectors.column
        if not self.chunked:
            return AND.join([present, fill(OF_ROW, where=where)])
        table, same = column.table.identifier, column.of_row("s", "d")
        return AND.join([present, fill(OF_DOCUMENT, table=table, same=same, where=where)])

    def _plan(self, statement: sql.Composed, values: list[object]) -> str:
        cursor = psycopg.RawCursor(self.conn)
        lines = cursor.execute(sql.SQL("EXPLAIN ") + statement, values).fetchall()
        return "\n".join(line for (line,) in lines)

    def _told(self, statement: sql.Composed) -> str:
        known = [
            (option, value)
            for option, value in self.settings().items()
            if run(self.conn, HAS_SETTING, option).fetchone() == (1,)
        ]
        lines = [f"SET LOCAL {option} = {value};" for option, value in known]
        return "\n".join([*lines, statement.as_string(self.conn)])
