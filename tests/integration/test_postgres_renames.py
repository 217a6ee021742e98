"""Renames under an attachment: writers never see them, and workers follow, on a real PostgreSQL."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from taskvec.integrations.postgres import attach, detach, search, status
from tests.attached import assert_right, one, queued, until, work, working
from tests.embedders import StubEmbedder

STUB = StubEmbedder()
CREATE = {
    "plain": "CREATE TABLE docs (id int PRIMARY KEY, {rest})",
    "partitioned": "CREATE TABLE docs (id int PRIMARY KEY, {rest}) PARTITION BY RANGE (id);"
    "CREATE TABLE part (dead int, {rest}, id int NOT NULL); ALTER TABLE part DROP COLUMN dead;"
    "ALTER TABLE docs ATTACH PARTITION part FOR VALUES FROM (0) TO (1000)",
    "two columns": "CREATE TABLE docs ({rest}, id int, tenant text DEFAULT 't',"
    " PRIMARY KEY (tenant, id))",
}
REST = "text text, more text, other int DEFAULT 0"


@pytest.fixture(params=CREATE)
def db(dsn: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A table docs of nine embedded rows with chunks, and an empty queue."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(CREATE[request.param].format(rest=REST))
        conn.execute(
            "INSERT INTO docs (id, text) SELECT i, 'text ' || i FROM generate_series(1, 9) i"
        )
        attach(
            dsn, "docs", source=["text", "more"], where="other < 5", chunks="docs_chunks",
            embedder=STUB,
        )  # fmt: skip
        work(dsn)
        yield conn


def write(conn: psycopg.Connection[Any], key: str = "id", text: str = "text") -> None:
    """All kinds of writes."""
    conn.execute(f"INSERT INTO docs ({key}, {text}) VALUES (20, 'new'), (21, 'new, too')")
    conn.execute(f"UPDATE docs SET {text} = 'changed' WHERE {key} IN (1, 2)")
    conn.execute(f"UPDATE docs SET {key} = {key} + 100 WHERE {key} IN (2, 3)")
    conn.execute(f"DELETE FROM docs WHERE {key} IN (4, 21)")


def keys(conn: psycopg.Connection[Any], column: str = "key_1") -> list[int]:
    if one(conn, "SELECT count(*) FROM pg_attribute WHERE attname = 'tenant'"):
        column = "key_2"
    return [key for (key,) in conn.execute(f"SELECT {column} FROM taskvec.queue_1 ORDER BY 1")]


def assert_all_right(
    conn: psycopg.Connection[Any], key: str = "id", text: str = "text", **names: str
) -> None:
    """Vectors and chunks are those of the rows, and nothing waits."""
    table = names.pop("table", "docs")
    assert_right(conn, table, text=f"concat_ws(E'\\n\\n', {text}, more)", **names)
    rows = f"SELECT array_agg(ROW({key}, {text})::text ORDER BY {key}) FROM {table}"
    assert one(conn, "SELECT array_agg(ROW(id, text)::text ORDER BY id) FROM docs_chunks") == (
        one(conn, rows)
    )
    assert queued(conn) == 0


def test_writers_go_on_with_a_renamed_key_before_any_worker_has_come_by(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("UPDATE docs SET other = 1")  # so that this session has planned all of it
    write(db)
    work(dsn)
    db.execute("TRUNCATE docs")
    db.execute("INSERT INTO docs (id, text) SELECT i, 'text ' || i FROM generate_series(1, 9) i")
    work(dsn)
    db.execute("ALTER TABLE docs RENAME COLUMN id TO pk")
    write(db, "pk")
    assert keys(db) == [1, 20, 102, 103]
    assert one(db, "SELECT count(*) FROM docs_chunks WHERE id IN (2, 3, 4)") == 0
    work(dsn)
    assert_all_right(db, "pk")
    assert one(db, "SELECT keys[cardinality(keys)] FROM taskvec.columns") == "pk"
    db.execute("TRUNCATE docs")
    assert one(db, "SELECT count(*) FROM docs_chunks") == 0


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_of_before_the_renaming_goes_on_after_it(
    dsn: str, db: psycopg.Connection[Any], isolation: str
) -> None:
    with psycopg.connect(dsn) as old:
        old.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        old.execute("SELECT FROM taskvec.columns")
        db.execute("ALTER TABLE docs RENAME COLUMN id TO pk")
        write(old, "pk")
    assert set(keys(db)) >= {1, 20, 102, 103}
    work(dsn)
    assert_all_right(db, "pk")


def test_a_worker_makes_the_functions_anew_after_a_key_was_renamed(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("ALTER TABLE docs RENAME COLUMN id TO pk")
    work(dsn)
    source = "SELECT prosrc FROM pg_proc WHERE proname = 'inserted_1'"
    assert '"pk"' in one(db, source)
    assert '"id"' not in one(db, source)
    write(db, "pk")
    work(dsn)
    assert_all_right(db, "pk")
    assert not attach(
        dsn, "docs", source=["text", "more"], where="other < 5", chunks="docs_chunks",
        embedder=STUB,
    ).created  # fmt: skip


def test_a_key_that_gave_its_name_to_another_column_is_still_the_key(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("ALTER TABLE docs RENAME COLUMN id TO pk")
    db.execute("ALTER TABLE docs ADD COLUMN id text DEFAULT 'nothing like a number'")
    write(db, "pk")
    assert keys(db) == [1, 20, 102, 103]
    work(dsn)
    assert_all_right(db, "pk")


RENAMES = {
    "source": ["ALTER TABLE docs RENAME COLUMN text TO body"],
    "sources, into each other's place": [
        "ALTER TABLE docs RENAME COLUMN text TO x",
        "ALTER TABLE docs RENAME COLUMN more TO text",
        "ALTER TABLE docs RENAME COLUMN x TO more",
    ],
    "column of the condition": [
        "ALTER TABLE docs RENAME COLUMN other TO status",
        "ALTER TABLE docs ADD COLUMN other int DEFAULT 1000",
    ],
    "vector column": ["ALTER TABLE docs RENAME COLUMN embedding TO vec"],
    "table": ["ALTER TABLE docs RENAME TO papers"],
    "table, and another is called so": [
        "ALTER TABLE docs RENAME TO papers",
        "CREATE TABLE docs (LIKE papers INCLUDING ALL)",
    ],
    "schema": [
        "CREATE SCHEMA app",
        "ALTER TABLE docs SET SCHEMA app",
        "ALTER SCHEMA app RENAME TO b",
    ],
    "key of the chunk table": ["ALTER TABLE docs_chunks RENAME COLUMN id TO doc"],
    "chunk table": ["ALTER TABLE docs_chunks RENAME TO pieces"],
}  # fmt: skip


def after(rename: str) -> dict[str, str]:
    """How things are called after a rename."""
    names = {"table": "docs", "key": "id", "text": "text", "more": "more", "column": "embedding",
             "chunks": "docs_chunks", "doc": "id"}  # fmt: skip
    return names | {
        "source": {"text": "body"},
        "sources, into each other's place": {"text": "more", "more": "text"},
        "vector column": {"column": "vec"},
        "table": {"table": "papers"},
        "table, and another is called so": {"table": "papers"},
        "schema": {"table": "b.docs"},
        "key of the chunk table": {"doc": "doc"},
        "chunk table": {"chunks": "pieces"},
    }.get(rename, {})


@pytest.mark.parametrize("db", ["plain"], indirect=True)
@pytest.mark.parametrize("when", ["before the worker", "under a worker", "with a batch in hand"])
@pytest.mark.parametrize("rename", RENAMES)
def test_what_is_renamed_is_followed(
    dsn: str, db: psycopg.Connection[Any], rename: str, when: str
) -> None:
    n = after(rename)
    done = False

    def rename_now(texts: list[str] | None = None) -> None:
        nonlocal done
        if not done:
            done = True
            for statement in RENAMES[rename]:
                db.execute(statement)

    def write() -> None:
        db.execute(f"UPDATE {n['table']} SET {n['text']} = 'changed' WHERE {n['key']} IN (1, 2)")
        db.execute(f"INSERT INTO {n['table']} ({n['key']}, {n['text']}) VALUES (20, 'new')")
        db.execute(f"DELETE FROM {n['table']} WHERE {n['key']} = 4")

    if when == "before the worker":
        rename_now()
        write()
        work(dsn)
    elif when == "under a worker":
        with working(dsn):
            db.execute("UPDATE docs SET text = 'a' WHERE id = 5")
            until(lambda: queued(db) == 0, "the first embedding")
            rename_now()
            write()
            until(lambda: queued(db) == 0, "the embedding after the rename")
    else:
        db.execute("UPDATE docs SET text = 'a' WHERE id = 5")
        work(dsn, StubEmbedder(rename_now))
        write()
        work(dsn)
    joined = f"concat_ws(E'\\n\\n', {n['text']}, {n['more']})"
    assert_right(db, n["table"], text=joined, column=n["column"])
    rows = "SELECT array_agg(ROW({}, {})::text ORDER BY 1) FROM {}".format
    present = one(db, rows(n["key"], n["text"], n["table"]))
    assert sorted(one(db, rows(n["doc"], "text", n["chunks"]))) == sorted(present)
    assert one(db, "SELECT count(*) FROM taskvec.queue_1 WHERE attempts > 0 OR error > ''") == 0
    assert status(dsn)[0].problem is None
    assert status(dsn)[0].column == n["column"]
    found = search(dsn, n["table"], "new", embedder=STUB, k=3, chunks=n["chunks"], where="true")
    assert n["doc"] in found[0]
    assert detach(dsn, n["table"], column=n["column"], chunks=n["chunks"])


def test_search_needs_no_worker_to_have_come_by(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("ALTER TABLE docs RENAME COLUMN text TO body")
    db.execute("ALTER TABLE docs RENAME COLUMN embedding TO vec")
    [found, *_] = search(dsn, "docs", "text 1", embedder=STUB)
    assert "body" in found
    assert status(dsn)[0].column == "vec"
    assert status(dsn, exact=True)[0].coverage == 100.0


def test_two_vector_columns_may_change_names(dsn: str, db: psycopg.Connection[Any]) -> None:
    attach(dsn, "docs", source="text", column="second", dim=16, embedder=STUB)
    work(dsn)
    for old, new in (("embedding", "x"), ("second", "embedding"), ("x", "second")):
        db.execute(f"ALTER TABLE docs RENAME COLUMN {old} TO {new}")
    db.execute("UPDATE docs SET text = 'changed' WHERE id < 4")
    work(dsn)
    assert_right(db, column="embedding", dim=16)
    assert_right(db, column="second")
    columns = db.execute("SELECT embedding FROM taskvec.columns ORDER BY id").fetchall()
    assert columns == [("second",), ("embedding",)]


def test_a_restored_registry_goes_by_names(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute('UPDATE taskvec.columns SET numbered = 0, numbers = \'{"text": 1, "id": 9}\'')
    write(db)
    work(dsn)
    assert_all_right(db)
    assert one(db, "SELECT numbered = relation FROM taskvec.columns")


def test_a_condition_that_cannot_follow_a_rename_stops_no_other_column(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("CREATE FUNCTION fine(text) RETURNS boolean IMMUTABLE RETURN $1 <> 'not this'")
    db.execute("CREATE TABLE strict (id int PRIMARY KEY, text text)")
    attach(dsn, "strict", source="text", where="fine(text)", embedder=STUB)
    work(dsn)
    db.execute("ALTER TABLE strict RENAME COLUMN text TO words; DROP FUNCTION fine")
    write(db)
    work(dsn)
    assert_all_right(db)
    db.execute("CREATE TABLE later (id int PRIMARY KEY, text text)")
    db.execute("INSERT INTO later VALUES (1, 'one')")
    attach(dsn, "later", source="text", embedder=STUB)
    work(dsn)
    assert_right(db, "later")
    db.execute("CREATE FUNCTION fine(text) RETURNS boolean IMMUTABLE RETURN $1 <> 'not this'")
    db.execute("INSERT INTO strict VALUES (1, 'one'), (2, 'not this')")
    work(dsn)
    assert one(db, "SELECT array_agg(id) FROM strict WHERE embedding IS NOT NULL") == [1]
