"""Changing a column's model, task or dim while it is written and searched, on a real PostgreSQL."""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from taskvec.core import Encoder
from taskvec.core.errors import InputError, SchemaError, StoreError, SyncError
from taskvec.integrations.postgres import attach, detach, grant
from taskvec.integrations.postgres.altering import abandon, alter
from taskvec.integrations.postgres.indexes import index_first_pass
from taskvec.integrations.postgres.searching import search
from taskvec.integrations.postgres.swapping import swap
from tests.attached import assert_right, one, queued, until, work, working
from tests.embedders import StubEmbedder, vector_of

STUB = StubEmbedder()
WRITES = [
    "INSERT INTO docs VALUES (%(key)s, %(text)s) ON CONFLICT DO NOTHING",
    "UPDATE docs SET text = %(text)s WHERE id = %(key)s",
    "UPDATE docs SET other = other + 1 WHERE id = %(key)s",
    "DELETE FROM docs WHERE id = %(key)s",
]
TYPE = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1::regclass "


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit, with a table docs of which three rows are embedded."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text, other int DEFAULT 0)")
        conn.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two'), (3, 'three')")
        yield conn


def attached(dsn: str, **options: Any) -> None:
    attach(dsn, "docs", **{"source": "text", "embedder": STUB, **options})
    work(dsn)


def change(dsn: str, **options: Any) -> Any:
    return alter(dsn, "docs", **{"embedder": STUB, **options})


def registered(db: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT id, embedding, dim, task, type, state, successor_of FROM taskvec.columns"
        " ORDER BY id"
    ).fetchall()


def catalogue(db: psycopg.Connection[Any]) -> set[str]:
    """What stands in the database, by name."""
    rows = db.execute(
        "SELECT 'table ' || oid::regclass FROM pg_class WHERE relkind IN ('r', 'i', 'S')"
        " AND relnamespace IN ('public'::regnamespace, 'taskvec'::regnamespace)"
        " UNION SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal"
        " UNION SELECT 'function ' || proname FROM pg_proc"
        " WHERE pronamespace = 'taskvec'::regnamespace"
        " UNION SELECT 'column ' || attname FROM pg_attribute WHERE attrelid = 'docs'::regclass"
        " AND NOT attisdropped"
    )
    return {row[0] for row in rows}


@contextmanager
def writers(dsn: str, count: int = 2) -> Iterator[None]:
    """Writers that insert, update and delete until the block ends; what they raise is raised."""
    stopping = threading.Event()
    failed: list[BaseException] = []

    def write(seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311 - no secret
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                while not stopping.is_set():
                    values = {"key": draw.randrange(1, 300), "text": str(draw.random())}
                    conn.execute(draw.choice(WRITES), values)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)
    if failed:
        raise failed[0]


def test_a_successor_fills_beside_the_column_and_takes_its_place(
    dsn: str, db: psycopg.Connection[Any], encoder: Encoder
) -> None:
    attach(dsn, "docs", source="text", embedder=encoder, dim=16)
    work(dsn, encoder)
    made = alter(dsn, "docs", dim=8, task="text-matching", query_task=None, embedder=encoder)
    assert (made.created, made.name) == (True, '"public"."docs"."embedding"')
    before = search(dsn, "docs", "two", embedder=encoder)
    work(dsn, encoder)
    assert search(dsn, "docs", "two", embedder=encoder) == before
    assert swap(dsn, "docs") == made.id
    assert registered(db) == [(2, "embedding", 8, "text-matching", "vector", "live", None)]
    expected = encoder.encode("two", task="text-matching", dim=8)
    stored = one(db, "SELECT embedding::text FROM docs WHERE id = 2")
    assert [float(x) for x in stored[1:-1].split(",")] == pytest.approx(expected, abs=1e-5)
    found = search(dsn, "docs", "two", embedder=encoder, explain=True)
    assert found[0]["score"] != before[0]["score"]
    db.execute("UPDATE docs SET text = 'deux' WHERE id = 2")
    assert queued(db, 2) == 1
    work(dsn, encoder)
    assert queued(db, 2) == 0


def test_after_a_swap_all_is_called_as_before(dsn: str, db: psycopg.Connection[Any]) -> None:
    attached(dsn, chunks="docs_chunks")
    before = catalogue(db)
    change(dsn, dim=16, type="halfvec")
    work(dsn)
    swap(dsn, "docs")
    work(dsn)
    renamed = {name.replace("_2_", "_1_").replace("_2", "_1") for name in catalogue(db)}
    assert renamed == {name.replace("_2_", "_1_") for name in before}
    assert_right(db, dim=16)
    assert one(db, TYPE + "AND attname = 'embedding'", "docs_chunks") == "halfvec(16)"
    assert one(db, "SELECT count(*) FROM docs_chunks") == 3
    plan = search(dsn, "docs", "q", embedder=STUB, explain=True).plan
    assert "docs" in plan
    assert detach(dsn, "docs", drop=True)
    assert one(db, "SELECT to_regclass('docs_chunks')") is None


def test_chunks_alone_are_altered(dsn: str, db: psycopg.Connection[Any]) -> None:
    attached(dsn, column=None, chunks="docs_chunks")
    before = search(dsn, "docs", "q", embedder=STUB)
    change(dsn, chunks="docs_chunks", dim=16, chunk_characters=3)
    work(dsn)
    assert search(dsn, "docs", "q", embedder=STUB) == before
    swap(dsn, "docs")
    after = search(dsn, "docs", "q", embedder=STUB)
    assert max(len(row["text"]) for row in after) <= 3 < max(len(row["text"]) for row in before)
    db.execute("DELETE FROM docs WHERE id = 3")
    assert one(db, "SELECT count(*) FROM docs_chunks WHERE id = 3") == 0


def test_first_passes_are_built_for_the_successor(
    dsn: str, db: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    attached(dsn, dim=300)
    for first_pass in (64, 128, 256, "binary"):
        index_first_pass(dsn, "docs", first_pass)
    change(dsn, dim=200)
    work(dsn)
    swap(dsn, "docs")
    names = db.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'docs'").fetchall()
    assert {name for (name,) in names} == {"docs_pkey"} | {
        f"taskvec_2_column_{kind}" for kind in ("full", 64, 128, "binary")
    }
    assert "the index for a first pass of 256" in caplog.text
    found = search(dsn, "docs", "q", k=3, first_pass=64, embedder=STUB)
    assert len(found) == 3


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_writes_go_on_through_alter_and_swap_and_none_is_lost(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(4, 200) i")
    attached(dsn, chunks="docs_chunks")
    with writers(dsn), working(dsn, poll_s=0.2, batch=16), working(dsn, poll_s=0.2, batch=16):
        for dim in (16, 8, 16):
            change(dsn, dim=dim)
            swap(dsn, "docs", wait_s=60)
            assert len(search(dsn, "docs", "q", k=5, embedder=STUB)) == 5
    work(dsn)
    assert_right(db, dim=16)
    (row,) = registered(db)
    assert row[5:] == ("live", None)
    assert queued(db, row[0]) == 0
    assert one(db, f"SELECT count(*) FROM taskvec.queue_{row[0]} WHERE parked") == 0
    assert one(db, "SELECT failed FROM taskvec.columns") == 0
    texts = "SELECT count(*) FROM docs FULL JOIN docs_chunks c USING (id) WHERE docs.text IS "
    assert one(db, texts + "DISTINCT FROM c.text") == 0


TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'taskvec'
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_wherever_it_is_killed(dsn: str, db: psycopg.Connection[Any]) -> None:
    """All connections die at random moments, those of the workers as well."""
    attached(dsn, chunks="docs_chunks")
    draw, kills, ends = random.Random(7), 0, 0  # noqa: S311 - no secret

    def kill(after_s: float) -> None:
        time.sleep(after_s)
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(TERMINATE)

    with writers(dsn, 1), working(dsn, poll_s=0.1):
        while kills < 15 or not ends:
            (_, _, dim, *_), *_ = registered(db)
            killing = threading.Thread(target=kill, args=(draw.uniform(0, 1.0),))
            killing.start()
            try:
                change(dsn, dim=24 - dim)
                swap(dsn, "docs", wait_s=10)
                ends += 1
            except (StoreError, SyncError):
                kills += 1
            killing.join()
            assert [row[5] for row in registered(db)] in (["live"], ["live", "building"])
            search(db, "docs", "q", embedder=STUB)
    abandon(dsn, "docs")
    work(dsn)
    ((id_, _, dim, *_),) = registered(db)
    assert_right(db, dim=dim)
    assert queued(db, id_) == 0
    assert not {name for name in catalogue(db) if "next" in name}
    tables = "SELECT count(*) FROM pg_class WHERE relname ~ '^queue_' AND relkind = 'r'"
    assert one(db, tables) == 1


def test_a_hold_that_nobody_ends_runs_out(dsn: str, db: psycopg.Connection[Any]) -> None:
    attached(dsn)
    db.execute("UPDATE taskvec.columns SET held_until = now() + interval '2 seconds'")
    db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
    with working(dsn):
        until(lambda: queued(db) == 0, "the end of the hold")
    assert one(db, "SELECT last_done > held_until FROM taskvec.columns") is True
    assert_right(db)


@pytest.mark.parametrize("moment", ["claimed", "swapped"])
def test_a_batch_in_hand_of_the_former_model_is_not_written_into_the_new_column(
    dsn: str, db: psycopg.Connection[Any], moment: str
) -> None:
    """Same dim, another task: nothing but the registry tells the vectors apart."""
    attached(dsn)
    change(dsn, task="retrieval.query")
    work(dsn)
    encoding, go_on = threading.Event(), threading.Event()

    def hold(texts: list[str]) -> None:
        encoding.set()
        assert go_on.wait(60)

    with working(dsn, StubEmbedder(before=hold), columns=[1], poll_s=0.1):
        db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
        assert encoding.wait(60)
        if moment == "swapped":
            # The successor has made the row, the live column has it in hand.
            work(dsn, columns=[2])
            swap(dsn, "docs")
        go_on.set()
        if moment == "claimed":
            until(lambda: queued(db, 1) == 0)
            work(dsn, columns=[2])
            swap(dsn, "docs")
    stored = db.execute("SELECT text, embedding::text FROM docs ORDER BY id").fetchall()
    for text, value in stored:
        wanted = vector_of(text, "retrieval.query")
        assert [float(x) for x in value[1:-1].split(",")] == pytest.approx(wanted, abs=1e-5)


def test_a_worker_at_the_successor_goes_on_after_the_swap(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    change(dsn, dim=16)
    work(dsn)
    encoding, go_on = threading.Event(), threading.Event()
    held: list[str] = []

    def hold(texts: list[str]) -> None:
        if "uno" in texts and not held:
            held.append("uno")
            encoding.set()
            assert go_on.wait(60)

    with working(dsn, StubEmbedder(before=hold), columns=[2]):
        db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
        assert encoding.wait(60)
        # Neither column has followed the write yet, so that the swap loses nothing by it.
        swap(dsn, "docs")
        go_on.set()
        until(lambda: queued(db, 2) == 0, "the write after the swap")
    assert_right(db, dim=16)
    assert one(db, "SELECT failed FROM taskvec.columns") == 0


def test_a_worker_of_a_column_serves_its_successors(dsn: str, db: psycopg.Connection[Any]) -> None:
    attached(dsn)
    attach(dsn, "docs", source="text", column="other_vector", embedder=STUB)
    with working(dsn, columns=[1], poll_s=60.0):
        for dim in (16, 8):
            change(dsn, column="embedding", dim=dim)
            new_id = swap(dsn, "docs", column="embedding", wait_s=30)
            db.execute("UPDATE docs SET text = text || '!' WHERE id = 1")
            until(partial(empty, db, new_id), "the write after the swap")
            assert_right(db, dim=dim)
    assert one(db, "SELECT count(other_vector) FROM docs") == 0
    db.execute("UPDATE docs SET text = text || '?'")
    work(dsn, columns=[1])  # one that starts after the swaps
    assert_right(db)
    with pytest.raises(StoreError, match=r"no columns with ids \[9\]: attached are \[2, 4\]"):
        work(dsn, columns=[1, 9])


def test_a_worker_of_a_columns_own_model_leaves_the_successor_to_others(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    change(dsn, embedder=StubEmbedder(name="next"))
    db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
    work(dsn, columns=[1])
    assert_right(db)
    assert queued(db, 2) == 1


def test_a_worker_wakes_when_a_swap_lets_go(dsn: str, db: psycopg.Connection[Any]) -> None:
    """A worker that finds its column held sleeps until the hold would run out by itself."""
    attached(dsn)
    successors = StubEmbedder(name="next")
    change(dsn, embedder=successors)
    work(dsn, successors, columns=[2])
    held = "SELECT count(*) FROM taskvec.columns WHERE held_until > now()"
    with working(dsn, columns=[1], poll_s=60.0):
        db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
        until(lambda: queued(db) == 0, "the live column's write")
        swapping = threading.Thread(target=lambda: failed_swap(dsn))
        swapping.start()
        until(lambda: one(db, held), "the hold")
        db.execute("UPDATE docs SET text = 'due' WHERE id = 2")
        swapping.join()
        assert queued(db) == 1
        began = time.monotonic()
        until(lambda: queued(db) == 0, "the write that was held up")
        assert time.monotonic() - began < 4.0


def empty(db: psycopg.Connection[Any], id_: int) -> bool:
    return queued(db, id_) == 0


def failed_swap(dsn: str) -> None:
    with pytest.raises(SyncError, match="1 rows behind"):
        swap(dsn, "docs", wait_s=1.5)


def test_a_swap_before_all_is_there_is_refused(dsn: str, db: psycopg.Connection[Any]) -> None:
    attached(dsn)
    successors = StubEmbedder(name="next")
    change(dsn, dim=16, embedder=successors)
    with pytest.raises(SyncError, match="still being filled"):
        swap(dsn, "docs", wait_s=0)
    work(dsn, successors, columns=[2])
    db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
    work(dsn, columns=[1])
    with pytest.raises(SyncError, match="1 rows behind"):
        swap(dsn, "docs", wait_s=0)
    assert [row[5] for row in registered(db)] == ["live", "building"]
    assert_right(db)
    work(dsn, successors, columns=[2])
    swap(dsn, "docs", wait_s=0)
    assert_right(db, dim=16)


@pytest.mark.parametrize(
    "options", [{}, {"column": None, "chunks": "docs_chunks"}, {"chunks": "docs_chunks"}]
)
def test_a_row_that_only_the_live_column_has_made_is_waited_for_though_both_have_it_queued(
    dsn: str, db: psycopg.Connection[Any], options: dict[str, Any]
) -> None:
    attached(dsn, **options)
    change(dsn, dim=16)

    def refuse(texts: list[str]) -> None:
        raise ValueError("poison")

    work(dsn, StubEmbedder(before=refuse), columns=[2], attempts=1)
    db.execute("UPDATE docs SET text = text || '!'")
    assert (queued(db, 1), queued(db, 2)) == (3, 3)
    with pytest.raises(SyncError, match="3 rows behind"):
        swap(dsn, "docs", wait_s=0)
    assert len(search(dsn, "docs", "q", embedder=STUB)) == 3
    work(dsn, columns=[2])
    swap(dsn, "docs", wait_s=0)
    assert len(search(dsn, "docs", "q", embedder=STUB)) == 3


def test_rows_that_the_successor_fails_at_are_told_and_may_be_left(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    change(dsn, dim=16)

    def refuse(texts: list[str]) -> None:
        if "two" in texts:
            raise ValueError("poison")

    work(dsn, StubEmbedder(before=refuse), attempts=1)
    with pytest.raises(SyncError, match="failed at 1 rows"):
        swap(dsn, "docs")
    swap(dsn, "docs", allow_parked=True)
    assert one(db, "SELECT embedding FROM docs WHERE id = 2") is None
    assert one(db, "SELECT count(embedding) FROM docs") == 2


def test_the_same_alter_again_changes_nothing_and_another_is_refused(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn, chunks="docs_chunks")
    first = change(dsn, dim=16)
    before = catalogue(db), registered(db)
    second = change(dsn, dim=16)
    assert (second.id, second.created) == (first.id, False)
    with pytest.raises(SchemaError, match=r"being altered already.*dim 16.*abandon"):
        change(dsn, dim=32)
    assert (catalogue(db), registered(db)) == before


def test_abandoning_leaves_no_trace(dsn: str, db: psycopg.Connection[Any]) -> None:
    attached(dsn, chunks="docs_chunks")
    before, rows = catalogue(db), registered(db)
    assert not abandon(dsn, "docs")
    change(dsn, dim=16)
    work(dsn)
    assert abandon(dsn, "docs")
    assert (catalogue(db), registered(db)) == (before, rows)
    work(dsn)
    assert_right(db)


def test_a_detach_takes_the_successor_along(dsn: str, db: psycopg.Connection[Any]) -> None:
    attach(dsn, "docs", source="text", column="first", embedder=STUB)
    detach(dsn, "docs", column="first", drop=True)
    before = catalogue(db)
    attached(dsn, chunks="docs_chunks")
    change(dsn, dim=16)
    assert detach(dsn, "docs", drop=True)
    assert (catalogue(db), registered(db)) == (before, [])


def test_a_worker_survives_a_detach_of_what_it_has_in_hand(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    attach(dsn, "docs", source="text", column="second", embedder=STUB)
    encoding, go_on = threading.Event(), threading.Event()

    def hold(texts: list[str]) -> None:
        encoding.set()
        assert go_on.wait(60)

    with working(dsn, StubEmbedder(before=hold)):
        db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
        assert encoding.wait(60)
        detach(dsn, "docs")
        detach(dsn, "docs", column="second")
        attach(dsn, "docs", source="text", column="third", embedder=STUB)
        go_on.set()
        until(lambda: one(db, "SELECT count(third) FROM docs") == 3)
    assert_right(db, column="third")


def test_a_long_transaction_neither_blocks_writers_nor_is_blocked(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    change(dsn, dim=16)
    work(dsn)
    outcome: list[Any] = []
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT * FROM docs")
        swapping = threading.Thread(target=lambda: outcome.append(swap(dsn, "docs", wait_s=60)))
        swapping.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        until(lambda: one(db, waiting) == 1, "the swap's wait")
        slowest = 0.0
        for i in range(100):
            began = time.monotonic()
            db.execute("UPDATE docs SET other = %s WHERE id = 1", [i])
            slowest = max(slowest, time.monotonic() - began)
        # The server looks for deadlocks after a second: whoever waits in its queue waits longer.
        assert slowest < 1.0
        assert not outcome
        reader.rollback()
    swapping.join(60)
    assert outcome == [2]


def test_a_lock_that_is_never_given_up_ends_in_an_error_and_changes_nothing(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    change(dsn, dim=16)
    work(dsn)
    before = catalogue(db), registered(db)
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT * FROM docs")
        for act in (swap, abandon):
            with pytest.raises(StoreError, match="a lock that a transaction has held for"):
                act(dsn, "docs", wait_s=0.3)
    left = {name for name in catalogue(db) if "taskvec_2_column_full" not in name}
    assert (left, registered(db)) == before
    swap(dsn, "docs")
    assert_right(db, dim=16)


def test_what_depends_on_the_column_keeps_it(dsn: str, db: psycopg.Connection[Any]) -> None:
    attached(dsn)
    db.execute("CREATE VIEW seen AS SELECT id, embedding FROM docs")
    change(dsn, dim=16)
    work(dsn)
    with pytest.raises(SchemaError, match="seen depends on column embedding"):
        swap(dsn, "docs")
    assert_right(db)
    db.execute("DROP VIEW seen")
    swap(dsn, "docs")
    assert_right(db, dim=16)


def indexes(db: psycopg.Connection[Any], table: str) -> dict[str, str]:
    rows = db.execute("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s", [table])
    return dict(rows.fetchall())


@pytest.mark.parametrize("type_", ["vector", "halfvec"])
def test_an_index_of_the_users_own_is_there_after_the_swap(
    dsn: str, db: psycopg.Connection[Any], type_: str
) -> None:
    attached(dsn, index="none", column='e{m}"b %')
    create = (
        'CREATE INDEX CONCURRENTLY "my %s {}" ON docs USING hnsw ("e{m}""b %" vector_cosine_ops)'
    )
    db.execute(create + " WITH (m = 7)")
    before = indexes(db, "docs")
    change(dsn, dim=16, type=type_)
    work(dsn)
    swap(dsn, "docs")
    wanted = before["my %s {}"].replace("vector_cosine", f"{type_}_cosine")
    assert indexes(db, "docs") == before | {"my %s {}": wanted}
    assert one(db, "SELECT bool_and(indisvalid) FROM pg_index") is True
    found = search(dsn, "docs", "q", embedder=STUB)
    assert len(found) == 3


def test_every_index_of_the_column_and_of_its_chunks_is_carried_over(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn, chunks="docs_chunks")
    db.execute("CREATE INDEX recent ON docs USING hnsw (embedding vector_l2_ops) WHERE other = 0")
    db.execute("CREATE INDEX normed ON docs ((vector_norm(embedding)), other DESC) INCLUDE (text)")
    db.execute("CREATE UNIQUE INDEX filled ON docs (id) WHERE embedding IS NOT NULL")
    db.execute("CREATE INDEX apart ON docs (other) WHERE text = 'embedding'")
    db.execute("CREATE INDEX words ON docs_chunks USING gin (to_tsvector('english', text))")
    db.execute("CREATE INDEX near ON docs_chunks USING hnsw (embedding vector_ip_ops)")
    before = indexes(db, "docs") | indexes(db, "docs_chunks")
    change(dsn, dim=16)
    work(dsn)
    swap(dsn, "docs")
    after = indexes(db, "docs") | indexes(db, "docs_chunks")
    ours = {name.replace("_1_", "_2_"): made.replace("_1_", "_2_") for name, made in before.items()}
    assert after == ours
    assert not {name for name in catalogue(db) if "like" in name}


def test_an_index_of_a_partition_is_carried_over(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("DROP TABLE docs")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, text text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (10)")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    attached(dsn, index="none")
    db.execute("CREATE INDEX whole ON docs USING hnsw (embedding vector_cosine_ops)")
    db.execute("CREATE INDEX part ON low ((vector_norm(embedding)))")
    before = indexes(db, "docs") | indexes(db, "low")
    change(dsn, dim=16)
    work(dsn)
    swap(dsn, "docs")
    after = indexes(db, "docs") | indexes(db, "low")
    named = {name: made for name, made in after.items() if not name.startswith("taskvec")}
    assert named == {name: before[name] for name in ("docs_pkey", "whole", "low_pkey", "part")}
    assert one(db, "SELECT bool_and(indisvalid) FROM pg_index") is True


def test_an_index_that_does_not_fit_the_successor_is_named_and_nothing_is_changed(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    db.execute("CREATE INDEX short ON docs USING hnsw ((embedding::halfvec(8)) halfvec_l2_ops)")
    change(dsn, dim=16)
    work(dsn)
    before = catalogue(db)
    with pytest.raises(SchemaError, match=r"index 'short' .* does not fit .* 8 dimensions"):
        swap(dsn, "docs")
    assert catalogue(db) == before
    db.execute("DROP INDEX short")
    swap(dsn, "docs")
    assert_right(db, dim=16)


@pytest.mark.parametrize(
    ("made", "undone", "named"),
    [
        ("ADD note text", "DROP COLUMN note", "column note"),
        ("ADD CONSTRAINT c CHECK (id > 0)", "DROP CONSTRAINT c", "constraint c"),
        ("ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES docs", "DROP CONSTRAINT f", "constraint f"),
    ],
)
def test_what_chunks_would_lose_is_named_and_nothing_is_changed(
    dsn: str, db: psycopg.Connection[Any], made: str, undone: str, named: str
) -> None:
    attached(dsn, chunks="docs_chunks")
    db.execute(f"ALTER TABLE docs_chunks {made}")
    change(dsn, dim=16)
    work(dsn)
    with pytest.raises(SchemaError, match=f"its chunk table has {named}, which"):
        swap(dsn, "docs")
    assert_right(db)
    db.execute(f"ALTER TABLE docs_chunks {undone}")
    swap(dsn, "docs")
    assert_right(db, dim=16)


def test_a_trigger_of_chunks_is_not_lost(dsn: str, db: psycopg.Connection[Any]) -> None:
    attached(dsn, chunks="docs_chunks")
    function = "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    db.execute(f"CREATE TRIGGER t BEFORE UPDATE ON docs_chunks FOR EACH ROW {function}")
    change(dsn, dim=16)
    work(dsn)
    with pytest.raises(SchemaError, match="its chunk table has trigger t, which"):
        swap(dsn, "docs")


@pytest.mark.parametrize(
    ("change_of_users", "told"),
    [
        ("ADD CONSTRAINT unit CHECK (vector_norm(embedding) < 1.1)", "constraint unit"),
        ("ALTER embedding SET DEFAULT NULL::vector", "default NULL::.*vector"),
    ],
)
def test_what_the_column_would_lose_is_named(
    dsn: str, db: psycopg.Connection[Any], change_of_users: str, told: str
) -> None:
    attached(dsn)
    db.execute(f"ALTER TABLE docs {change_of_users}")
    change(dsn, dim=16)
    work(dsn)
    with pytest.raises(SchemaError, match=f"its column has {told}"):
        swap(dsn, "docs")
    assert_right(db)


def test_row_security_of_chunks_holds_before_and_after_the_swap(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn, chunks="docs_chunks")
    owner, reader = (f"{kind} {uuid.uuid4().hex}" for kind in ("owner", "reader"))
    db.execute(f'CREATE ROLE "{owner}"; CREATE ROLE "{reader}" LOGIN')
    theirs = dsn.replace("postgres@", f"{reader.replace(' ', '%20')}@")
    try:
        db.execute(f'GRANT CREATE ON SCHEMA public TO "{owner}"')
        db.execute(f'ALTER TABLE docs_chunks OWNER TO "{owner}"')
        db.execute(f'GRANT SELECT ON docs, docs_chunks TO "{reader}"')
        db.execute("ALTER TABLE docs_chunks ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        db.execute(
            f'CREATE POLICY "p %s {{}}" ON docs_chunks FOR SELECT TO "{reader}" USING'
            " (EXISTS (SELECT FROM docs d WHERE d.id = docs_chunks.id AND d.other = 1))"
        )
        db.execute(
            "CREATE POLICY q ON docs_chunks AS RESTRICTIVE USING (id > 0) WITH CHECK (id < 9)"
        )
        db.execute("UPDATE docs SET other = 1 WHERE id = 2")
        before = db.execute("SELECT p.* FROM pg_policies p ORDER BY policyname").fetchall()
        with psycopg.connect(theirs, autocommit=True) as conn:
            assert one(conn, "SELECT array_agg(id) FROM docs_chunks") == [2]
            change(dsn, dim=16)
            work(dsn)
            assert one(conn, "SELECT count(*) FROM taskvec_next_2") == 0
            swap(dsn, "docs")
            assert one(conn, "SELECT array_agg(id) FROM docs_chunks") == [2]
        assert db.execute("SELECT p.* FROM pg_policies p ORDER BY policyname").fetchall() == before
        facts = "SELECT relforcerowsecurity AND relowner = $1::regrole FROM pg_class WHERE oid = "
        assert one(db, facts + "'docs_chunks'::regclass", f'"{owner}"') is True
    finally:
        db.execute(f'DROP OWNED BY "{owner}", "{reader}" CASCADE; DROP ROLE "{owner}", "{reader}"')


def test_roles_may_do_with_the_successor_what_they_might_before(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn, chunks="docs_chunks")
    role = f"worker {uuid.uuid4().hex}"
    db.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        grant(dsn, "docs", role=role)
        theirs = dsn.replace("postgres@", f"{role.replace(' ', '%20')}@")
        change(dsn, dim=16)
        work(theirs)
        swap(dsn, "docs")
        db.execute("UPDATE docs SET text = 'uno' WHERE id = 1")
        work(theirs)
        assert_right(db, dim=16)
    finally:
        db.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_what_is_granted_and_revoked_while_a_successor_fills_counts_after_the_swap(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn, chunks="docs_chunks")
    former, later = (f"{kind} {uuid.uuid4().hex}" for kind in ("former", "later"))
    db.execute(f'CREATE ROLE "{former}"; CREATE ROLE "{later}"')

    def rights(role: str) -> Any:
        return one(
            db,
            "SELECT ARRAY[has_column_privilege($1::name, 'docs', 'embedding', 'SELECT'),"
            " has_table_privilege($1::name, 'docs_chunks', 'SELECT'),"
            " has_column_privilege($1::name, 'docs_chunks', 'text', 'SELECT')]",
            role,
        )

    try:
        db.execute(f'GRANT SELECT (embedding) ON docs TO "{former}"')
        db.execute(f'GRANT SELECT ON docs_chunks TO "{former}"')
        change(dsn, dim=16)
        db.execute(f'REVOKE SELECT (embedding) ON docs FROM "{former}"')
        db.execute(f'REVOKE SELECT ON docs_chunks FROM "{former}"')
        db.execute(f'GRANT SELECT (embedding) ON docs TO "{later}"')
        db.execute(f'GRANT SELECT (id, text) ON docs_chunks TO "{later}"')
        db.execute("COMMENT ON COLUMN docs.embedding IS 'later'")
        work(dsn)
        swap(dsn, "docs")
        assert rights(former) == [False, False, False]
        assert rights(later) == [True, False, True]
        comment = "SELECT col_description('docs'::regclass, attnum) FROM pg_attribute WHERE "
        assert one(db, comment + "attrelid = 'docs'::regclass AND attname = 'embedding'") == "later"
    finally:
        for role in (former, later):
            db.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_storage_statistics_and_comment_of_the_column_are_carried_over(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    db.execute("ALTER TABLE docs ALTER COLUMN embedding SET STORAGE PLAIN")
    db.execute("ALTER TABLE docs ALTER COLUMN embedding SET STATISTICS 7")
    db.execute("COMMENT ON COLUMN docs.embedding IS 'it''s {ours}: 100 %'")
    change(dsn, dim=16)
    work(dsn)
    swap(dsn, "docs")
    found = db.execute(
        "SELECT attstorage::text, attstattarget, col_description(attrelid, attnum) "
        "FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname = 'embedding'"
    ).fetchone()
    assert found == ("p", 7, "it's {ours}: 100 %")


def test_a_partitioned_table_is_altered(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("DROP TABLE docs")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, text text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (10)")
    db.execute("CREATE TABLE high PARTITION OF docs FOR VALUES FROM (10) TO (20)")
    db.execute("INSERT INTO docs VALUES (1, 'one'), (11, 'eleven')")
    attached(dsn)
    change(dsn, dim=16)
    work(dsn)
    swap(dsn, "docs")
    assert_right(db, dim=16)
    assert one(db, "SELECT bool_and(indisvalid) FROM pg_index") is True
    db.execute("UPDATE low SET text = 'uno'")
    work(dsn)
    assert_right(db, dim=16)


def test_a_swap_in_the_callers_transaction_is_undone_with_it(
    dsn: str, conn: psycopg.Connection[Any], db: psycopg.Connection[Any]
) -> None:
    attached(dsn)
    change(dsn, dim=16)
    work(dsn)
    before = catalogue(db), registered(db)
    conn.execute("SET LOCAL lock_timeout = '5s'")
    swap(conn, "docs")
    assert one(conn, "SHOW lock_timeout") == "5s"
    conn.rollback()
    assert (catalogue(db), registered(db)) == before
    assert_right(db)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({}, InputError, "nothing would change"),
        ({"dim": 8}, InputError, "nothing would change"),
        ({"dim": 3000}, InputError, "at most 2000 dims"),
        ({"type": "bit"}, InputError, "unknown type 'bit'"),
        ({"chunk_characters": 5}, InputError, "keeps no chunks"),
        ({"column": "other", "dim": 16}, SchemaError, "column 'other' is not attached"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(
    dsn: str, db: psycopg.Connection[Any], options: dict[str, Any], error: type, named: str
) -> None:
    attached(dsn)
    before = catalogue(db)
    with pytest.raises(error) as caught:
        change(dsn, **options)
    assert named in str(caught.value)
    assert catalogue(db) == before
    with pytest.raises(SchemaError, match="has no successor: alter it first"):
        swap(dsn, "docs")
