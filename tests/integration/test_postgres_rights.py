"""Roles that lack a right, and several that attach columns, on a real PostgreSQL."""

import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres import alter, attach, failures, status
from tests.attached import assert_right, one, queued, until, work, working
from tests.embedders import StubEmbedder

STUB = StubEmbedder()


@pytest.fixture(autouse=True)
def _upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look for what is granted all the time."""
    monkeypatch.setattr("taskvec.integrations.postgres.shift.UPKEEP_S", 0.05)


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Tables docs and more, attached with chunks, of nine rows each."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table in ("docs", "more"):
            conn.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, text text)")
            conn.execute(f"INSERT INTO {table} SELECT i, 'x' || i FROM generate_series(1, 9) i")
            attach(dsn, table, source="text", chunks=f"{table}_chunks", embedder=STUB)
        yield conn


@pytest.fixture
def roles(dsn: str) -> Iterator[list[str]]:
    """Two roles that may do nothing yet."""
    names = [f"role_{uuid.uuid4().hex}" for _ in range(2)]
    with psycopg.connect(dsn, autocommit=True) as conn:
        for name in names:
            conn.execute(f"CREATE ROLE {name} LOGIN")
        yield names
        for name in reversed(names):
            conn.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@pytest.fixture
def worker(db: psycopg.Connection[Any], roles: list[str]) -> str:
    """A role with just what a worker of both columns needs."""
    name = roles[0]
    db.execute(f"GRANT USAGE ON SCHEMA taskvec TO {name}")
    db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA taskvec TO {name}")
    db.execute(f"GRANT SELECT, UPDATE (embedding) ON docs, more TO {name}")
    db.execute(f"GRANT SELECT, INSERT, DELETE ON docs_chunks, more_chunks TO {name}")
    return name


def theirs(dsn: str, role: str) -> str:
    return dsn.replace("postgres@", f"{role}@")


def right(conn: psycopg.Connection[Any], table: str) -> bool:
    """Whether all of a table's rows have vectors."""
    return bool(one(conn, f"SELECT count(*) = count(embedding) FROM {table}"))


RIGHTS = [
    "SELECT ON public.more", "UPDATE (embedding) ON public.more", "SELECT ON public.more_chunks",
    "INSERT ON public.more_chunks", "DELETE ON public.more_chunks", "SELECT ON taskvec.queue_2",
    "INSERT ON taskvec.queue_2", "UPDATE ON taskvec.queue_2", "DELETE ON taskvec.queue_2",
]  # fmt: skip


@pytest.mark.parametrize("lacking", RIGHTS)
def test_a_column_without_a_right_is_left_alone_until_it_is_granted(
    dsn: str,
    db: psycopg.Connection[Any],
    worker: str,
    lacking: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    db.execute(f"REVOKE {lacking} FROM {worker}")
    work(theirs(dsn, worker))
    assert_right(db)
    assert not right(db, "more")
    assert f"GRANT {lacking} TO {worker}" in caplog.text
    caplog.clear()
    with working(theirs(dsn, worker)):
        for i in range(10, 15):
            db.execute("INSERT INTO docs VALUES (%s, 'new')", [i])
            until(lambda: queued(db) == 0, "the other column's embedding")
        warned = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert [r.getMessage()[:22] for r in warned] == ["column 2 is left alone"]
        db.execute(f"GRANT {lacking} TO {worker}")
        until(lambda: right(db, "more") and queued(db, 2) == 0, "the embedding")
    assert_right(db, "more")
    assert status(dsn)[1].failed == 0


def test_a_registry_that_may_not_be_read_is_told_at_the_start_and_waited_for_later(
    dsn: str, db: psycopg.Connection[Any], worker: str, caplog: pytest.LogCaptureFixture
) -> None:
    with working(theirs(dsn, worker)):
        until(lambda: right(db, "docs") and right(db, "more"), "the embedding")
        db.execute(f"REVOKE SELECT ON taskvec.columns FROM {worker}")
        until(lambda: "the registry is left alone" in caplog.text, "the warning")
        db.execute(f"GRANT SELECT ON taskvec.columns TO {worker}")
        db.execute("INSERT INTO docs VALUES (10, 'new')")
        until(lambda: queued(db) == 0, "the embedding")
    assert caplog.text.count("the registry is left alone") == 1
    assert_right(db)
    db.execute(f"REVOKE ALL ON SCHEMA taskvec FROM {worker}")
    with pytest.raises(
        SchemaError, match="permission denied for schema taskvec: `taskvec pg grant"
    ):
        work(theirs(dsn, worker))


@pytest.mark.parametrize("lacking", RIGHTS)
def test_a_right_that_is_revoked_in_the_midst_of_work_fails_no_row(
    dsn: str,
    db: psycopg.Connection[Any],
    worker: str,
    lacking: str,
) -> None:
    revoked = threading.Event()

    def revoke(texts: list[str]) -> None:
        if "revoke" in texts and not revoked.is_set():
            db.execute(f"REVOKE {lacking} FROM {worker}")
            revoked.set()

    work(dsn)
    with working(theirs(dsn, worker), StubEmbedder(before=revoke), lease_s=1.0):
        db.execute("UPDATE more SET text = 'revoke' WHERE id = 1")
        until(revoked.is_set, "the revocation")
        for i in range(10, 15):
            db.execute("INSERT INTO docs VALUES (%s, 'new')", [i])
            until(lambda: queued(db) == 0, "the other column's embedding")
        db.execute(f"GRANT {lacking} TO {worker}")
        until(lambda: queued(db, 2) == 0, "the embedding")
    assert_right(db)
    assert_right(db, "more")
    assert status(dsn)[1].failed == 0


def test_what_a_users_trigger_may_not_do_is_its_rows_fault(
    dsn: str, db: psycopg.Connection[Any], worker: str
) -> None:
    db.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 3 THEN"
        " RAISE insufficient_privilege USING MESSAGE = 'not this one'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER guard BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION guard()"
    )
    work(theirs(dsn, worker), attempts=1)
    [failure] = failures(dsn)
    assert (failure.key, failure.parked) == ({"id": "3"}, True)
    assert one(db, "SELECT count(embedding) FROM docs") == 8


def test_workers_of_a_database_that_is_read_only_wait(
    dsn: str, db: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    db.execute(f"ALTER DATABASE {db.info.dbname} SET default_transaction_read_only = on")
    with working(dsn):
        until(lambda: "read-only transaction" in caplog.text, "the warning")
    db.execute(f"ALTER DATABASE {db.info.dbname} RESET default_transaction_read_only")
    work(dsn)
    assert_right(db)


def test_several_roles_attach_and_all_see_the_status(dsn: str, roles: list[str]) -> None:
    first, second = roles
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"GRANT CREATE ON DATABASE {conn.info.dbname} TO {first}")
        for role in roles:
            conn.execute(f"CREATE SCHEMA {role} AUTHORIZATION {role}")
            with psycopg.connect(theirs(dsn, role), autocommit=True) as owner:
                owner.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
                owner.execute("INSERT INTO docs VALUES (1, 'one')")
                attach(owner, "docs", source="text", embedder=STUB)
            if role == first:
                conn.execute(f"GRANT USAGE, CREATE ON SCHEMA taskvec TO {second}")
                conn.execute(f"GRANT ALL ON taskvec.columns, taskvec.status TO {second}")
                conn.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA taskvec TO {second}")
        for who in (dsn, *(theirs(dsn, role) for role in roles)):
            assert [found.id for found in status(who)] == [1, 2]
        alter(theirs(dsn, second), "docs", dim=16, embedder=STUB)
        work(dsn)
        for who in (dsn, *(theirs(dsn, role) for role in roles)):
            assert [found.coverage for found in status(who)] == [100.0, 100.0, 100.0]
