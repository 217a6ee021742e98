"""`taskvec pg`, from attaching to swapping, on a real PostgreSQL."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskvec.core import shared_encoder
from taskvec.integrations.cli import main
from tests.attached import DEADLINE_S, one, until
from tests.embedders import StubEmbedder
from tests.remote_server import serving

COLUMNS = """
SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute
WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped
"""


@pytest.fixture
def db(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit, with a table docs; the environment names the server."""
    monkeypatch.setenv("TASKVEC_PG_DSN", dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text, lang text)")
        conn.execute(
            "INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i,"
            " CASE WHEN i % 2 = 0 THEN 'en' ELSE 'de' END FROM generate_series(1, 6) i"
        )
        yield conn


class Told:
    """Runs commands and reads what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Standard output of `taskvec pg …`."""
        self._capsys.readouterr()
        given = main(["pg", *arguments])
        out, self.err = self._capsys.readouterr()
        assert given == code, self.err
        return out

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*arguments, "--json").splitlines()]


@pytest.fixture
def pg(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


def attach(pg: Told, model: Path | str, *options: str) -> dict[str, Any]:
    (made,) = pg.json(
        *("attach", "--table", "docs", "--source", "title,body", "--model", str(model)),
        *("--dim", "16", *options),
    )
    return made


def test_a_role_is_granted_what_its_workers_need(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint)
    said = pg("grant", "--table", "docs", "--role", "pg_monitor")
    assert said == "docs: pg_monitor may run its workers\n"
    assert one(db, "SELECT has_table_privilege('pg_monitor', 'taskvec.queue_1', 'DELETE')") is True
    assert pg.json("grant", "--table", "docs", "--role", "pg_monitor") == [
        {"table": "docs", "role": "pg_monitor"}
    ]


def test_from_attaching_to_detaching(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    made = attach(pg, checkpoint)
    assert made == {"id": 1, "name": '"public"."docs"."embedding"', "created": True}
    assert attach(pg, checkpoint)["created"] is False
    (before,) = pg.json("status")
    assert (before["coverage"], before["model"]) == (0.0, os.path.realpath(checkpoint))
    (done,) = pg.json("worker", "--until-empty")
    assert (done["done"], done["failed"]) == (6, 0)
    encoder = shared_encoder(str(checkpoint))
    passages = encoder.encode(
        [f"title {i}\n\nbody {i}" for i in range(1, 7)], task="retrieval.passage", dim=16
    )
    scores = passages @ encoder.encode("what?", task="retrieval.query", dim=16)
    found = pg.json("search", "what?", "--table", "docs", "-k", "3")
    assert [row["id"] for row in found] == list((-scores).argsort()[:3] + 1)
    assert found[0]["score"] == pytest.approx(float(scores.max()), abs=0.01)
    (after,) = pg.json("status", "--exact")
    assert (after["coverage"], after["embedded"], after["exact"]) == (100.0, 6, True)
    assert pg.json("detach", "--table", "docs", "--drop") == [{"table": "docs", "detached": True}]
    assert "nothing was attached" in pg("detach", "--table", "docs")
    assert one(db, COLUMNS) == ["id", "title", "body", "lang"]


def test_what_is_printed_for_people(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    assert "nothing is attached" in pg("status")
    attach(pg, checkpoint, "--where", "lang = 'en'")
    assert '"docs"."embedding: 3 rows made right, 0 failures' in pg(
        "worker", "--until-empty"
    ).replace('embedding"', "embedding")
    assert "100.00 % of about" in pg("status")
    assert ", 0.0 rows/s" in pg("status", "--over", "0.01")
    assert "title title 2" in pg("search", "title 2", "--table", "docs", "-k", "3")
    assert "no row has a vector" in pg("search", "x", "--table", "docs", "--where", "lang = 'de'")
    assert "no row has failed" in pg("failures")
    assert 'taskvec_queue_rows{column="embedding",id="1",table="docs"} 0.0' in pg(
        "status", "--metrics"
    )


def test_what_is_still_to_come_and_what_is_not_there_is_told(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint)
    found = pg("search", "x", "--table", "docs")
    assert "no row has a vector that fits; about 6 rows wait for `taskvec pg worker`" in found
    assert "6 waiting, 0 of them queued" in pg("status").replace("\n", " ")
    waiting = 'taskvec_rows_waiting{column="embedding",id="1",table="docs"} 6.0'
    assert waiting in pg("status", "--metrics")
    for action in ("status", "failures", "retry"):
        pg(action, "--id", "7", code=2)
        assert "nothing has id 7; attached are 1 (docs embedding)" in pg.err
    told = pg("detach", "--table", "docs", "--column", "other")
    assert "nothing was attached; attached are 1 (docs embedding)" in told.replace("\n", " ")
    pg("search", "x", "--table", "docs", "--where", "id > $1", code=2)
    assert "the condition has $1, and params are 0" in pg.err
    pg("search", "x", "--table", "docs", "--where", "lang = %s", "--param", "en", code=2)
    assert "write $1, $2" in pg.err
    pg("attach", "--table", "docs", "--source", "title,body", "--model", str(checkpoint), code=2)
    assert "attached with dim 16 (asked: 32): alter it" in pg.err.replace("\n", " ")


def test_failures_of_columns_that_a_role_may_not_read_are_left_out(
    pg: Told, dsn: str, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint)
    pg("worker", "--until-empty")
    role = f"role_{uuid.uuid4().hex}"
    db.execute(f"CREATE ROLE {role} LOGIN")
    theirs = ("--dsn", dsn.replace("postgres@", f"{role}@"))
    try:
        pg("grant", "--table", "docs", "--role", role)
        more = ("--table", "docs", "--source", "title", "--column", "second", "--dim", "16")
        pg("attach", *more, "--model", str(checkpoint))
        db.execute("ALTER TABLE docs ADD CHECK (id <> 3 OR embedding IS NULL) NOT VALID")
        db.execute("UPDATE docs SET body = 'new', embedding = NULL")
        pg("worker", "--until-empty", "--attempts", "1", "--id", "1")
        assert [failure["key"] for failure in pg.json("failures", *theirs)] == [{"id": "3"}]
        assert pg.json("retry", *theirs) == [{"retried": 1}]
        pg("failures", *theirs, "--id", "2", code=2)
        assert "permission denied for table queue_2" in pg.err
        pg("detach", "--table", "docs", *theirs, code=2)
        assert "only the role that attached a column" in pg.err
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_search_options(pg: Told, db: psycopg.Connection[Any], checkpoint: Path) -> None:
    attach(pg, checkpoint)
    pg("worker", "--until-empty")
    options = ("--where", "lang = $1 AND id > $2", "--param", "en", "--param", "2")
    found = pg.json("search", "body", "--table", "docs", *options, "--sql", "--explain")
    assert sorted(row["id"] for row in found) == [4, 6]
    assert "SET LOCAL hnsw.iterative_scan = strict_order;" in pg.err
    assert "Limit  (cost=" in pg.err
    pg("search", "body", "--table", "docs", "--first-pass", "binary", code=2)
    assert "taskvec pg index" in pg.err
    assert " made" in pg("index", "--table", "docs", "--first-pass", "binary")
    assert "was there before" in pg("index", "--table", "docs", "--first-pass", "binary")
    found = pg.json("search", "body", "--table", "docs", "--first-pass", "binary", "-k", "6")
    assert len(found) == 6
    pg("index", "--table", "docs", "--first-pass", "64", code=2)
    assert "does not fit" in pg.err


def test_chunks_are_attached_and_searched(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint, "--chunks", "docs_chunks", "--chunks-only", "--chunk-chars", "10")
    pg("worker", "--until-empty")
    found = pg.json("search", "body 3", "--table", "docs", "-k", "20")
    assert len(found) == one(db, "SELECT count(*) FROM docs_chunks") > 6
    assert {"id", "ordinal", "first", "last", "text", "score"} == set(found[0])
    pg("detach", "--table", "docs", "--chunks", "docs_chunks", "--drop")
    assert one(db, "SELECT to_regclass('docs_chunks')") is None


def test_a_change_is_begun_and_swapped_or_abandoned(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint)
    pg("worker", "--until-empty")
    (begun,) = pg.json("alter", "--table", "docs", "--dim", "8", "--task", "text-matching")
    assert (begun["id"], begun["created"]) == (2, True)
    assert [row["state"] for row in pg.json("status")] == ["live", "building"]
    pg("alter", "--table", "docs", "--swap", "--wait", "0.1", code=1)
    assert "still being filled" in pg.err
    pg("alter", "--table", "docs", "--swap", "--dim", "8", code=2)
    pg("worker", "--until-empty")
    assert pg.json("alter", "--table", "docs", "--swap")[0]["id"] == 2
    (row,) = pg.json("status")
    assert (row["id"], row["dim"], row["task"], row["state"]) == (2, 8, "text-matching", "live")
    pg("alter", "--table", "docs", "--task", "none")
    assert pg.json("alter", "--table", "docs", "--abandon")[0]["abandoned"] is True
    assert "there was no successor" in pg("alter", "--table", "docs", "--abandon")


def test_failures_are_shown_and_retried(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint)
    db.execute("ALTER TABLE docs ADD CHECK (id <> 3 OR embedding IS NULL)")
    pg("worker", "--until-empty", "--attempts", "1")
    (failure,) = pg.json("failures")
    assert (failure["key"], failure["parked"], failure["attempts"]) == ({"id": "3"}, True, 1)
    assert "id 3: 1 attempts, parked" in pg("failures")
    db.execute("ALTER TABLE docs DROP CONSTRAINT docs_check")
    assert pg.json("retry") == [{"retried": 1}]
    pg("worker", "--until-empty")
    assert pg.json("failures") == []
    assert one(db, "SELECT count(embedding) FROM docs") == 6


def test_a_column_whose_table_is_gone_is_shown_and_detached_by_its_id(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint)
    db.execute("DROP TABLE docs")
    assert ": BROKEN, its table was dropped; `taskvec pg detach --id`" in pg("status")
    assert pg.json("status")[0]["problem"] == "its table was dropped"
    assert pg.json("worker", "--until-empty") == []
    assert pg.json("failures") == []
    pg("detach", "--id", "1", "--column", "embedding", code=2)
    assert "leave out --column and --chunks" in pg.err
    assert pg.json("detach", "--id", "1") == [{"id": 1, "detached": True}]
    assert "column 1: nothing was attached" in pg("detach", "--id", "1")
    assert "nothing is attached" in pg("status")


def test_quoted_names_and_columns_with_commas(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    db.execute('CREATE TABLE "My, docs" ("a,b" text, c text, "k" int PRIMARY KEY)')
    db.execute("INSERT INTO \"My, docs\" VALUES ('one', 'two', 1)")
    pg(
        *("attach", "--table", '"My, docs"', "--source", '"a,b", c', "--column", "the column"),
        *("--model", str(checkpoint), "--index", "none", "--query-task", "none"),
    )
    pg("worker", "--until-empty")
    (found,) = pg.json("search", "one", "--table", '"My, docs"')
    assert list(found) == ["k", "a,b", "c", "score"]


BAD_INPUT = {
    "no action": [],
    "no such action": ["bogus"],
    "no table": ["attach", "--source", "text"],
    "no source": ["attach", "--table", "docs"],
    "empty source": ["attach", "--table", "docs", "--source", ",", "--model", "{model}"],
    "no such table": ["attach", "--table", "nope", "--source", "x", "--model", "{model}"],
    "no such column": ["attach", "--table", "docs", "--source", "x", "--model", "{model}"],
    "no such model": ["attach", "--table", "docs", "--source", "title", "--model", "nowhere"],
    "chunks only of nothing": ["attach", "--table", "docs", "--source", "title", "--chunks-only"],
    "not attached": ["search", "x", "--table", "docs"],
    "blank query": ["search", " ", "--table", "docs"],
    "alter of nothing": ["alter", "--table", "docs", "--dim", "8"],
    "both ends": ["alter", "--table", "docs", "--swap", "--abandon"],
    "detach of nothing": ["detach"],
    "detach of both": ["detach", "--table", "docs", "--id", "1"],
    "no such first pass": ["index", "--table", "docs", "--first-pass", "65"],
    "no such id": ["worker", "--id", "7", "--until-empty"],
    "a wait of nothing": ["alter", "--table", "docs", "--swap", "--wait", "0"],
    "no such port": ["worker", "--metrics", "65536"],
    "dsn that is none": ["status", "--dsn", "nonsense"],
    "server not there": ["status", "--dsn", "postgresql://u:hush@127.0.0.1:1/x"],
    "dsn with two at signs": ["status", "--dsn", "postgresql://u:x@hush@127.0.0.1:1/x"],
    "dsn that is cut wrong": ["status", "--dsn", "postgresql://u:hush/y@127.0.0.1/x"],
    "dsn with a bad port": ["status", "--dsn", "postgresql://127.0.0.1:hush/x"],
    "dsn with a bad option": ["status", "--dsn", "host=127.0.0.1 password=hush nonsense=1"],
    "worker without its server": [
        "worker", "--until-empty", "--dsn", "postgresql://u:hush@127.0.0.1:1/x"
    ],
}  # fmt: skip


@pytest.mark.parametrize("arguments", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    out = pg(*(item.format(model=checkpoint) for item in arguments), code=2)
    assert out == ""
    assert pg.err.startswith("taskvec: ")
    assert len(pg.err) > len("taskvec: ") + 10
    assert pg.err.count("\n") == 1
    assert "hush" not in pg.err
    assert one(db, "SELECT to_regnamespace('taskvec')") is None


def test_without_a_server_the_variable_is_named(pg: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKVEC_PG_DSN", raising=False)
    monkeypatch.delenv("PGDSN", raising=False)
    pg("status", code=2)
    assert "TASKVEC_PG_DSN" in pg.err


def test_help_loads_no_driver() -> None:
    script = (
        "import sys; from taskvec.integrations.cli import main; code = main(['pg', '--help']);"
        "sys.exit(code or len({'torch', 'psycopg', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "attach" in done.stdout


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, killed at the end if it still runs."""
    started = subprocess.Popen(
        [sys.executable, "-m", "taskvec.integrations.cli", "pg", "worker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_batch_in_hand(
    number: signal.Signals, pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    db.execute(
        "INSERT INTO docs SELECT i, repeat('some words ', 50) FROM generate_series(7, 9000) i"
    )
    attach(pg, checkpoint)
    with process("--batch", "16", "--json") as worker:
        until(lambda: one(db, "SELECT done FROM taskvec.columns") > 0)
        worker.send_signal(number)
        out, err = worker.communicate(timeout=60)
    assert worker.returncode == 0, err
    done = one(db, "SELECT count(embedding) FROM docs")
    assert 0 < done < 9000
    assert json.loads(out)["done"] == one(db, "SELECT done FROM taskvec.columns") == done
    assert one(db, "SELECT count(*) FROM taskvec.queue_1 WHERE lease IS NOT NULL") == 0
    assert err == ""


TWICE = [
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM, signal.SIGINT),
]


@pytest.mark.parametrize(("first", "second"), TWICE)
def test_a_second_signal_waits_for_no_batch(
    first: signal.Signals, second: signal.Signals, pg: Told, db: psycopg.Connection[Any]
) -> None:
    reached, opened = threading.Event(), threading.Event()

    def hang(_: list[str]) -> None:
        reached.set()
        opened.wait()

    with serving(StubEmbedder(hang)) as server:
        attach(pg, server.url)
        with process() as worker:
            assert reached.wait(DEADLINE_S)
            worker.send_signal(first)
            with pytest.raises(subprocess.TimeoutExpired):
                worker.communicate(timeout=1)
            worker.send_signal(second)
            _, err = worker.communicate(timeout=DEADLINE_S / 4)
        opened.set()
    assert worker.returncode == 128 + second
    assert err == "taskvec: ended by a signal\n"
    assert one(db, "SELECT count(embedding) FROM docs") == 0


def test_a_worker_serves_its_metrics(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with process("--metrics", str(port)) as worker:
        until(lambda: 'taskvec_rows_embedded_total{column="embedding",id="1",table="docs"} 6.0'
              in scraped(port))  # fmt: skip
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
    assert worker.returncode == 0


def scraped(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            return reply.read().decode()
    except OSError:
        return ""


def test_a_port_that_is_taken_is_told(
    pg: Told, db: psycopg.Connection[Any], checkpoint: Path
) -> None:
    attach(pg, checkpoint)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        pg("worker", "--metrics", str(taken.getsockname()[1]), code=2)
    assert "metrics cannot be served at 127.0.0.1:" in pg.err
