"""pgvector values by INSERT and by binary COPY, on a real PostgreSQL."""

import gc
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector, register_vector_async
from psycopg import sql
from psycopg.rows import dict_row

from taskvec.adapters import pgvector
from taskvec.adapters.pgvector import PgVectors, acopy_rows, copy_rows
from taskvec.core import Encoder
from taskvec.core.errors import InputError, SchemaError, StoreError

TEXTS = ["open a file", "close the queue", "parse time", "lock the thread"]
TYPES = ["vector", "halfvec", "bit"]
TOLERANCE = {"vector": 1e-6, "halfvec": 1e-3}


@pytest.fixture
def table(conn: psycopg.Connection) -> psycopg.Connection:
    """A connection to a database with a table `docs` of one column per type, of 16 dims."""
    conn.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, text text,"
        " vector vector(16), halfvec halfvec(16), bit bit(16))"
    )
    conn.commit()
    register_vector(conn)
    return conn


def expected(encoder: Encoder, type_: str, texts: Any = TEXTS) -> Any:
    vectors = encoder.encode(texts, task="retrieval.passage", dim=16)
    return vectors > 0 if type_ == "bit" else vectors


def stored(conn: psycopg.Connection, type_: str) -> Any:
    query = sql.SQL("SELECT {}::text FROM docs ORDER BY id").format(sql.Identifier(type_))
    rows = [value for (value,) in conn.execute(query)]
    if type_ == "bit":
        return np.array([[digit == "1" for digit in row] for row in rows])
    return np.array([[float(x) for x in row[1:-1].split(",")] for row in rows])


def same(given: Any, wanted: Any, type_: str) -> None:
    np.testing.assert_allclose(given, wanted, atol=TOLERANCE.get(type_, 0))


@pytest.mark.parametrize("type_", TYPES)
def test_inserted_values_are_the_passage_vectors(
    table: psycopg.Connection, encoder: Encoder, type_: Any
) -> None:
    values = PgVectors(embedder=encoder, dim=16, type=type_).passages(TEXTS)
    insert = sql.SQL("INSERT INTO docs (id, {}) VALUES (%s, %s)").format(sql.Identifier(type_))
    table.cursor().executemany(insert, list(enumerate(values)))
    same(stored(table, type_), expected(encoder, type_), type_)


@pytest.mark.parametrize("type_", TYPES)
def test_copied_values_are_the_passage_vectors(
    table: psycopg.Connection, encoder: Encoder, type_: Any
) -> None:
    values = PgVectors(embedder=encoder, dim=16, type=type_).passages(TEXTS)
    assert copy_rows(table, "docs", enumerate(values), columns=["id", type_]) == len(TEXTS)
    same(stored(table, type_), expected(encoder, type_), type_)


@pytest.mark.parametrize("type_", TYPES)
async def test_values_are_copied_by_an_async_connection(
    table: psycopg.Connection, dsn: str, encoder: Encoder, type_: Any
) -> None:
    values = await PgVectors(embedder=encoder, dim=16, type=type_).apassages(TEXTS)
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        rows = list(enumerate(values))
        assert await acopy_rows(conn, "docs", rows, columns=["id", type_]) == len(TEXTS)
    same(stored(table, type_), expected(encoder, type_), type_)


@pytest.mark.parametrize(("type_", "operator"), [("vector", "<#>"), ("halfvec", "<#>")])
def test_search_compares_the_query_vector_with_passage_vectors(
    table: psycopg.Connection, encoder: Encoder, type_: Any, operator: str
) -> None:
    vectors = PgVectors(embedder=encoder, dim=16, type=type_)
    copy_rows(table, "docs", enumerate(vectors.passages(TEXTS)), columns=["id", type_])
    select = sql.SQL("SELECT {} {} %s FROM docs ORDER BY id")
    query = select.format(sql.Identifier(type_), sql.SQL(operator))
    found = [-distance for (distance,) in table.execute(query, [vectors.query("open")])]
    asked = encoder.encode("open", task="retrieval.query", dim=16)
    products = encoder.encode(TEXTS, task="retrieval.passage", dim=16) @ asked
    np.testing.assert_allclose(found, products, atol=TOLERANCE[type_] * 4)


def test_bits_agree_with_binary_quantize_of_the_server(
    table: psycopg.Connection, encoder: Encoder
) -> None:
    vectors, bits = (PgVectors(embedder=encoder, dim=16, type=type_) for type_ in ("vector", "bit"))
    rows = zip(range(4), vectors.passages(TEXTS), bits.passages(TEXTS), strict=True)
    copy_rows(table, "docs", rows, columns=["id", "vector", "bit"])
    same_bits = table.execute("SELECT bool_and(binary_quantize(vector) = bit) FROM docs")
    assert same_bits.fetchone() == (True,)
    same_task = PgVectors(embedder=encoder, dim=16, type="bit", task="retrieval.passage")
    distance = table.execute(
        "SELECT bit <~> %s FROM docs WHERE id = 2", [same_task.query(TEXTS[2])]
    )
    assert distance.fetchone() == (0,)


async def test_registered_async_connection_writes_values(
    table: psycopg.Connection, dsn: str, encoder: Encoder
) -> None:
    vectors = PgVectors(embedder=encoder, dim=16)
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await register_vector_async(conn)
        value = (await vectors.apassages(TEXTS[:1]))[0]
        await conn.execute("INSERT INTO docs (id, vector) VALUES (0, %s)", [value])
    same(stored(table, "vector"), expected(encoder, "vector", TEXTS[:1]), "vector")


def test_unknown_type_is_refused_at_construction() -> None:
    with pytest.raises(InputError, match=r"'sparsevec'.*'halfvec'"):
        PgVectors(type="sparsevec")  # type: ignore[arg-type]


def test_construction_loads_nothing() -> None:
    assert PgVectors("/no/such/folder", dim=16).model == "/no/such/folder"


@pytest.mark.parametrize("type_", TYPES)
def test_vectors_of_any_shape_fit_any_column(
    conn: psycopg.Connection, encoder: Encoder, type_: str
) -> None:
    conn.execute("CREATE TABLE docs (id int, vector vector(16), halfvec halfvec(16), bit bit(16));")
    vector = encoder.encode(TEXTS[0], task="retrieval.passage", dim=16)
    value = PgVectors(embedder=encoder, dim=16).passages(TEXTS[:1])[0]
    rows = list(enumerate([vector, vector.astype(np.float64), vector.tolist(), value, None]))
    copy_rows(conn, "docs", rows, columns=["id", type_])
    assert conn.execute("SELECT count(*) FROM docs").fetchone() == (5,)
    conn.execute("DELETE FROM docs WHERE id = 4")
    same(stored(conn, type_), expected(encoder, type_, TEXTS[:1] * 4), type_)


def test_copy_leaves_the_types_of_the_connection_alone(
    conn: psycopg.Connection, encoder: Encoder
) -> None:
    conn.execute("CREATE TABLE docs (vector vector(16))")
    copy_rows(conn, "docs", [[[0.5] * 16]])
    (read,) = conn.execute("SELECT vector FROM docs").fetchone() or ()
    assert isinstance(read, str)


ODD_COLUMNS = """
CREATE SCHEMA "Odd one";
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE "Odd one"."My ""own"" docs" (
    id bigint GENERATED ALWAYS AS IDENTITY,
    "Text" text, "select" varchar(9), c char(3), m mood, p positive, j jsonb, tags text[],
    numbers int[], r real, d double precision, n numeric, s smallint, b boolean, raw bytea,
    u uuid, at timestamptz, day date, v vector(3), h halfvec(3), bits bit(3),
    doubled int GENERATED ALWAYS AS (s * 2) STORED
)
"""
ODD_ROW = [
    7, "é\n\t\\", "var", "abc", "good", 3, {"a": [1]}, ["x", None, "y"], [1, 2], 0.5, 0.25,
    Decimal("1.5"), 21, True, b"\0raw", uuid.UUID(int=5), datetime(2020, 1, 1, tzinfo=UTC),
    datetime(2020, 1, 2, tzinfo=UTC).date(), [1, 2, 3], [1, 2, 3], [1, -1, 1],
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ['"Odd one"."My ""own"" docs"', sql.Identifier("Odd one", 'My "own" docs')],
    ids=["text", "identifier"],
)
def test_any_table_and_column_types_are_written(conn: psycopg.Connection, name: Any) -> None:
    conn.execute(ODD_COLUMNS)
    assert copy_rows(conn, name, [ODD_ROW, [8, *[None] * 20]]) == 2
    read = conn.execute('SELECT * FROM "Odd one"."My ""own"" docs" ORDER BY id').fetchall()
    assert list(read[0][:18]) == ODD_ROW[:18]
    assert read[0][18:] == ("[1,2,3]", "[1,2,3]", "101", 42)
    assert read[1] == (8, *[None] * 21)


def test_chosen_columns_are_written_in_the_given_order(conn: psycopg.Connection) -> None:
    conn.execute(ODD_COLUMNS)
    conn.execute('SET search_path TO "Odd one"')
    assert copy_rows(conn, '"My ""own"" docs"', [("var", "text")], columns=["select", "Text"]) == 1
    read = conn.execute('SELECT id, "Text", "select" FROM "My ""own"" docs"').fetchall()
    assert read == [(1, "text", "var")]


@pytest.mark.parametrize("name", ["nope", "public.nope", sql.Identifier("Docs")])
def test_unknown_table_is_refused(table: psycopg.Connection, name: Any) -> None:
    with pytest.raises(SchemaError, match="no table"):
        copy_rows(table, name, [])


def test_injected_sql_in_names_is_not_run(table: psycopg.Connection) -> None:
    with pytest.raises(StoreError):
        copy_rows(table, "docs; DROP TABLE docs", [])
    with pytest.raises(SchemaError, match="no columns"):
        copy_rows(table, "docs", [], columns=['id") FROM STDIN; DROP TABLE docs; --'])
    assert table.execute("SELECT count(*) FROM docs").fetchone() == (0,)


def test_generated_column_is_refused(conn: psycopg.Connection) -> None:
    conn.execute(ODD_COLUMNS)
    with pytest.raises(SchemaError, match="doubled"):
        copy_rows(conn, '"Odd one"."My ""own"" docs"', [], columns=["doubled"])


def test_no_rows_are_written_as_none(table: psycopg.Connection) -> None:
    assert copy_rows(table, "docs", []) == 0


GOOD = [1.0] * 16
REFUSED = [
    pytest.param([(0, GOOD), (1, GOOD), (2, [1.0] * 8)], StoreError, "row 2 .*16 dim", id="dim"),
    pytest.param([(0, GOOD), (1, GOOD), (0, GOOD)], StoreError, "row 2 .*duplicate", id="key"),
    pytest.param([(0, GOOD), (None, GOOD)], StoreError, "row 1 .*null", id="null"),
    pytest.param([(0, GOOD), ("x", GOOD)], InputError, "row 1 ", id="type"),
    pytest.param([(0, GOOD), (1, [[1.0]])], InputError, "row 1 ", id="shape"),
    pytest.param([(0, GOOD), (1, GOOD, 3)], InputError, "row 1 .*2 values", id="too many"),
    pytest.param([(0, GOOD), (1,)], InputError, "row 1 .*2 values", id="too few"),
]


@pytest.mark.parametrize(("rows", "error", "words"), REFUSED)
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_refused_row_is_named_and_nothing_is_written(
    table: psycopg.Connection, rows: Any, error: Any, words: str, autocommit: bool
) -> None:
    table.autocommit = autocommit
    with pytest.raises(error, match=words):
        copy_rows(table, "docs", rows, columns=["id", "vector"])
    assert table.execute("SELECT count(*) FROM docs").fetchone() == (0,)


@pytest.mark.parametrize(("rows", "error", "words"), REFUSED)
async def test_a_refused_row_is_named_by_the_async_copy(
    table: psycopg.Connection, dsn: str, rows: Any, error: Any, words: str
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        with pytest.raises(error, match=words):
            await acopy_rows(conn, "docs", rows, columns=["id", "vector"])
    assert table.execute("SELECT count(*) FROM docs").fetchone() == (0,)


def test_fault_of_the_source_of_rows_comes_through_and_nothing_is_written(
    table: psycopg.Connection,
) -> None:
    def rows() -> Iterator[Any]:
        yield 0, GOOD
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        copy_rows(table, "docs", rows(), columns=["id", "vector"])
    assert table.execute("SELECT count(*) FROM docs").fetchone() == (0,)


def test_refused_copy_leaves_the_rest_of_a_transaction(table: psycopg.Connection) -> None:
    with table.transaction():
        table.execute("INSERT INTO docs (id) VALUES (1)")
        with pytest.raises(StoreError, match="row 0"):
            copy_rows(table, "docs", [(1, GOOD)], columns=["id", "vector"])
        copy_rows(table, "docs", [(2, GOOD)], columns=["id", "vector"])
    assert table.execute("SELECT array_agg(id) FROM docs").fetchone() == ([1, 2],)


def test_copy_outside_a_transaction_commits(table: psycopg.Connection, dsn: str) -> None:
    copy_rows(table, "docs", [(1, GOOD)], columns=["id", "vector"])
    with psycopg.connect(dsn) as other:
        assert other.execute("SELECT count(*) FROM docs").fetchone() == (1,)


def test_row_factory_of_the_connection_does_not_matter(table: psycopg.Connection, dsn: str) -> None:
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        assert copy_rows(conn, "docs", [(1, GOOD)], columns=["id", "vector"]) == 1


def test_many_rows_stream_from_a_generator(table: psycopg.Connection) -> None:
    rows = ((i, str(i), np.full(16, i, np.float32), None, None) for i in range(5000))
    assert copy_rows(table, "docs", rows) == 5000
    total = table.execute("SELECT sum(id), sum((vector <#> %s)) FROM docs", [np.ones(16)])
    assert total.fetchone() == (12_497_500, -16 * 12_497_500)


def test_many_copies_leave_no_more_behind_than_one(table: psycopg.Connection) -> None:
    row = (np.ones(16), np.ones(16), np.ones(16, dtype=bool))
    columns = ["id", *TYPES]
    copy_rows(table, "docs", [(0, *row)], columns=columns)
    gc.collect()
    before = len(pgvector._ValueDumper.__subclasses__())
    for number in range(1, 20):
        copy_rows(table, "docs", [(number, *row)], columns=columns)
    gc.collect()
    assert len(pgvector._ValueDumper.__subclasses__()) == before


INDEXED = {
    "vector": ("vector <=> %s", "vector vector_cosine_ops", "vector <-> %s"),
    "halfvec": ("halfvec <=> %s", "halfvec halfvec_cosine_ops", "halfvec <-> %s"),
    "bit": ("bit <~> %s", "bit bit_hamming_ops", "bit <%%> %s"),
    "prefix": (
        "subvector(vector, 1, 8)::vector(8) <=> subvector(%s, 1, 8)::vector(8)",
        "(subvector(vector, 1, 8)::vector(8)) vector_cosine_ops",
        "subvector(vector, 1, 4)::vector(4) <=> subvector(%s, 1, 4)::vector(4)",
    ),
}


@pytest.mark.parametrize("kind", INDEXED)
def test_an_index_serves_the_operator_of_its_class_alone(
    kind: str, table: psycopg.Connection, encoder: Encoder
) -> None:
    served, indexed, other = INDEXED[kind]
    query = PgVectors(embedder=encoder, dim=16, type="vector" if kind == "prefix" else kind).query(
        "open"
    )
    table.execute(f"CREATE INDEX ON docs USING hnsw ({indexed})")
    table.execute("SET LOCAL enable_seqscan = off")
    plans = [
        str(table.execute(f"EXPLAIN SELECT id FROM docs ORDER BY {by} LIMIT 2", [query]).fetchall())
        for by in (served, other)
    ]
    assert ["Index Scan" in plan for plan in plans] == [True, False]
