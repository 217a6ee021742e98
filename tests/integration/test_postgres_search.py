"""Searching attached columns, on a real PostgreSQL, with the plans that the server makes."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest

from taskvec.core import Encoder
from taskvec.core.errors import FingerprintError, InputError, SchemaError, StoreError, SyncError
from taskvec.integrations.postgres import alter, attach, swap
from taskvec.integrations.postgres.indexes import FirstPass, index_first_pass
from taskvec.integrations.postgres.searching import search
from tests.attached import one, until, work
from tests.embedders import StubEmbedder, vector_of

ROWS = 3_000
DIM = 256


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit, with a table docs of six rows."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text, lang text)")
        conn.execute(
            "INSERT INTO docs SELECT i, 'text ' || i, CASE WHEN i % 2 = 0 THEN 'en' ELSE 'de' END"
            " FROM generate_series(1, 6) i"
        )
        yield conn


def filled(dsn: str, db: psycopg.Connection[Any], **options: Any) -> None:
    """Some thousand rows whose vectors were made, and of which the server has statistics."""
    db.execute(
        "INSERT INTO docs SELECT i, 'text ' || i, CASE WHEN i % 10 = 7 THEN 'it' ELSE 'fr' END"
        f" FROM generate_series(7, {ROWS}) i"
    )
    attach(dsn, "docs", **{"source": "text", "embedder": StubEmbedder(), "dim": DIM, **options})
    work(dsn, batch=1000)
    db.execute("VACUUM ANALYZE docs")


def exact(db: psycopg.Connection[Any], text: str, dim: int = DIM, where: str = "true") -> list[int]:
    """All ids, nearest first, by arithmetic of our own."""
    rows = db.execute(f"SELECT id, text FROM docs WHERE {where}").fetchall()
    vectors = np.stack([vector_of(said, dim=dim) for _, said in rows])
    scores = vectors @ vector_of(text, "retrieval.query", dim)
    return [rows[i][0] for i in np.argsort(-scores, kind="stable")]


def ids(found: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in found]


def test_a_search_takes_the_query_task_and_returns_keys_sources_and_score(
    dsn: str, db: psycopg.Connection[Any], encoder: Encoder
) -> None:
    attach(dsn, "docs", source=["text", "lang"], embedder=encoder, dim=16, index="none")
    work(dsn, encoder)
    found = search(dsn, "docs", "what is text 3?", k=4, embedder=encoder)
    texts = [f"text {i}\n\n{'en' if i % 2 == 0 else 'de'}" for i in range(1, 7)]
    passages = encoder.encode(texts, task="retrieval.passage", dim=16)
    scores = passages @ encoder.encode("what is text 3?", task="retrieval.query", dim=16)
    best = np.argsort(-scores)[:4]
    assert ids(found) == [i + 1 for i in best]
    np.testing.assert_allclose([row["score"] for row in found], scores[best], atol=1e-4)
    assert list(found[0]) == ["id", "text", "lang", "score"]


@pytest.mark.parametrize("type_", ["vector", "halfvec"])
def test_the_plain_search_uses_the_columns_index(
    dsn: str, db: psycopg.Connection[Any], type_: str
) -> None:
    filled(dsn, db, type=type_)
    found = search(dsn, "docs", "query", k=5, embedder=StubEmbedder(), explain=True)
    assert "Index Scan using taskvec_1_column_full" in found.plan
    assert "Seq Scan" not in found.plan
    assert len(set(ids(found)) & set(exact(db, "query")[:5])) >= 3
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)


@pytest.mark.parametrize("first_pass", [64, 128, "binary"])
@pytest.mark.parametrize("type_", ["vector", "halfvec"])
def test_a_first_pass_uses_its_index_and_ranks_its_candidates_exactly(
    dsn: str, db: psycopg.Connection[Any], first_pass: FirstPass, type_: str
) -> None:
    filled(dsn, db, type=type_, index="none")
    assert index_first_pass(dsn, "docs", first_pass)
    assert not index_first_pass(dsn, "docs", first_pass)
    found = search(
        dsn, "docs", "query", k=5, first_pass=first_pass, oversample=20, embedder=StubEmbedder(),
        explain=True,
    )  # fmt: skip
    assert f"Index Scan using taskvec_1_column_{first_pass}" in found.plan
    assert "Seq Scan" not in found.plan
    every = search(
        dsn, "docs", "query", k=100, first_pass=first_pass, oversample=1, embedder=StubEmbedder()
    )
    order = exact(db, "query")
    assert len(every) == 100
    assert ids(every) == sorted(ids(every), key=order.index)
    assert ids(found) == ids(every)[:5]


def test_a_first_pass_over_all_rows_gives_the_exact_order(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), dim=DIM)
    work(dsn)
    index_first_pass(dsn, "docs", 64)
    found = search(dsn, "docs", "query", k=6, first_pass=64, embedder=StubEmbedder())
    assert ids(found) == exact(db, "query")


@pytest.mark.parametrize("first_pass", [None, 64])
def test_a_filtered_search_goes_on_until_it_has_k(
    dsn: str, db: psycopg.Connection[Any], first_pass: FirstPass | None
) -> None:
    filled(dsn, db, index="none" if first_pass else "hnsw")
    if first_pass:
        index_first_pass(dsn, "docs", first_pass)
    # Every tenth row: of the 40 that a scan finds at first, too few pass.
    found = search(
        dsn, "docs", "query", k=10, where="lang = $1", params=["it"], first_pass=first_pass,
        oversample=2, embedder=StubEmbedder(), explain=True,
    )  # fmt: skip
    assert "Index Scan using" in found.plan
    assert "Seq Scan" not in found.plan
    assert len(found) == 10
    assert all(row["id"] % 10 == 7 for row in found)
    assert set(ids(found)) & set(exact(db, "query", where="lang = 'it'")[:3])
    db.execute("SET hnsw.ef_search = 40")
    statement = found.sql[found.sql.index(";\n", found.sql.index("iterative")) + 2 :]
    vector = str(vector_of("query", "retrieval.query", DIM).tolist())
    assert len(psycopg.RawCursor(db).execute(statement, ["it", vector]).fetchall()) < 10


@pytest.fixture
def rare(dsn: str, db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """More rows than a scan of the index looks at, and every 250th of them the farthest away."""
    # In place of tens of thousands of rows, of which a scan looks at 20,000.
    for setting in ("hnsw.max_scan_tuples = 1", "enable_seqscan = off"):
        db.execute(f"ALTER DATABASE {db.info.dbname} SET {setting}")
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), index="none")
    query = vector_of("query", "retrieval.query").tolist()
    db.execute("SET session_replication_role = replica")
    db.execute(
        "INSERT INTO docs SELECT i, 'text ' || i, '', l2_normalize(CASE WHEN i %% 250 = 7"
        " THEN '[0,0,0,0,0,0,0,0]'::vector - %(query)s::vector ELSE %(query)s::vector"
        " + array_fill(random() * 0.1, ARRAY[8])::vector END) FROM generate_series(7, 2500) i",
        {"query": str(query)},
    )
    db.execute("RESET session_replication_role")
    db.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    db.execute("VACUUM ANALYZE docs")
    return db


def test_a_filter_that_leaves_the_index_fewer_than_k_is_searched_again_exactly(
    dsn: str, rare: psycopg.Connection[Any]
) -> None:
    options: dict[str, Any] = {"k": 10, "where": "id % 250 = 7", "embedder": StubEmbedder()}
    index = search(dsn, "docs", "query", exact=False, explain=True, **options)
    assert "Index Scan using docs_embedding_idx" in index.plan
    assert len(index) < 10
    assert not index.exact
    found = search(dsn, "docs", "query", **options)
    assert len(found) == 10
    assert all(row["id"] % 250 == 7 for row in found)
    assert found.exact
    assert found.sql.startswith(index.sql)
    assert found.sql.count("LIMIT 10") == 2


def test_without_an_index_all_rows_with_a_vector_are_ranked(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("INSERT INTO docs VALUES (7, NULL, 'en'), (8, '  ', 'en')")
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), index="none")
    work(dsn)
    found = search(dsn, "docs", "query", k=10, embedder=StubEmbedder())
    assert ids(found) == exact(db, "query", 8, "id < 7")


def test_an_exact_search_takes_no_index(dsn: str, db: psycopg.Connection[Any]) -> None:
    filled(dsn, db)
    found = search(dsn, "docs", "query", k=50, exact=True, explain=True, embedder=StubEmbedder())
    assert "using taskvec_1_column_full" not in found.plan
    assert ids(found) == exact(db, "query")[:50]
    assert found.exact
    assert not search(dsn, "docs", "query", k=50, embedder=StubEmbedder()).exact


def test_a_search_of_few_rows_without_an_index_is_exact_at_once(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), index="none")
    work(dsn)
    found = search(dsn, "docs", "query", k=10, embedder=StubEmbedder())
    assert (len(found), found.exact, found.sql.count("LIMIT 10")) == (6, True, 1)


@pytest.mark.parametrize("chunks", [None, "docs_chunks"])
def test_a_swap_while_the_query_is_encoded_lets_the_search_begin_anew(
    dsn: str, db: psycopg.Connection[Any], chunks: str | None
) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), chunks="docs_chunks")
    work(dsn)
    alter(dsn, "docs", task="text-matching", query_task="text-matching", embedder=StubEmbedder())
    work(dsn)
    swapped: list[int] = []

    def change(texts: list[str]) -> None:
        if not swapped:
            swapped.append(swap(dsn, "docs"))

    found = search(dsn, "docs", "text 3", chunks=chunks, embedder=StubEmbedder(before=change))
    assert swapped == [2]
    assert found == search(dsn, "docs", "text 3", chunks=chunks, embedder=StubEmbedder())
    assert found[0]["text"] == "text 3"
    assert found[0]["score"] == pytest.approx(1.0, abs=1e-5)


def test_a_swap_to_another_model_while_the_query_is_encoded_is_told(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder())
    alter(dsn, "docs", embedder=StubEmbedder(name="new"))
    work(dsn, columns=[1])
    work(dsn, StubEmbedder(name="new"), columns=[2])
    change = StubEmbedder(before=lambda _: swap(dsn, "docs"))
    with pytest.raises(FingerprintError, match="change the column's model"):
        search(dsn, "docs", "text 3", embedder=change)


def test_a_snapshot_from_before_a_swap_is_not_searched_with_the_former_model(
    dsn: str, conn: psycopg.Connection[Any], db: psycopg.Connection[Any]
) -> None:
    # An index would be built CONCURRENTLY, and that waits for all snapshots.
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), index="none")
    alter(dsn, "docs", task="text-matching", query_task="text-matching", embedder=StubEmbedder())
    work(dsn)
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute("SELECT 1")
    swap(dsn, "docs")
    with pytest.raises(SyncError, match="search in a new one"):
        search(conn, "docs", "text 3", embedder=StubEmbedder())
    conn.rollback()
    assert len(search(conn, "docs", "text 3", embedder=StubEmbedder())) == 6


def test_the_sql_that_ran_is_told_and_runs(dsn: str, db: psycopg.Connection[Any]) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder())
    work(dsn)
    found = search(
        dsn, "docs", "query", k=2, where="lang = $1", params=["en"], embedder=StubEmbedder()
    )
    settings, statement = found.sql.split("\nSELECT", 1)
    assert settings.splitlines() == [
        "SET LOCAL hnsw.ef_search = 40;",
        "SET LOCAL hnsw.iterative_scan = strict_order;",
    ]
    vector = str(vector_of("query", "retrieval.query").tolist())
    again = psycopg.RawCursor(db).execute(f"SELECT {statement}", ["en", vector]).fetchall()
    assert [row[0] for row in again] == ids(found)
    assert found.plan is None


def test_settings_of_the_callers_transaction_are_left_as_they_were(
    dsn: str, conn: psycopg.Connection[Any], db: psycopg.Connection[Any]
) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder())
    work(dsn)
    conn.execute("SELECT '[1]'::vector")
    conn.execute("SET LOCAL hnsw.ef_search = 77")
    assert len(search(conn, "docs", "query", k=100, embedder=StubEmbedder())) == 6
    assert one(conn, "SHOW hnsw.ef_search") == "77"
    assert one(conn, "SHOW hnsw.iterative_scan") == "off"


def test_a_filter_is_read_under_the_callers_search_path(
    conn: psycopg.Connection[Any], dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("CREATE SCHEMA app; CREATE FUNCTION app.good(int) RETURNS bool LANGUAGE sql"
               " RETURN $1 > 4")  # fmt: skip
    attach(dsn, "docs", source="text", embedder=StubEmbedder())
    work(dsn)
    conn.execute("SET search_path = app, public")
    found = search(conn, "docs", "q", where="good(id) -- and no more", embedder=StubEmbedder())
    assert sorted(ids(found)) == [5, 6]


CHUNKED = {"chunks": "docs_chunks", "chunk_characters": 20}


def test_chunks_are_searched_where_only_they_are_kept(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("UPDATE docs SET text = text || E'\\n\\nand a second paragraph of ' || text")
    attach(dsn, "docs", source="text", column=None, embedder=StubEmbedder(), **CHUNKED)
    work(dsn)
    found = search(dsn, "docs", "q", k=3, where="lang = 'en'", embedder=StubEmbedder())
    rows = db.execute("SELECT id, ordinal, first, last, text FROM docs_chunks").fetchall()
    query = vector_of("q", "retrieval.query")
    ranked = sorted(
        (row for row in rows if row[0] % 2 == 0), key=lambda r: -vector_of(r[4]) @ query
    )
    assert [tuple(row.values())[:5] for row in found] == ranked[:3]
    assert list(found[0]) == ["id", "ordinal", "first", "last", "text", "score"]
    assert found[0]["score"] == pytest.approx(float(vector_of(found[0]["text"]) @ query), abs=1e-5)


@pytest.mark.parametrize("first_pass", [None, 128])
def test_a_filtered_search_of_chunks_uses_their_index(
    dsn: str, db: psycopg.Connection[Any], first_pass: FirstPass | None
) -> None:
    filled(dsn, db, **CHUNKED, index="none" if first_pass else "hnsw")
    db.execute("VACUUM ANALYZE docs_chunks")
    if first_pass:
        assert index_first_pass(dsn, "docs", first_pass, chunks="docs_chunks")
    found = search(
        dsn, "docs", "query", k=5, chunks="docs_chunks", where="lang = $1", params=["fr"],
        first_pass=first_pass, embedder=StubEmbedder(), explain=True,
    )  # fmt: skip
    index = f"taskvec_1_chunks_{first_pass or 'full'}"
    assert f"Index Scan using {index}" in found.plan
    assert "Seq Scan" not in found.plan
    assert len(found) == 5


def test_partitions_and_hostile_names(dsn: str, db: psycopg.Connection[Any]) -> None:
    table = '"a;b"."%s {x}"'
    db.execute('CREATE SCHEMA "a;b"')
    db.execute(
        f'CREATE TABLE {table} ("k""1" int, lang text, "t $1" text, '
        'PRIMARY KEY (lang, "k""1")) PARTITION BY LIST (lang)'
    )
    for lang in ("en", "de"):
        part = f'CREATE TABLE "a;b"."p {lang}" PARTITION OF {table}'
        db.execute(f"{part} FOR VALUES IN ('{lang}')")
    db.execute(
        f"INSERT INTO {table} SELECT i, CASE WHEN i % 2 = 0 THEN 'en' ELSE 'de' END, 'text ' || i"
        " FROM generate_series(1, 2000) i"
    )
    options = {"source": "t $1", "column": "e{m}b", "embedder": StubEmbedder(), "dim": DIM}
    attach(dsn, table, index="none", **options)
    work(dsn, batch=1000)
    assert index_first_pass(dsn, table, 64)
    assert not index_first_pass(dsn, table, 64)
    db.execute("ANALYZE")
    found = search(
        dsn, table, "query", k=4, first_pass=64, where="lang = $1", params=["en"],
        embedder=StubEmbedder(), explain=True,
    )  # fmt: skip
    assert "Index Scan using taskvec_1_column_64_" in found.plan
    assert len(found) == 4
    assert all(row["lang"] == "en" for row in found)
    assert list(found[0]) == ["lang", 'k"1', "t $1", "score"]
    assert one(db, "SELECT bool_and(indisvalid) FROM pg_index") is True


def test_an_interrupted_build_is_built_anew(dsn: str, db: psycopg.Connection[Any]) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), dim=DIM)
    index_first_pass(dsn, "docs", 64)
    db.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'taskvec_1_column_64'::regclass"
    )
    with pytest.raises(SchemaError, match="no index for a first pass of 64"):
        search(dsn, "docs", "q", first_pass=64, embedder=StubEmbedder())
    assert index_first_pass(dsn, "docs", 64)
    assert one(db, "SELECT count(*) FROM pg_class WHERE relname LIKE 'taskvec_1_column_64%'") == 1
    assert search(dsn, "docs", "q", first_pass=64, embedder=StubEmbedder()) == []


def test_two_builds_of_an_index_take_turns(
    dsn: str, conn: psycopg.Connection[Any], db: psycopg.Connection[Any]
) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), dim=DIM)
    # What is built CONCURRENTLY waits for all snapshots.
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute("SELECT 1")
    present = "SELECT count(*) FROM pg_class WHERE relname = 'taskvec_1_column_64'"
    trying = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory%'"
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(index_first_pass, dsn, "docs", 64)
        until(lambda: one(db, present) == 1, "the first build")
        second = pool.submit(index_first_pass, dsn, "docs", 64)
        until(lambda: one(db, trying) >= 2, "the second build's wait")
        with psycopg.connect(dsn) as other, pytest.raises(StoreError, match="another session"):
            index_first_pass(other, "docs", 64)
        conn.rollback()
        assert (first.result(60), second.result(60)) == (True, False)
    assert one(db, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def test_the_first_pass_index_is_part_of_the_callers_transaction(
    dsn: str, conn: psycopg.Connection[Any], db: psycopg.Connection[Any]
) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), dim=DIM)
    assert index_first_pass(conn, "docs", "binary")
    conn.rollback()
    assert one(db, "SELECT to_regclass('taskvec_1_column_binary')") is None


@pytest.mark.parametrize("first_pass", [256, 512, 0, "signs", True])
def test_a_first_pass_that_does_not_fit_is_refused(
    dsn: str, db: psycopg.Connection[Any], first_pass: Any
) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), dim=DIM)
    with pytest.raises(InputError, match=r"first pass .*(use one of|does not fit)"):
        index_first_pass(dsn, "docs", first_pass)
    with pytest.raises(InputError):
        search(dsn, "docs", "q", first_pass=first_pass, embedder=StubEmbedder())


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"text": " \n"}, InputError, "blank"),
        ({"k": 0}, InputError, "k 0: give at least 1"),
        ({"oversample": 0}, InputError, "oversample 0"),
        ({"params": [1]}, InputError, "without a condition"),
        ({"exact": True, "first_pass": 64}, InputError, "leave one of them out"),
        ({"table": "nowhere"}, SchemaError, "no table 'nowhere'"),
        ({"table": "a.b.c.d"}, SchemaError, "no table's name"),
        ({"table": "plain"}, SchemaError, "nothing is attached"),
        ({"column": "body"}, SchemaError, "column 'body' is not attached"),
        ({"chunks": "plain", "column": None}, SchemaError, "chunk table 'plain' is not attached"),
        ({"column": None}, SchemaError, "say which one"),
        ({"first_pass": 64}, SchemaError, "taskvec pg index"),
        ({"embedder": StubEmbedder(name="other")}, FingerprintError, "change the column's model"),
        ({"where": "nonsense = 1"}, StoreError, "nonsense"),
        ({"where": "true; DROP TABLE docs"}, StoreError, "syntax error"),
        ({"where": "id = $1", "params": ["x"]}, StoreError, "invalid input syntax"),
    ],
)
def test_what_does_not_fit_is_refused(
    dsn: str, db: psycopg.Connection[Any], options: dict[str, Any], error: type, named: str
) -> None:
    db.execute("CREATE TABLE plain (id int)")
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), dim=DIM)
    attach(dsn, "docs", source="text", column="second", embedder=StubEmbedder(), dim=DIM)
    given = {"table": "docs", "text": "q", "column": "embedding", "embedder": StubEmbedder()}
    with pytest.raises(error) as caught:
        search(dsn, **given | options)
    assert named in str(caught.value)


def test_a_reader_needs_no_more_than_to_read(dsn: str, db: psycopg.Connection[Any]) -> None:
    attach(dsn, "docs", source="text", embedder=StubEmbedder())
    work(dsn)
    role = f"reader_{uuid.uuid4().hex}"
    db.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON docs TO {role}")
    try:
        theirs = dsn.replace("postgres@", f"{role}@")
        with pytest.raises(SchemaError, match="GRANT USAGE ON SCHEMA taskvec"):
            search(theirs, "docs", "q", embedder=StubEmbedder())
        db.execute(f"GRANT USAGE ON SCHEMA taskvec TO {role}")
        db.execute(f"GRANT SELECT ON taskvec.columns TO {role}")
        assert len(search(theirs, "docs", "q", embedder=StubEmbedder())) == 6
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
