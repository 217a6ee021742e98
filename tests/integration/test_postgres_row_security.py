"""Attached tables with row-level security: no row is lost because a policy hides it."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres import attach, failures
from tests.attached import ASLEEP, DEADLINE_S, assert_right, one, queued, until, work, working
from tests.embedders import StubEmbedder
from tests.integration.test_postgres_worker import Gate

SECURE = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenants ON {table} USING (id < 3)
"""
SECURED = ["docs", "docs_chunks"]


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A table docs of ten embedded rows with chunks, and a table more of none."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
        conn.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 10) i")
        attach(dsn, "docs", source="text", chunks="docs_chunks", embedder=StubEmbedder())
        work(dsn)
        conn.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
        attach(dsn, "more", source="text", embedder=StubEmbedder())
        yield conn


@pytest.fixture
def role(db: psycopg.Connection[Any]) -> Iterator[str]:
    """A role with a worker's rights."""
    name = f"worker_{uuid.uuid4().hex}"
    db.execute(
        f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA taskvec TO {name};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA taskvec TO {name};"
        f"GRANT SELECT, UPDATE (embedding) ON docs, more TO {name};"
        f"GRANT ALL ON docs_chunks TO {name}"
    )
    yield name
    db.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@pytest.fixture
def theirs(dsn: str, role: str) -> str:
    """The DSN of that role."""
    return dsn.replace("postgres@", f"{role}@")


@pytest.fixture
def quick_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.shift.UPKEEP_S", 0.05)


@pytest.mark.usefixtures("quick_upkeep")
@pytest.mark.parametrize("table", SECURED)
def test_a_column_whose_rows_a_worker_may_not_see_is_left_alone(
    theirs: str,
    db: psycopg.Connection[Any],
    role: str,
    table: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    db.execute(SECURE.format(table=table))
    db.execute("UPDATE docs SET text = text || '!'; INSERT INTO more VALUES (1, 'one')")
    with working(theirs):
        until(lambda: queued(db, 2) == 0, "the other column's embedding")
        assert f'may hide rows of "public"."{table}" from the role {role!r}' in caplog.text
        assert queued(db) == one(db, "SELECT count(*) FROM docs_chunks") == 10
        db.execute(f"ALTER ROLE {role} BYPASSRLS")
        until(lambda: queued(db) == 0, "the embedding after the cure")
    assert caplog.text.count("is left alone") == 1
    assert_right(db)
    assert_right(db, "more")


@pytest.mark.parametrize("table", SECURED)
@pytest.mark.parametrize("in_hand", [True, False])
def test_policies_that_come_while_a_worker_runs_cost_no_row(
    theirs: str,
    db: psycopg.Connection[Any],
    table: str,
    in_hand: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    secure, update = SECURE.format(table=table), "UPDATE docs SET text = text || '!'"
    with working(theirs, StubEmbedder(gate), attempts=1, lease_s=600.0):
        until(lambda: one(db, ASLEEP), "falling asleep")
        if in_hand:
            db.execute(update)
            assert gate.reached.wait(DEADLINE_S)
            db.execute(secure)
        else:
            db.execute(f"{secure}; {update}")
        gate.opened.set()
        until(lambda: "is left alone" in caplog.text, "the warning")
    assert f'row-level security policy for table "{table}"' in caplog.text
    assert queued(db) == one(db, "SELECT count(*) FROM docs_chunks") == 10
    assert one(db, "SELECT count(embedding) FROM docs") == 10
    assert failures(theirs) == []
    db.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    work(theirs)
    assert_right(db)


def test_a_backfill_passes_no_hidden_row(
    theirs: str, db: psycopg.Connection[Any], role: str
) -> None:
    db.execute("INSERT INTO more SELECT i, 'text ' || i FROM generate_series(1, 10) i")
    db.execute(SECURE.format(table="more"))
    work(theirs)
    assert not one(db, "SELECT backfill_done FROM taskvec.columns WHERE id = 2")
    db.execute(f"ALTER TABLE more OWNER TO {role}")
    work(theirs)
    assert_right(db, "more")


def test_whoever_may_not_see_all_rows_may_not_attach(
    theirs: str, db: psycopg.Connection[Any], role: str
) -> None:
    db.execute("CREATE TABLE third (id int PRIMARY KEY, text text)")
    db.execute(f"GRANT SELECT, TRIGGER ON third TO {role}")
    db.execute(SECURE.format(table="third"))
    with pytest.raises(SchemaError, match=r"row-level security may hide rows .* BYPASSRLS"):
        attach(theirs, "third", source="text", embedder=StubEmbedder())


def test_trigger_functions_take_no_hidden_row_for_deleted(
    theirs: str, db: psycopg.Connection[Any], role: str
) -> None:
    db.execute("CREATE TABLE third (id int PRIMARY KEY, text text)")
    db.execute(f"ALTER TABLE third OWNER TO {role}; GRANT CREATE ON SCHEMA taskvec TO {role}")
    attach(theirs, "third", source="text", embedder=StubEmbedder(), index="none")
    db.execute(SECURE.format(table="third"))
    db.execute("INSERT INTO third VALUES (7, 'seven')")
    db.execute("UPDATE third SET id = 8")
    db.execute("ALTER TABLE third FORCE ROW LEVEL SECURITY")
    db.execute("UPDATE third SET text = 'eight'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        db.execute("UPDATE third SET id = 9")
    assert one(db, "SELECT key_1 FROM taskvec.queue_3") == 8


def test_a_users_trigger_may_use_a_table_with_policies(
    theirs: str, db: psycopg.Connection[Any], role: str
) -> None:
    db.execute(
        "CREATE TABLE seen (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NULL; END $$;"
        "CREATE TRIGGER note AFTER UPDATE OF embedding ON docs FOR EACH ROW"
        " EXECUTE FUNCTION note();"
        f"GRANT INSERT ON seen TO {role}; ALTER TABLE seen ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY all_in ON seen FOR INSERT TO {role} WITH CHECK (true)"
    )
    db.execute("UPDATE docs SET text = 'new' WHERE id = 1")
    work(theirs, attempts=1)
    assert failures(theirs) == []
    assert one(db, "SELECT array_agg(id) FROM seen") == [1]
