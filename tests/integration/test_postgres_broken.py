"""Columns whose table, key or chunk table is gone: told of, left alone, and detached."""

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from taskvec.core.errors import InputError, SchemaError
from taskvec.integrations.postgres import attach, detach, failures, retry, search, status
from taskvec.integrations.postgres.metrics import metrics_text
from tests.attached import assert_right, one, queued, until, work, working
from tests.embedders import StubEmbedder

STUB = StubEmbedder()
DAMAGES = {
    "table": ("DROP TABLE docs", "its table was dropped"),
    "chunk table": ("DROP TABLE docs_chunks", "its chunk table was dropped"),
    "key": ("ALTER TABLE docs DROP CONSTRAINT docs_pkey", "its table has lost its primary key"),
    "another key": (
        "ALTER TABLE docs DROP CONSTRAINT docs_pkey; ALTER TABLE docs ADD PRIMARY KEY (other)",
        "its table's key was id and is other",
    ),
    "key's column": ("ALTER TABLE docs DROP COLUMN id CASCADE", "its table has lost id"),
    "vector column": ("ALTER TABLE docs DROP COLUMN embedding", "its table has lost embedding"),
    "source": ("ALTER TABLE docs DROP COLUMN text CASCADE", "its table has lost text"),
}
damaged = pytest.mark.parametrize("damage", DAMAGES)
damaged_alone = pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "table"])


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A table docs of nine embedded rows with chunks, and a table more of one row to embed."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text, other serial)")
        conn.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 9) i")
        attach(dsn, "docs", source="text", chunks="docs_chunks", embedder=STUB)
        work(dsn)
        conn.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
        attach(dsn, "more", source="text", embedder=STUB)
        conn.execute("INSERT INTO more VALUES (1, 'one')")
        yield conn


def of_ours(conn: psycopg.Connection[Any]) -> list[str]:
    """What is left in the database of the column with the id 1."""
    rows = conn.execute(
        "SELECT proname::text FROM pg_proc WHERE proname LIKE '%\\_1'"
        " AND pronamespace = 'taskvec'::regnamespace"
        " UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE 'taskvec\\_1\\_%'"
        " UNION ALL SELECT relname FROM pg_class WHERE relname = 'queue_1'"
        " UNION ALL SELECT id::text FROM taskvec.columns WHERE id = 1"
    )
    return [name for (name,) in rows]


@damaged
def test_a_broken_column_holds_up_no_other_one(
    dsn: str, db: psycopg.Connection[Any], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    statement, problem = DAMAGES[damage]
    db.execute(statement)
    work(dsn)
    assert_right(db, "more")
    assert failures(dsn) == []
    assert retry(dsn) == 0
    [broken, other] = status(dsn)
    assert (broken.problem, other.problem) == (problem, None)
    assert one(db, "SELECT problem FROM taskvec.status WHERE id = 1") == problem
    assert [found.coverage for found in status(dsn, exact=True)][1] == 100.0
    assert "column 1 is left alone: column 1 ('embedding' of" in caplog.text
    assert f"{problem}: put that right, or detach it by its id" in caplog.text
    if damage != "table":
        assert 'taskvec_column_broken{column="embedding",id="1",table="docs"} 1.0' in (
            metrics_text(dsn)
        )


@damaged
def test_a_column_that_breaks_under_a_worker_is_told_of_once(
    dsn: str,
    db: psycopg.Connection[Any],
    damage: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.shift.UPKEEP_S", 0.05)
    with working(dsn):
        until(lambda: queued(db, 2) == 0, "the first embedding")
        db.execute(DAMAGES[damage][0])
        until(lambda: "column 1 is left alone" in caplog.text, "the warning")
        for i in range(2, 12):
            db.execute("INSERT INTO more VALUES (%s, 'another')", [i])
            until(lambda: queued(db, 2) == 0, "the other column's embedding")
    assert_right(db, "more")
    warned = [r for r in caplog.records if r.levelno >= logging.WARNING and "left alone" in r.msg]
    assert len(warned) == 1


@damaged
@pytest.mark.parametrize("drop", [False, True])
def test_a_broken_column_is_detached_by_its_id(
    dsn: str, db: psycopg.Connection[Any], damage: str, drop: bool
) -> None:
    db.execute(DAMAGES[damage][0])
    assert detach(dsn, id=1, drop=drop)
    assert of_ours(db) == []
    assert not detach(dsn, id=1)
    assert (one(db, "SELECT to_regclass('docs_chunks')") is None) == (
        drop or damage == "chunk table"
    )
    assert [found.id for found in status(dsn)] == [2]
    work(dsn)
    assert_right(db, "more")
    if damage == "table":
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
        db.execute("INSERT INTO docs VALUES (1, 'anew')")
        attach(dsn, "docs", source="text", embedder=STUB)
        work(dsn)
        assert_right(db)


@damaged_alone
def test_writers_of_a_broken_columns_table_go_on(
    dsn: str, db: psycopg.Connection[Any], damage: str
) -> None:
    db.execute("INSERT INTO docs VALUES (100, 'planned'); DELETE FROM docs WHERE other = 1")
    db.execute(DAMAGES[damage][0])
    for _ in range(2):  # before a worker has come by, and after
        db.execute("INSERT INTO docs DEFAULT VALUES" if damage == "key's column" else
                   "INSERT INTO docs (id) SELECT max(id) + 1 FROM docs")  # fmt: skip
        if damage != "source":
            db.execute("UPDATE docs SET text = 'new' WHERE other = 2")
        db.execute("DELETE FROM docs WHERE other = 3")
        work(dsn)
    db.execute("TRUNCATE docs")


def test_a_key_that_may_be_null_is_no_key(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("ALTER TABLE docs DROP CONSTRAINT docs_pkey")
    db.execute("ALTER TABLE docs ALTER COLUMN id DROP NOT NULL")
    db.execute("INSERT INTO docs VALUES (NULL, 'x'), (100, 'y')")
    db.execute("UPDATE docs SET text = 'z' WHERE id IS NULL")
    db.execute("DELETE FROM docs WHERE id IS NULL")
    assert queued(db) == 1


def test_a_key_that_was_widened_by_another_column_stops_no_writer(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("ALTER TABLE docs ADD COLUMN wide bigint; UPDATE docs SET wide = id")
    db.execute(
        "BEGIN; ALTER TABLE docs DROP CONSTRAINT docs_pkey; ALTER TABLE docs RENAME id TO narrow;"
        "ALTER TABLE docs ALTER COLUMN narrow DROP NOT NULL; ALTER TABLE docs RENAME wide TO id;"
        "ALTER TABLE docs ADD PRIMARY KEY (id); COMMIT"
    )
    db.execute("INSERT INTO docs (id, text) VALUES (3000000000, 'far')")
    db.execute("UPDATE docs SET text = 'out' WHERE id = 3000000000")
    db.execute("DELETE FROM docs WHERE id = 3000000000")
    work(dsn)
    assert status(dsn)[0].problem == "its table's key was narrow and is id"


def test_what_is_put_right_is_served_again(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.shift.UPKEEP_S", 0.05)
    with working(dsn):
        until(lambda: queued(db, 2) == 0, "the first embedding")
        db.execute("ALTER TABLE docs DROP CONSTRAINT docs_pkey")
        db.execute("INSERT INTO docs VALUES (10, 'ten')")
        db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
        db.execute("ALTER TABLE docs ADD PRIMARY KEY (id)")
        until(lambda: queued(db) == 0, "the embedding of what was written meanwhile")
    assert_right(db)


ADOPTIONS = {
    "partition": (
        (
            "CREATE TABLE big (LIKE docs) PARTITION BY RANGE (id);"
            "ALTER TABLE big ATTACH PARTITION docs FOR VALUES FROM (0) TO (100)"
        ),
        "its table has become a partition, which is not followed",
        "ALTER TABLE big DETACH PARTITION docs",
    ),
    "child": (
        "CREATE TABLE parent (id int, text text); ALTER TABLE docs INHERIT parent",
        "its table inherits from another one, which is not followed",
        "ALTER TABLE docs NO INHERIT parent",
    ),
    "parent": (
        "CREATE TABLE child () INHERITS (docs)",
        "another table inherits from its table, which is not followed",
        "DROP TABLE child",
    ),
}


@pytest.mark.parametrize("adoption", ADOPTIONS)
def test_a_table_that_is_written_through_another_one_is_told_of(
    dsn: str, db: psycopg.Connection[Any], adoption: str
) -> None:
    adopt, problem, release = ADOPTIONS[adoption]
    db.execute(adopt)
    work(dsn)
    assert [found.problem for found in status(dsn)] == [problem, None]
    assert_right(db, "more")
    db.execute(release)
    db.execute("INSERT INTO docs VALUES (50, 'new')")
    work(dsn)
    assert [found.problem for found in status(dsn)] == [None, None]
    assert_right(db)


def test_detaching_wants_a_table_or_an_id(dsn: str, db: psycopg.Connection[Any]) -> None:
    with pytest.raises(InputError, match="give one of them"):
        detach(dsn, "docs", id=1)
    with pytest.raises(InputError, match="give one of them"):
        detach(dsn)


@damaged_alone
def test_whoever_asks_for_a_broken_column_is_told_the_cure(
    dsn: str, db: psycopg.Connection[Any], damage: str
) -> None:
    db.execute(DAMAGES[damage][0])
    with pytest.raises(SchemaError, match="taskvec pg detach --id 1"):
        search(dsn, "docs", "text", embedder=STUB)
