"""What writes do to the queue of an attached column, on a real PostgreSQL."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import psycopg
import pytest

from taskvec.integrations.postgres import attach
from taskvec.integrations.postgres.partitions import within
from taskvec.integrations.postgres.registry import load, rows
from taskvec.integrations.postgres.sweeping import look
from tests.attached import assert_right, one, queued, until, work, working
from tests.embedders import StubEmbedder


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A table docs of 100 embedded rows with chunks, and an empty queue."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text, other int DEFAULT 0)")
        conn.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 100) i")
        attach(dsn, "docs", source="text", embedder=StubEmbedder(), chunks="docs_chunks")
        work(dsn)
        assert queued(conn) == 0
        yield conn


def keys(conn: psycopg.Connection[Any]) -> list[int]:
    return [key for (key,) in conn.execute("SELECT key_1 FROM taskvec.queue_1 ORDER BY 1")]


def chunks_of(conn: psycopg.Connection[Any], table: str = "docs") -> list[int]:
    return [key for (key,) in conn.execute(f"SELECT id FROM {table}_chunks ORDER BY 1")]


def test_only_a_changed_source_queues_its_row(db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET other = 1")
    db.execute("UPDATE docs SET text = text")
    db.execute("UPDATE docs SET embedding = NULL WHERE id = 5")
    assert queued(db) == 0
    db.execute("UPDATE docs SET text = upper(text), other = 3 WHERE id IN (7, 9)")
    assert keys(db) == [7, 9]
    db.execute("UPDATE docs SET text = NULL WHERE id = 11")
    assert keys(db) == [7, 9, 11]


def test_a_change_in_bytes_is_a_change(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE odd (id int PRIMARY KEY, text json, n numeric)")
    db.execute("INSERT INTO odd VALUES (1, '{}', 1.0)")
    attach(dsn, "odd", source=["text", "n"], embedder=StubEmbedder())
    work(dsn)
    db.execute("UPDATE odd SET n = 1.00")
    assert queued(db, 2) == 1
    work(dsn)
    assert_right(db, "odd", text="concat_ws(E'\\n\\n', text::text, n::text)")


def test_a_row_updated_a_hundred_times_is_embedded_once(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    for i in range(100):
        db.execute("UPDATE docs SET text = %s WHERE id = 1", [f"version {i}"])
    assert keys(db) == [1]
    stub = StubEmbedder()
    work(dsn, stub)
    assert stub.calls[0] == ["version 99"]
    assert_right(db)


def test_the_wait_counts_from_the_first_change(db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET text = 'a' WHERE id = 1")
    before = one(db, "SELECT enqueued_at FROM taskvec.queue_1")
    db.execute("UPDATE docs SET text = 'b' WHERE id = 1")
    assert one(db, "SELECT enqueued_at FROM taskvec.queue_1") == before
    assert one(db, "SELECT not_before FROM taskvec.queue_1") > before


def test_bulk_statements(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET text = text || '!'")
    db.execute("INSERT INTO docs SELECT i, 'new ' || i FROM generate_series(101, 5000) i")
    db.execute(
        "INSERT INTO docs VALUES (1, 'uno') ON CONFLICT (id) DO UPDATE SET text = EXCLUDED.text"
    )
    db.execute(
        "MERGE INTO docs d USING (VALUES (2, 'dos'), (6000, 'new')) v (id, text) ON d.id = v.id"
        " WHEN MATCHED THEN UPDATE SET text = v.text"
        " WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.text)"
    )
    with db.cursor().copy("COPY docs (id, text) FROM STDIN") as copy:
        copy.write_row((7000, "copied"))
    assert queued(db) == 5002
    work(dsn, batch=1000)
    assert_right(db)


def test_delete_and_truncate_clear_queue_and_chunks(db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET text = text || '!' WHERE id < 10")
    db.execute("DELETE FROM docs WHERE id < 5")
    assert keys(db) == [5, 6, 7, 8, 9]
    assert chunks_of(db) == list(range(5, 101))
    db.execute("TRUNCATE docs")
    assert keys(db) == chunks_of(db) == []


def test_a_rolled_back_write_queues_nothing(db: psycopg.Connection[Any]) -> None:
    with db.transaction():
        db.execute("UPDATE docs SET text = 'x'")
        db.execute("DELETE FROM docs WHERE id = 1")
        raise psycopg.Rollback
    assert queued(db) == 0
    assert len(chunks_of(db)) == 100


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("statement", ["DELETE FROM docs WHERE id = 1", "TRUNCATE docs"])
def test_chunks_that_an_old_snapshot_does_not_see_go_as_well(
    dsn: str, db: psycopg.Connection[Any], isolation: str, statement: str
) -> None:
    attach(dsn, "docs", source="text", column=None, chunks="more", embedder=StubEmbedder())
    with psycopg.connect(dsn) as deleter:
        deleter.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        deleter.execute("SELECT 1 FROM docs LIMIT 1")
        work(dsn, columns=[2])
        assert one(db, "SELECT count(*) FROM more") == 100
        deleter.execute(statement)
        deleter.commit()
    work(dsn)
    left = one(db, "SELECT count(*) FROM docs")
    assert one(db, "SELECT count(*) FROM more") == len(chunks_of(db)) == left
    assert queued(db, 2) == 0


def test_a_changed_key_takes_its_place_in_the_queue_along(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("UPDATE docs SET text = 'x' WHERE id = 1")
    db.execute("UPDATE docs SET id = 1001 WHERE id = 1")
    assert keys(db) == [1001]
    assert 1 not in chunks_of(db)
    work(dsn)
    assert_right(db)
    assert chunks_of(db) == [*range(2, 101), 1001]


def test_keys_that_move_into_each_others_place(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("ALTER TABLE docs DROP CONSTRAINT docs_pkey")
    db.execute("ALTER TABLE docs ADD PRIMARY KEY (id) DEFERRABLE INITIALLY IMMEDIATE")
    db.execute("UPDATE docs SET id = id + 1")
    assert keys(db) == list(range(2, 102))
    work(dsn)
    assert_right(db)
    rows = db.execute("SELECT d.id FROM docs d JOIN docs_chunks c USING (id) WHERE d.text = c.text")
    assert len(rows.fetchall()) == len(chunks_of(db)) == 100


# What the functions of triggers, the queue and the statements of a worker call things themselves.
CALLED = {
    "found": "boolean", "tg_op": "text", "tg_relid": "oid", "new": "int", "old": "int",
    "new_1": "int", "old_1": "int", "new_rows": "int", "named": "int", "texts": "int",
    "known": "boolean", "taken": "int", "isolated": "int", "chunked": "int", "present": "int",
    "places": "int", "attached": "int", "key_1": "int", "version": "int", "stale": "int",
    "q": "int", "r": "int", "d": "int",
}  # fmt: skip


LAYOUTS = {
    "plain": 'CREATE TABLE docs ("{0}" {1} PRIMARY KEY, text text)',
    "partitioned": 'CREATE TABLE docs ("{0}" {1} PRIMARY KEY, text text) PARTITION BY HASH ("{0}");'
    "CREATE TABLE part PARTITION OF docs FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("called", CALLED)
def test_a_key_may_be_called_like_what_is_ours(dsn: str, called: str, layout: str) -> None:
    kind = CALLED[called]
    first, second = {"boolean": (False, True), "text": ("a", "b")}.get(kind, (1, 2))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(LAYOUTS[layout].format(called, kind))
        conn.execute("INSERT INTO docs VALUES (%s, 'old')", [first])
        attach(dsn, "docs", source="text", chunks="docs_chunks", embedder=StubEmbedder())
        for key, isolation in product((called, "other"), ("read committed", "repeatable read")):
            if key == "other":  # which no worker has seen by then
                conn.execute(f'ALTER TABLE docs RENAME "{called}" TO other')
            conn.execute(f"SET default_transaction_isolation = '{isolation}'")
            conn.execute(f'UPDATE docs SET "{key}" = %s, text = %s', [second, isolation])
            assert set(keys(conn)) >= {second}
            work(dsn)
            assert_right(conn)
            conn.execute("DELETE FROM docs")
            conn.execute(f'INSERT INTO docs ("{key}", text) VALUES (%s, %s)', [first, key])
            assert set(keys(conn)) >= {first}
            work(dsn)
            assert_right(conn)
            assert one(conn, "SELECT array_agg(text) FROM docs_chunks") == [key]
            if key == "other":
                conn.execute(f'ALTER TABLE docs RENAME other TO "{called}"')
                work(dsn)
        conn.execute("TRUNCATE docs")
        assert keys(conn) == []
        assert one(conn, "SELECT count(*) FROM docs_chunks") == 0


@pytest.mark.parametrize("called", ["stale", "key_2, key_1"])
def test_rows_of_old_are_taken_in_their_keys_order_whatever_it_is_called(
    dsn: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.backfill.SLICE", 2)
    columns = called.split(", ")
    with psycopg.connect(dsn, autocommit=True) as conn:
        fields = ", ".join(f"{column} int" for column in columns)
        conn.execute(f"CREATE TABLE docs ({fields}, text text, PRIMARY KEY ({called}))")
        values = ", ".join(["i", "10 - i"][: len(columns)])
        conn.execute(
            f"INSERT INTO docs SELECT {values}, 'old ' || i FROM generate_series(9, 1, -1) i"
        )
        attach(dsn, "docs", source="text", embedder=StubEmbedder())
        work(dsn)
        assert_right(conn)


BEFORE = """
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.text = 'other ' || NEW.other; RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE UPDATE OF other ON docs FOR EACH ROW EXECUTE FUNCTION shout()
"""


def test_a_before_trigger_that_changes_a_source_is_followed(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("CREATE TABLE more (LIKE docs INCLUDING ALL)")
    db.execute(BEFORE.replace("ON docs", "ON more"))
    db.execute("INSERT INTO more (id, text) VALUES (1, 'x')")
    attach(dsn, "more", source="text", embedder=StubEmbedder())
    work(dsn)
    db.execute("UPDATE more SET other = 5")
    assert queued(db, 2) == 1
    work(dsn)
    assert_right(db, "more")
    assert queued(db, 2) == 0


def test_a_before_trigger_that_came_later_is_noticed_by_a_worker(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute(BEFORE)
    work(dsn)
    db.execute("UPDATE docs SET other = 5 WHERE id = 1")
    assert keys(db) == [1]
    work(dsn)
    assert_right(db)
    db.execute("DROP TRIGGER shout ON docs")
    work(dsn)
    assert one(db, "SELECT cardinality(tgattr::int2[]) FROM pg_trigger WHERE tgname ~ 'updated'")


def test_triggers_that_were_dropped_come_back(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("DROP TRIGGER taskvec_1_deleted ON docs")
    work(dsn)
    db.execute("DELETE FROM docs WHERE id = 1")
    assert 1 not in chunks_of(db)


PARTED = """
CREATE TABLE parted (region text, id int, text text, other int, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE north PARTITION OF parted FOR VALUES IN ('n');
CREATE TABLE south PARTITION OF parted FOR VALUES IN ('s') PARTITION BY RANGE (id);
CREATE TABLE south_1 PARTITION OF south FOR VALUES FROM (0) TO (50);
CREATE TABLE south_2 PARTITION OF south FOR VALUES FROM (50) TO (100);
INSERT INTO parted SELECT r, i, r || i, 0 FROM generate_series(1, 9) i, (VALUES ('n'), ('s')) v (r)
"""


def test_partitions_written_directly_or_through_their_parent(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute(PARTED)
    attach(dsn, "parted", source="text", chunks="parted_chunks", embedder=StubEmbedder())
    work(dsn)
    assert_right(db, "parted")
    db.execute("UPDATE parted SET other = 1; UPDATE north SET other = 2")
    assert queued(db, 2) == 0
    db.execute("UPDATE north SET text = 'north' WHERE id = 1")
    db.execute("INSERT INTO south_1 VALUES ('s', 20, 'direct')")
    db.execute("UPDATE parted SET id = 60 WHERE region = 's' AND id = 2")
    db.execute("UPDATE parted SET region = 's', id = 11 WHERE region = 'n' AND id = 3")
    db.execute("DELETE FROM south_1 WHERE id = 4")
    db.execute("CREATE TABLE west PARTITION OF parted FOR VALUES IN ('w')")
    db.execute("INSERT INTO west VALUES ('w', 1, 'late')")
    work(dsn)
    assert_right(db, "parted")
    pairs = "SELECT count(*) FROM parted p JOIN parted_chunks c USING (id, region)"
    total = one(db, "SELECT count(*) FROM parted")
    assert one(db, pairs) == one(db, "SELECT count(*) FROM parted_chunks") == total == 19
    db.execute("UPDATE parted SET text = text || '!'")
    db.execute("TRUNCATE south_1")
    assert one(db, "SELECT count(*) FROM taskvec.queue_2 WHERE key_2 = 's'") == 1
    db.execute("TRUNCATE west")
    work(dsn)
    assert one(db, pairs) == one(db, "SELECT count(*) FROM parted_chunks") == 9
    db.execute("TRUNCATE parted")
    assert one(db, "SELECT count(*) FROM parted_chunks") == queued(db, 2) == 0


WEST = "CREATE TABLE west (LIKE parted INCLUDING ALL)"
WESTERN = "INSERT INTO west SELECT 'w', i, 'w' || i FROM generate_series(1, 5) i"
BROUGHT = {
    "a partition": [WEST, WESTERN, "ALTER TABLE parted ATTACH PARTITION west FOR VALUES IN ('w')"],
    "the default one": [WEST, WESTERN, "ALTER TABLE parted ATTACH PARTITION west DEFAULT"],
    "a part of a part": [
        "CREATE TABLE more_south (LIKE parted INCLUDING ALL)",
        "INSERT INTO more_south SELECT 's', i, 's' || i FROM generate_series(101, 105) i",
        "ALTER TABLE south ATTACH PARTITION more_south FOR VALUES FROM (100) TO (200)",
    ],
    "several": [
        WEST,
        WESTERN,
        "CREATE TABLE east (LIKE parted INCLUDING ALL)",
        "INSERT INTO east SELECT 'e', i, 'e' || i FROM generate_series(1, 5) i",
        "ALTER TABLE parted ATTACH PARTITION west FOR VALUES IN ('w')",
        "ALTER TABLE parted ATTACH PARTITION east FOR VALUES IN ('e')",
    ],
    "one that comes back": [
        "ALTER TABLE parted DETACH PARTITION south",
        "INSERT INTO south SELECT 's', i, 's' || i FROM generate_series(21, 25) i",
        "ALTER TABLE parted ATTACH PARTITION south FOR VALUES IN ('s')",
    ],
}


@pytest.mark.parametrize("owner", [True, False])
@pytest.mark.parametrize("brought", BROUGHT)
def test_rows_that_a_partition_brings_along_are_embedded(
    dsn: str,
    db: psycopg.Connection[Any],
    brought: str,
    owner: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.backfill.SLICE", 2)
    db.execute(PARTED)
    attach(dsn, "parted", source="text", chunks="parted_chunks", embedder=StubEmbedder())
    theirs = dsn if owner else dsn.replace("postgres@", f"{helper(db)}@")
    work(theirs)
    for statement in BROUGHT[brought]:
        db.execute(statement)
    assert queued(db, 2) == 0
    stub = StubEmbedder()
    work(theirs, stub)
    assert_right(db, "parted")
    new = 10 if brought == "several" else 5
    assert one(db, "SELECT count(*) FROM parted_chunks") == 18 + new
    assert one(db, ORPHANS) == queued(db, 2) == 0
    assert len(set(stub.encoded)) == new
    work(theirs, stub)
    assert len(set(stub.encoded)) == new


def test_a_partition_that_comes_under_a_worker_is_followed_at_once_and_its_rows_of_old_soon(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.shift.UPKEEP_S", 0.05)
    db.execute(PARTED)
    attach(dsn, "parted", source="text", embedder=StubEmbedder())
    with working(dsn), working(dsn):
        until(lambda: one(db, "SELECT bool_and(embedding IS NOT NULL) FROM parted"), "the rest")
        for statement in BROUGHT["a partition"]:
            db.execute(statement)
        db.execute("INSERT INTO parted VALUES ('w', 6, 'new')")
        until(lambda: one(db, "SELECT bool_and(embedding IS NOT NULL) FROM parted"), "the new")
    assert_right(db, "parted")


def test_the_other_partitions_are_not_read_for_a_new_one(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute(PARTED)
    attach(dsn, "parted", source="text", embedder=StubEmbedder())
    for statement in BROUGHT["a partition"]:
        db.execute(statement)
    with psycopg.connect(dsn, autocommit=True) as conn:
        [row] = rows(conn, 2)
        conn.execute("SET search_path = pg_catalog")
        column = load(conn, row)
        among = within(conn, column, one(db, "SELECT 'west'::regclass::oid")).as_string(conn)
        plan = conn.execute(f"EXPLAIN SELECT FROM public.parted d WHERE {among}").fetchall()
    assert "west" in str(plan)
    assert "north" not in str(plan)
    assert "south" not in str(plan)


UNSEEN = {
    "a new partition is truncated": ["TRUNCATE west"],
    "a partition is dropped": ["DROP TABLE north"],
    "a partition is detached": ["ALTER TABLE parted DETACH PARTITION south"],
    "a new one is truncated and dropped": ["TRUNCATE west", "DROP TABLE west"],
}


@pytest.mark.parametrize("owner", [True, False])
@pytest.mark.parametrize("unseen", UNSEEN)
def test_no_chunk_is_left_of_rows_that_went_unseen_with_their_partition(
    dsn: str, db: psycopg.Connection[Any], unseen: str, owner: bool
) -> None:
    db.execute(PARTED)
    attach(dsn, "parted", source="text", chunks="parted_chunks", embedder=StubEmbedder())
    theirs = dsn if owner else dsn.replace("postgres@", f"{helper(db)}@")
    work(theirs)
    with working(theirs):
        db.execute("UPDATE parted SET text = 'changed'")
        until(lambda: queued(db, 2) == 0, "the worker's first upkeep")
        db.execute("CREATE TABLE west PARTITION OF parted FOR VALUES IN ('w')")
        db.execute("INSERT INTO parted SELECT 'w', i, 'w' || i FROM generate_series(1, 9) i")
        until(lambda: chunks_of(db, "parted")[-1:] and queued(db, 2) == 0, "the embedding")
        for statement in UNSEEN[unseen]:
            db.execute(statement)
    assert one(db, ORPHANS) == 9
    work(theirs)
    assert one(db, ORPHANS) == queued(db, 2) == 0
    assert_right(db, "parted")
    left = one(db, "SELECT count(*) FROM parted")
    assert one(db, "SELECT count(*) FROM parted_chunks") == left
    assert one(db, "SELECT swept FROM taskvec.columns WHERE id = 2")


ORPHANS = """
SELECT count(*) FROM parted_chunks c
WHERE NOT EXISTS (SELECT FROM parted p WHERE p.id = c.id AND p.region = c.region)
"""


def helper(db: psycopg.Connection[Any]) -> str:
    """A role that may work and owns nothing."""
    name = f"helper_{uuid.uuid4().hex}"
    db.execute(f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA taskvec TO {name}")
    db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA taskvec TO {name}")
    db.execute(f"GRANT ALL ON parted_chunks, docs_chunks TO {name}")
    db.execute(f"GRANT SELECT, UPDATE (embedding) ON parted, docs TO {name}")
    return name


def test_a_sweep_goes_on_slice_by_slice(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.sweeping.SLICE", 2)
    test_no_chunk_is_left_of_rows_that_went_unseen_with_their_partition(
        dsn, db, "a partition is dropped", owner=True
    )


def test_a_partition_that_was_never_truncated_costs_no_sweep(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute(PARTED)
    attach(dsn, "parted", source="text", chunks="parted_chunks", embedder=StubEmbedder())
    work(dsn)
    db.execute("CREATE TABLE west PARTITION OF parted FOR VALUES IN ('w')")
    db.execute("INSERT INTO parted VALUES ('w', 1, 'new')")
    swept = "SELECT swept FROM taskvec.columns WHERE id = 2"
    with psycopg.connect(dsn, autocommit=True) as conn:
        [row] = rows(conn, 2)
        conn.execute("SET search_path = pg_catalog")
        look(conn, load(conn, row))
        assert one(conn, swept) is True
        work(dsn)
        assert one(conn, swept) is True
        db.execute("TRUNCATE west")
        look(conn, load(conn, row))
        assert one(conn, swept) is False


def test_concurrent_writers_of_the_same_rows_and_a_worker(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    def write(writer: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            for i in range(1, 21):
                said = f"writer {writer}, {i}"
                conn.execute("UPDATE docs SET text = %s WHERE id = %s", [said, i])
                conn.execute("DELETE FROM docs WHERE id = %s", [i + 20 * writer])

    with working(dsn, batch=8), ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, 1), pool.submit(write, 2)]:
            done.result()
        until(lambda: queued(db) == 0, "the queue's emptying")
    assert_right(db)
