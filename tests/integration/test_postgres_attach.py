"""Attaching and detaching columns, on a real PostgreSQL."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

import taskvec.integrations.postgres
from taskvec.core import Encoder
from taskvec.core.errors import (
    DimensionError,
    InputError,
    SchemaError,
    StoreError,
    TaskvecError,
)
from taskvec.integrations.postgres import attach, detach
from tests.attached import DEADLINE_S, assert_right, one, queued, until, work
from tests.embedders import StubEmbedder, vector_of


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit, with a table docs of three rows."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text, other int DEFAULT 0)")
        conn.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two'), (3, NULL)")
        yield conn


def put(place: Any, table: str = "docs", **options: Any) -> Any:
    return attach(place, table, **{"source": "text", "embedder": StubEmbedder(), **options})


def test_public_names() -> None:
    classes = ["Altered", "Attached", "Failure", "Found", "Progress", "Status", "Worker"]
    functions = "abandon alter attach detach failures grant index_first_pass retry search status"
    assert taskvec.integrations.postgres.__all__ == [*classes, *functions.split(), "swap"]


def test_old_rows_get_the_vectors_of_their_texts(
    dsn: str, db: psycopg.Connection[Any], encoder: Encoder
) -> None:
    put(dsn, embedder=encoder, dim=16)
    work(dsn, encoder)
    rows = db.execute("SELECT text, embedding::text FROM docs WHERE id < 3 ORDER BY id").fetchall()
    expected = encoder.encode(["one", "two"], task="retrieval.passage", dim=16)
    stored = np.array([[float(x) for x in row[1][1:-1].split(",")] for row in rows])
    np.testing.assert_allclose(stored, expected, atol=1e-5)
    assert one(db, "SELECT embedding FROM docs WHERE id = 3") is None


def test_the_same_attach_again_changes_nothing(dsn: str, db: psycopg.Connection[Any]) -> None:
    first = put(dsn, where="other < 5", chunks="docs_chunks")
    before = db.execute("SELECT c::text FROM taskvec.columns c").fetchall()
    second = put(dsn, where="(other) < 5", chunks="docs_chunks")
    assert (first.created, second.created) == (True, False)
    assert (first.id, first.name) == (second.id, second.name) == (1, '"public"."docs"."embedding"')
    assert db.execute("SELECT c::text FROM taskvec.columns c").fetchall() == before
    assert one(db, "SELECT count(*) FROM pg_indexes WHERE tablename = 'docs'") == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"source": ["text", "other"]}, "sources"),
        ({"task": None}, "task"),
        ({"where": "other > 1"}, "condition"),
        ({"chunks": "docs_chunks"}, "chunks"),
        ({"index": "none"}, "index"),
        ({"dim": 16}, "dim 8 (asked: 16)"),
        ({"type": "halfvec"}, "type"),
        ({"model": "other"}, "model"),
    ],
)
def test_another_attach_of_a_column_is_refused_with_what_differs(
    dsn: str, db: psycopg.Connection[Any], options: dict[str, Any], named: str
) -> None:
    put(dsn)
    with pytest.raises(SchemaError, match=r"alter it|detach it, and attach it anew") as caught:
        put(dsn, **options)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"table": "nowhere"}, SchemaError, "no table 'nowhere'"),
        ({"table": 'a"; DROP TABLE docs'}, SchemaError, "no table"),
        ({"table": "keyless"}, SchemaError, "ADD PRIMARY KEY"),
        ({"table": "seen"}, SchemaError, "is no table"),
        ({"source": "body"}, SchemaError, "no columns ['body'] for sources"),
        ({"source": []}, InputError, "name at least one column"),
        ({"source": ["text", "text"]}, InputError, "each once"),
        ({"column": "text"}, InputError, "source of its own"),
        ({"column": "id"}, SchemaError, "is a key"),
        ({"column": "other"}, SchemaError, "is integer, not vector(8)"),
        ({"column": "small"}, SchemaError, "vector(3), not vector(8)"),
        ({"column": None}, InputError, "neither a column nor a chunk table"),
        ({"type": "bit"}, InputError, "unknown type 'bit'"),
        ({"index": "ivfflat"}, InputError, "unknown index 'ivfflat'"),
        ({"existing": "maybe"}, InputError, "unknown existing"),
        ({"dim": 2048}, InputError, "at most 2000 dims"),
        ({"chunks": "docs"}, SchemaError, "exists already"),
        ({"chunks": "a.b.c"}, SchemaError, "no table's name"),
        ({"chunks": "x", "chunk_characters": 0}, InputError, "chunk_characters 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(
    dsn: str, db: psycopg.Connection[Any], options: dict[str, Any], error: type, named: str
) -> None:
    db.execute("CREATE TABLE keyless (text text); CREATE VIEW seen AS SELECT * FROM docs")
    db.execute("ALTER TABLE docs ADD COLUMN small vector(3)")
    with pytest.raises(error) as caught:
        put(dsn, **options)
    assert named in str(caught.value)
    assert one(db, "SELECT to_regnamespace('taskvec')") is None
    assert one(db, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'taskvec%'") == 0
    assert one(db, "SELECT count(*) FROM docs") == 3


@pytest.mark.parametrize(
    "where",
    [
        "nonsense > 1",
        "other",
        "other >",
        "true); DROP TABLE docs; --",
        "(SELECT count(*) FROM docs) > 1",
        "random() > 0.5",
        "{}",
    ],
)
def test_a_condition_that_no_trigger_could_follow_is_refused(
    dsn: str, db: psycopg.Connection[Any], where: str
) -> None:
    with pytest.raises(SchemaError, match=r"the condition .* does not serve"):
        put(dsn, where=where)
    assert one(db, "SELECT count(*) FROM docs") == 3


def test_only_rows_that_fulfil_the_condition_have_a_vector(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    put(dsn, where="other % 2 = 0 -- even")
    work(dsn)
    assert_right(db)
    db.execute("UPDATE docs SET other = 1 WHERE id = 1")
    work(dsn)
    assert one(db, "SELECT embedding FROM docs WHERE id = 1") is None
    db.execute("UPDATE docs SET other = 2 WHERE id = 1")
    db.execute("INSERT INTO docs VALUES (4, 'four', 3), (5, 'five', 4)")
    work(dsn)
    found = db.execute("SELECT id FROM docs WHERE embedding IS NOT NULL ORDER BY id").fetchall()
    assert found == [(1,), (2,), (5,)]


def test_a_missing_extension_is_named(server: str) -> None:
    name = f"bare_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            bare = server.replace("/postgres?", f"/{name}?")
            with psycopg.connect(bare) as conn:
                conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
            with pytest.raises(SchemaError, match="CREATE EXTENSION vector"):
                put(bare)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_an_extension_of_another_schema_serves(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("DROP EXTENSION vector; CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
    put(dsn, chunks="docs_chunks")
    work(dsn)
    assert_right(db)


@pytest.fixture
def stranger(db: psycopg.Connection[Any]) -> Iterator[str]:
    """A role that owns nothing."""
    name = f"stranger_{uuid.uuid4().hex}"
    db.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    db.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_missing_privileges_are_named(dsn: str, db: psycopg.Connection[Any], stranger: str) -> None:
    theirs = dsn.replace("postgres@", f"{stranger}@")
    with pytest.raises(SchemaError, match="GRANT TRIGGER"):
        put(theirs)
    db.execute(f"GRANT SELECT, UPDATE, TRIGGER ON docs TO {stranger}")
    with pytest.raises(SchemaError, match="GRANT CREATE ON DATABASE"):
        put(theirs)
    db.execute(f"GRANT CREATE ON DATABASE {db.info.dbname} TO {stranger}")
    with pytest.raises(SchemaError, match="add column 'embedding' vector\\(8\\): only the owner"):
        put(theirs)


def test_whoever_has_the_rights_attaches_without_owning_the_table(
    dsn: str, db: psycopg.Connection[Any], stranger: str
) -> None:
    db.execute("ALTER TABLE docs ADD COLUMN embedding vector(8)")
    db.execute(f"GRANT SELECT, TRIGGER, UPDATE (embedding) ON docs TO {stranger}")
    db.execute(f"GRANT CREATE ON DATABASE {db.info.dbname} TO {stranger}")
    theirs = dsn.replace("postgres@", f"{stranger}@")
    put(theirs, index="none")
    work(theirs)
    assert_right(db)


def test_a_writer_needs_rights_on_the_table_alone(
    dsn: str, db: psycopg.Connection[Any], stranger: str
) -> None:
    put(dsn, chunks="docs_chunks")
    db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON docs TO {stranger}")
    with psycopg.connect(dsn.replace("postgres@", f"{stranger}@"), autocommit=True) as writer:
        writer.execute("CREATE TEMP TABLE queue_1 (key_1 int); SET search_path = pg_temp, public")
        writer.execute("INSERT INTO docs VALUES (7, 'seven')")
        writer.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
        writer.execute("UPDATE docs SET id = 9 WHERE id = 2")
        writer.execute("DELETE FROM docs WHERE id = 3")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            writer.execute("SELECT * FROM taskvec.queue_1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            writer.execute("SELECT * FROM taskvec.columns")
        work(dsn)
        assert_right(db)
        writer.execute("TRUNCATE docs")
    assert one(db, "SELECT count(*) FROM docs_chunks") == 0


def test_detach_keeps_or_drops_the_column(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn, chunks="docs_chunks")
    work(dsn)
    assert detach(dsn, "docs")
    assert not detach(dsn, "docs")
    assert one(db, "SELECT count(embedding) FROM docs") == 2
    assert one(db, "SELECT count(*) FROM docs_chunks") == 2
    left = (
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'taskvec'::regnamespace"
        " AND proname <> 'queue_figures'"
    )
    assert one(db, left) == one(db, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
    assert one(db, "SELECT to_regclass('taskvec.queue_1')") is None
    db.execute("DROP TABLE docs_chunks")
    put(dsn, chunks="docs_chunks")
    assert detach(dsn, "docs", drop=True)
    assert one(db, "SELECT to_regclass('docs_chunks')") is None
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname = $1"
    assert one(db, columns, "embedding") == 0


def test_attach_in_a_transaction_of_the_callers_is_undone_with_it(
    conn: psycopg.Connection[Any],
) -> None:
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
    conn.commit()
    conn.execute("SET search_path = public, pg_catalog")
    put(conn)
    assert one(conn, "SHOW search_path") == "public, pg_catalog"
    conn.rollback()
    assert one(conn, "SELECT to_regnamespace('taskvec')") is None


@contextmanager
def running(act: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Future[Any]]:
    """A call in a thread of its own, which has returned by the end of the block."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act, *arguments, **options)
        yield future
        future.result(DEADLINE_S)


WAITING = "SELECT count(*) FROM pg_locks WHERE relation = 'docs'::regclass AND NOT granted"


@pytest.mark.parametrize("act", [put, detach])
def test_nobody_waits_behind_a_call_that_waits_for_the_table(
    dsn: str, db: psycopg.Connection[Any], act: Callable[..., Any]
) -> None:
    if act is detach:
        put(dsn)
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT * FROM docs")
        with running(act, dsn, "docs", wait_s=60.0) as future:
            until(lambda: one(db, WAITING) == 1, "the wait")
            slowest = 0.0
            for i in range(100):
                began = time.monotonic()
                db.execute("UPDATE docs SET other = %s WHERE id = 1", [i])
                slowest = max(slowest, time.monotonic() - began)
            # The server looks for deadlocks after a second: whoever is in its queue waits longer.
            assert slowest < 1.0
            assert not future.done()
            reader.rollback()


def test_a_lock_that_is_never_given_up_ends_in_an_error(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT * FROM docs")
        with pytest.raises(StoreError, match=r"attaching 'docs' needs a lock .* 0\.2 s"):
            put(dsn, wait_s=0.2)
        assert one(db, "SELECT to_regnamespace('taskvec')") is None
        reader.rollback()
        put(dsn)
        reader.execute("SELECT * FROM docs")
        with pytest.raises(StoreError, match="detaching 'docs' needs a lock"):
            detach(dsn, "docs", wait_s=0.2)
    assert not put(dsn).created


VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('taskvec_1_column_full')"


def test_a_table_with_rows_is_indexed_while_it_is_written(
    dsn: str, conn: psycopg.Connection[Any], db: psycopg.Connection[Any]
) -> None:
    # What is built CONCURRENTLY waits for all snapshots.
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute("SELECT 1")
    with running(put, dsn, "docs") as future:
        until(lambda: one(db, VALID) is False, "the building")
        db.execute("UPDATE docs SET text = 'eins' WHERE id = 1")
        work(dsn)
        assert_right(db)
        assert not future.done()
        conn.rollback()
    assert one(db, VALID) is True


def test_an_index_that_is_missing_is_made_by_the_same_attach_again(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    put(dsn)
    db.execute("DROP INDEX taskvec_1_column_full")
    assert not put(dsn).created
    assert one(db, VALID) is True


def test_an_index_of_the_users_own_serves(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("ALTER TABLE docs ADD COLUMN embedding vector(8)")
    db.execute("CREATE INDEX mine ON docs USING hnsw (embedding vector_cosine_ops)")
    put(dsn)
    assert one(db, VALID) is None


def test_an_empty_table_is_indexed_in_the_same_transaction(
    dsn: str, conn: psycopg.Connection[Any], db: psycopg.Connection[Any]
) -> None:
    db.execute("TRUNCATE docs")
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute("SELECT 1")
    put(dsn, chunks="docs_chunks")
    assert one(db, VALID) is True
    assert one(db, VALID.replace("column", "chunks")) is True


def test_two_columns_of_a_table_go_side_by_side(dsn: str, db: psycopg.Connection[Any]) -> None:
    first, second = put(dsn), put(dsn, column="small", source=["text", "other"], type="halfvec")
    assert (first.id, second.id) == (1, 2)
    work(dsn)
    assert_right(db)
    assert_right(db, text="concat_ws(E'\\n\\n', text, other)", column="small")
    assert detach(dsn, "docs")
    db.execute("UPDATE docs SET text = 'eins' WHERE id = 1")
    work(dsn)
    assert_right(db, text="concat_ws(E'\\n\\n', text, other)", column="small")


@pytest.mark.parametrize("existing", ["replace", "keep"])
def test_vectors_of_old_are_made_anew_or_trusted(
    dsn: str, db: psycopg.Connection[Any], existing: str
) -> None:
    db.execute("ALTER TABLE docs ADD COLUMN embedding vector(8)")
    old = [1.0] + 7 * [0.0]
    db.execute("UPDATE docs SET embedding = %s::float4[]::vector(8) WHERE id <> 2", [old])
    stub = StubEmbedder()
    put(dsn, existing=existing, embedder=stub)
    work(dsn, stub)
    if existing == "replace":
        assert_right(db)
        assert one(db, "SELECT embedding FROM docs WHERE id = 3") is None
    else:
        assert stub.encoded == ["two"]


KEYS = {
    "composite": ("tenant int, number bigint, PRIMARY KEY (number, tenant)", "1, 2", "1, 3"),
    "uuid": ("id uuid PRIMARY KEY", "gen_random_uuid()", "gen_random_uuid()"),
    "text": ("id text PRIMARY KEY", "'a%s $1 {}'", "E'b\\'\"\\\\'"),
    "version": ("version int, lease text, PRIMARY KEY (version, lease)", "1, 'x'", "1, 'y'"),
    "variables": ("known int, named text, PRIMARY KEY (known, named)", "1, 'x'", "1, 'y'"),
    "timestamp": ("at timestamptz PRIMARY KEY", "'infinity'", "'0044-03-15 BC'"),
    "numeric": ("n numeric(20, 5) PRIMARY KEY", "1.5", "'NaN'"),
    "enum": ("mood mood PRIMARY KEY", "'glad'", "'so so'"),
    "domain": ("id short PRIMARY KEY", "'a'", "'b'"),
    "array": ("id int[] PRIMARY KEY", "'{1,2}'", "'{}'"),
    "char": ("id char(5) PRIMARY KEY", "'a'", "'b'"),
    "bytes": ("id bytea PRIMARY KEY", "'\\x00ff'", "''"),
    "own operators": ("id caseless PRIMARY KEY", "ROW('A')", "ROW('b')"),
}

# A type whose operators stand outside pg_catalog, as citext's do.
CASELESS = """
CREATE TYPE caseless AS (t text);
CREATE FUNCTION cmp(a caseless, b caseless) RETURNS int IMMUTABLE LANGUAGE sql
    RETURN CASE WHEN lower(a.t) < lower(b.t) THEN -1 WHEN lower(a.t) = lower(b.t) THEN 0 ELSE 1 END;
"""
OPERATOR = """
CREATE FUNCTION cmp_{name}(a caseless, b caseless) RETURNS boolean IMMUTABLE LANGUAGE sql
    RETURN cmp(a, b) {sign} 0;
CREATE OPERATOR {sign} (LEFTARG = caseless, RIGHTARG = caseless, FUNCTION = cmp_{name});
"""
CLASS = """
CREATE OPERATOR CLASS caseless_ops DEFAULT FOR TYPE caseless USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 cmp;
"""


def create_types(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TYPE mood AS ENUM ('glad', 'so so'); CREATE DOMAIN short AS varchar(9)")
    signs = {"lt": "<", "le": "<=", "eq": "=", "ge": ">=", "gt": ">"}
    operators = [OPERATOR.format(name=name, sign=sign) for name, sign in signs.items()]
    conn.execute("".join([CASELESS, *operators, CLASS]))


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type(dsn: str, db: psycopg.Connection[Any], kind: str) -> None:
    columns, first, second = KEYS[kind]
    create_types(db)
    db.execute(f"CREATE TABLE keyed ({columns}, text text)")
    db.execute(f"INSERT INTO keyed VALUES ({first}, 'first')")
    put(dsn, "keyed", chunks="keyed_chunks")
    work(dsn)
    db.execute(f"INSERT INTO keyed VALUES ({second}, 'second')")
    db.execute("UPDATE keyed SET text = 'changed' WHERE text = 'first'")
    assert queued(db) == 2
    work(dsn)
    assert_right(db, "keyed")
    assert queued(db) == 0
    assert one(db, "SELECT count(*) FROM keyed_chunks") == 2
    db.execute("DELETE FROM keyed WHERE text = 'changed'")
    assert one(db, "SELECT array_agg(text) FROM keyed_chunks") == ["second"]


def test_backfill_goes_on_after_each_slice_with_keys_of_any_type(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.backfill.SLICE", 2)
    create_types(db)
    db.execute("CREATE TABLE keyed (a int, b caseless, c uuid, text text, PRIMARY KEY (b, a, c))")
    db.execute(
        "INSERT INTO keyed SELECT i % 3,"
        " ROW(CASE i % 2 WHEN 0 THEN 'X'::text ELSE 'y' END)::caseless,"
        " gen_random_uuid(), 'text ' || i FROM generate_series(1, 31) i"
    )
    stub = StubEmbedder()
    put(dsn, "keyed", embedder=stub)
    work(dsn, stub)
    assert_right(db, "keyed")
    assert sorted(stub.encoded) == sorted(f"text {i}" for i in range(1, 32))


HOSTILE = ['My "Docs"', "x; DROP TABLE docs; --", "naïve 表 %s {0} $1", "it's", "a\\b", "%", "{"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_break_nothing(dsn: str, db: psycopg.Connection[Any], name: str) -> None:
    quoted = {
        part: sql.Identifier(f"{part} {name}") for part in ("schema", "table", "key", "text", "emb")
    }
    table = sql.Identifier(f"schema {name}", f"table {name}")
    chunks = sql.Identifier(f"schema {name}", f"chunks {name}").as_string(None)
    statement = (
        "CREATE SCHEMA {schema};"
        "CREATE TABLE {t} ({key} text, id int, {text} text, PRIMARY KEY ({key}, id))"
    )
    db.execute(sql.SQL(statement).format(t=table, **quoted))
    insert = psycopg.RawCursor(db)
    insert.execute(
        sql.SQL("INSERT INTO {t} VALUES ($1, 1, $2)").format(t=table), [name, f"text {name}"]
    )
    options = {"source": f"text {name}", "column": f"emb {name}", "chunks": chunks}
    where = sql.SQL("{} <> '%s {{}}'").format(quoted["text"]).as_string(None)
    put(dsn, table.as_string(None), where=where, **options)
    assert not put(dsn, table.as_string(None), where=where, **options).created
    work(dsn)
    update = sql.SQL("UPDATE {t} SET {key} = {key} || 'x', {text} = $1 || {text}")
    insert.execute(update.format(t=table, **quoted), [name])
    work(dsn)
    query = sql.SQL("SELECT {text}, {emb}::text FROM {t}").format(t=table, **quoted)
    text, stored = insert.execute(query).fetchall()[0]
    assert text == f"{name}text {name}"
    values = [float(x) for x in stored[1:-1].split(",")]
    np.testing.assert_allclose(values, vector_of(text), atol=1e-5)
    assert one(db, f"SELECT array_agg(text) FROM {chunks}") == [text]
    insert.execute(sql.SQL("DELETE FROM {t}").format(t=table))
    assert insert.execute(f"SELECT count(*) FROM {chunks}").fetchone() == (0,)
    assert detach(dsn, table.as_string(None), column=f"emb {name}", drop=True)
    assert one(db, "SELECT count(*) FROM docs") == 3


VALUES = ["it's; DROP TABLE docs; --", 'q"q', "表 😀", "\\x00 \\N \t", "%s {0} $1", "  \n "]


def test_hostile_values_and_sources_of_any_type(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute(
        "CREATE TABLE data (id int PRIMARY KEY, a json, b text[], c xml, d point, text text)"
    )
    for i, value in enumerate(VALUES):
        db.execute(
            "INSERT INTO data VALUES (%s, json_build_object('k', %s::text), ARRAY[%s], NULL,"
            " '(1,2)', %s)",
            [i, value, value, value],
        )
    db.execute('INSERT INTO data (id, a) VALUES (99, \'{"nul": "\\u0000"}\')')
    put(dsn, "data", source=["a", "b", "c", "d", "text"])
    work(dsn)
    joined = "concat_ws(E'\\n\\n', a::text, b::text, c::text, d::text, text)"
    assert_right(db, "data", text=joined)
    db.execute("UPDATE data SET a = '{}' WHERE id = 1")
    assert queued(db) == 1


def test_generated_sources(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute(
        "CREATE TABLE made (id int PRIMARY KEY, a text,"
        " text text GENERATED ALWAYS AS (upper(a)) STORED)"
    )
    put(dsn, "made")
    db.execute("INSERT INTO made (id, a) VALUES (1, 'x')")
    work(dsn)
    db.execute("UPDATE made SET a = 'X'")
    assert queued(db) == 0
    db.execute("UPDATE made SET a = 'y'")
    work(dsn)
    assert_right(db, "made")


def test_virtual_generated_sources(dsn: str, db: psycopg.Connection[Any]) -> None:
    if db.info.server_version < 180_000:
        pytest.skip("virtual columns came with PostgreSQL 18")
    db.execute(
        "CREATE TABLE made (id int PRIMARY KEY, a text,"
        " text text GENERATED ALWAYS AS (a || '!') VIRTUAL)"
    )
    put(dsn, "made", where="text <> 'no!'")
    db.execute("INSERT INTO made (id, a) VALUES (1, 'x')")
    work(dsn)
    db.execute("UPDATE made SET a = 'y'")
    work(dsn)
    assert_right(db, "made")


def test_a_renamed_table_goes_on(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn, chunks="docs_chunks")
    db.execute("CREATE SCHEMA app; ALTER TABLE docs RENAME TO papers")
    db.execute("ALTER TABLE papers SET SCHEMA app; ALTER TABLE docs_chunks RENAME TO pieces")
    db.execute("UPDATE app.papers SET id = 10, text = 'ten' WHERE id = 1")
    db.execute("DELETE FROM app.papers WHERE id = 2")
    work(dsn)
    assert_right(db, "app.papers")
    assert not put(dsn, "app.papers", chunks="pieces").created


def test_errors_are_of_the_families_they_belong_to(dsn: str, encoder: Encoder) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
    with pytest.raises(DimensionError):
        put(dsn, embedder=encoder, dim=9)
    with pytest.raises(TaskvecError):
        put(dsn, embedder=encoder, task="nonsense")
    with pytest.raises(StoreError):
        put("postgresql://nobody@/nowhere?host=/nowhere")


def test_partitions_and_inheriting_tables_are_refused(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("CREATE TABLE whole (id int PRIMARY KEY, text text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (9)")
    db.execute("CREATE TABLE child () INHERITS (docs)")
    with pytest.raises(SchemaError, match="attach the partitioned table"):
        put(dsn, "part")
    with pytest.raises(SchemaError, match="has tables that inherit"):
        put(dsn, "docs")
    with pytest.raises(SchemaError, match="inherits from another table"):
        put(dsn, "child")
