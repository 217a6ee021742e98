"""What a worker's role needs, and what it may not do, on a real PostgreSQL."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres import alter, attach, failures, grant, retry, status
from tests.attached import assert_right, one, queued, work
from tests.embedders import StubEmbedder

STUB = StubEmbedder()


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit, with a table docs of three rows; PUBLIC may do nothing."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text, other int DEFAULT 0)")
        conn.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two'), (3, 'three')")
        conn.execute(f"REVOKE ALL ON DATABASE {conn.info.dbname} FROM PUBLIC")
        yield conn


@pytest.fixture
def role(db: psycopg.Connection[Any]) -> Iterator[str]:
    """A role that may connect, with a name that needs quotes."""
    name = f'W "{uuid.uuid4().hex}'
    quoted = '"' + name.replace('"', '""') + '"'
    db.execute(
        f"CREATE ROLE {quoted} LOGIN; GRANT CONNECT ON DATABASE {db.info.dbname} TO {quoted}"
    )
    yield name
    db.execute(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


def as_role(dsn: str, role: str) -> str:
    return make_conninfo(dsn, user=role)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": "docs_chunks", "where": "other < 5"},
        {"column": None, "chunks": "docs_chunks"},
    ],
)
def test_a_role_that_was_granted_a_column_does_all_that_a_worker_does(
    dsn: str, db: psycopg.Connection[Any], role: str, options: dict[str, Any]
) -> None:
    attach(dsn, "docs", source="text", embedder=STUB, **options)
    theirs = as_role(dsn, role)
    with pytest.raises(SchemaError):
        status(theirs)
    grant(dsn, "docs", role=role)
    grant(dsn, "docs", role=role)

    def refuse(texts: list[str]) -> None:
        if "two" in texts:
            raise ValueError("poison")

    work(theirs, StubEmbedder(before=refuse), attempts=1)
    assert [failure.key for failure in failures(theirs)] == [{"id": "2"}]
    assert retry(theirs) == 1
    db.execute("UPDATE docs SET text = 'uno' WHERE id = 1; DELETE FROM docs WHERE id = 3")
    work(theirs)
    (figures,) = status(theirs, exact=True)
    assert (figures.coverage, figures.rows, figures.failed) == (100.0, 2, 1)
    assert queued(db) == 0
    if options.get("column", "embedding"):
        assert_right(db)
    if "chunks" in options:
        assert one(db, "SELECT array_agg(text ORDER BY id) FROM docs_chunks") == ["uno", "two"]


def test_the_schemas_of_a_table_and_its_chunks_are_granted_with_them(
    dsn: str, db: psycopg.Connection[Any], role: str
) -> None:
    db.execute("CREATE SCHEMA app; CREATE SCHEMA parts")
    db.execute("CREATE TABLE app.notes AS SELECT * FROM docs")
    db.execute("ALTER TABLE app.notes ADD PRIMARY KEY (id)")
    attach(dsn, "app.notes", source="text", embedder=STUB, chunks="parts.notes")
    grant(dsn, "app.notes", role=role)
    work(as_role(dsn, role))
    assert_right(db, "app.notes")
    assert one(db, "SELECT count(*) FROM parts.notes") == 3


def test_a_successor_that_is_there_already_is_granted_as_well(
    dsn: str, db: psycopg.Connection[Any], role: str
) -> None:
    attach(dsn, "docs", source="text", embedder=STUB)
    alter(dsn, "docs", dim=16, embedder=STUB)
    grant(dsn, "docs", role=role)
    work(as_role(dsn, role))
    assert_right(db, column="taskvec_next_2", dim=16)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE taskvec.columns SET condition = 'true'",
        "UPDATE taskvec.columns SET sources = '{other}'",
        "UPDATE taskvec.columns SET relation = 'pg_class'",
        "UPDATE taskvec.columns SET chunks = 'docs'",
        "UPDATE taskvec.columns SET model = 'other'",
        "INSERT INTO taskvec.columns SELECT * FROM taskvec.columns",
        "DELETE FROM taskvec.columns",
        "TRUNCATE taskvec.queue_1",
        "CREATE TABLE taskvec.mine ()",
        "UPDATE docs SET text = ''",
        "DELETE FROM docs",
        "UPDATE docs_chunks SET text = ''",
        "DELETE FROM taskvec.queue_2",
    ],
)
def test_a_workers_role_may_not_change_what_others_run(
    dsn: str, db: psycopg.Connection[Any], role: str, statement: str
) -> None:
    attach(dsn, "docs", source="text", embedder=STUB, chunks="docs_chunks")
    attach(dsn, "docs", source="text", embedder=STUB, column="second")
    grant(dsn, "docs", role=role, column="embedding")
    with (
        psycopg.connect(as_role(dsn, role), autocommit=True) as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        conn.execute(statement)


def test_what_cannot_be_granted_is_named(dsn: str, db: psycopg.Connection[Any], role: str) -> None:
    attach(dsn, "docs", source="text", embedder=STUB)
    with pytest.raises(SchemaError, match="no role 'nobody': CREATE ROLE"):
        grant(dsn, "docs", role="nobody")
    grant(dsn, "docs", role=role)
    with pytest.raises(SchemaError, match=r"no privilege to grant .* its owner"):
        grant(as_role(dsn, role), "docs", role="pg_monitor")
    assert one(db, "SELECT has_schema_privilege('pg_monitor', 'taskvec', 'USAGE')") is False
