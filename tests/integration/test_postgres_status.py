"""The figures of attached columns: by SQL, in Python, and for Prometheus."""

import json
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskvec.core.errors import InputError, SchemaError
from taskvec.integrations.postgres import attach, detach
from taskvec.integrations.postgres.altering import alter
from taskvec.integrations.postgres.metrics import metrics_text, serve_metrics
from taskvec.integrations.postgres.monitoring import Status, status
from taskvec.integrations.postgres.swapping import swap
from tests.attached import one, until, work, working
from tests.embedders import StubEmbedder

ROWS = 200
SECRETS = ["http://u:hush@10.0.0.1:8000", "https://hush@host", "https://host/v1?api_key=hush",
           "https://u:h/hush@host"]  # fmt: skip


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit, with a table docs of two hundred rows."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
        conn.execute(f"INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, {ROWS}) i")
        conn.execute("ANALYZE docs")
        yield conn


def put(dsn: str, **options: Any) -> None:
    attach(dsn, "docs", **{"source": "text", "embedder": StubEmbedder(), **options})


def only(dsn: str, **options: Any) -> Status:
    (found,) = status(dsn, **options)
    return found


def test_nothing_is_attached(dsn: str) -> None:
    assert status(dsn) == []
    assert "taskvec_up 1.0" in metrics_text(dsn)


def test_a_column_from_its_attachment_until_all_is_embedded(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    put(dsn)
    before = only(dsn)
    assert (before.rows, before.embedded, before.coverage) == (ROWS, 0, 0.0)
    assert (before.table, before.column, before.state) == ("docs", "embedding", "live")
    assert before.fingerprint == "stub/retrieval.passage/8"
    work(dsn)
    db.execute("ANALYZE docs")
    after = only(dsn)
    assert (after.rows, after.embedded, after.coverage) == (ROWS, ROWS, 100.0)
    assert (after.queued, after.leased, after.lag_s, after.done) == (0, 0, 0.0, ROWS)
    assert after.last_done is not None


def test_a_write_is_queued_and_lags(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    work(dsn)
    db.execute("ANALYZE docs")
    db.execute("UPDATE docs SET text = 'new' WHERE id <= 20")
    db.execute("UPDATE taskvec.queue_1 SET enqueued_at = now() - interval '1 hour' WHERE key_1 = 7")
    found = only(dsn)
    assert (found.queued, found.embedded, found.coverage) == (20, ROWS - 20, 90.0)
    assert 3600 <= found.lag_s < 3700


def test_a_single_row_of_many_is_never_rounded_away(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    work(dsn)
    db.execute("UPDATE pg_class SET reltuples = 1e9 WHERE relname = 'docs'")
    db.execute("SELECT pg_stat_reset()")
    db.execute("UPDATE docs SET text = 'new' WHERE id = 1")
    assert only(dsn).coverage < 100.0


def test_failures_are_counted_apart(dsn: str, db: psycopg.Connection[Any]) -> None:
    def refuse(texts: list[str]) -> None:
        if "text 7" in texts:
            raise ValueError("poison")

    put(dsn)
    work(dsn, StubEmbedder(before=refuse), attempts=1)
    parked = only(dsn)
    assert (parked.parked, parked.queued, parked.retrying, parked.failed) == (1, 0, 0, 1)
    assert parked.coverage == pytest.approx(99.5)
    assert parked.last_failed is not None
    db.execute("UPDATE taskvec.queue_1 SET parked = false")
    assert (only(dsn).parked, only(dsn).queued, only(dsn).retrying) == (0, 1, 1)


def test_rows_in_hand_are_leased(dsn: str, db: psycopg.Connection[Any]) -> None:
    encoding, go_on = threading.Event(), threading.Event()

    def hold(texts: list[str]) -> None:
        encoding.set()
        assert go_on.wait(60)

    put(dsn)
    with working(dsn, StubEmbedder(before=hold), batch=16):
        assert encoding.wait(60)
        assert only(dsn).leased == 16
        go_on.set()
        until(lambda: only(dsn).coverage == 100.0)


def test_exact_figures_come_from_the_rows_themselves(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn, where="id > 100", chunks="docs_chunks")
    work(dsn)
    db.execute("UPDATE pg_class SET reltuples = 5 WHERE relname = 'docs'")
    db.execute("DELETE FROM docs WHERE id > 190")
    db.execute("UPDATE docs SET text = NULL WHERE id > 180")
    db.execute("UPDATE docs SET text = 'new' WHERE id BETWEEN 101 AND 120")
    found = only(dsn, exact=True)
    assert (found.exact, found.rows, found.embedded, found.coverage) == (True, 190, 60, 75.0)


def test_exact_figures_of_chunks_alone(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn, column=None, chunks="docs_chunks")
    assert only(dsn, exact=True).coverage == 0.0
    work(dsn)
    db.execute("UPDATE docs SET text = 'new' WHERE id = 1")
    found = only(dsn, exact=True)
    assert (found.embedded, found.chunks, found.column) == (ROWS - 1, "docs_chunks", None)


def test_partitions_are_counted_together(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute("CREATE TABLE parts (id int PRIMARY KEY, text text) PARTITION BY HASH (id)")
    for i in range(2):
        part = f"CREATE TABLE part_{i} PARTITION OF parts FOR VALUES WITH"
        db.execute(f"{part} (MODULUS 2, REMAINDER {i})")
    db.execute("INSERT INTO parts SELECT * FROM docs")
    db.execute("ANALYZE")
    attach(dsn, "parts", source="text", embedder=StubEmbedder())
    assert only(dsn).rows == ROWS


def test_rates_are_measured_over_a_while(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    assert only(dsn).rate is None
    with working(dsn, batch=8):
        found = only(dsn, over_s=0.5)
        until(lambda: only(dsn).coverage == 100.0)
    assert found.rate is not None
    assert 0 <= found.rate <= ROWS / 0.5
    assert only(dsn, over_s=0.05).rate == 0.0
    with pytest.raises(InputError, match="over_s -1"):
        status(dsn, over_s=-1)


def test_the_view_says_the_same_in_sql(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    put(dsn, column="second", dim=16)
    alter(dsn, "docs", column="second", dim=8, embedder=StubEmbedder())
    work(dsn, columns=[1])
    rows = db.execute(
        'SELECT id, "column", state, successor_of, queued, coverage, fingerprint'
        " FROM taskvec.status ORDER BY id"
    ).fetchall()
    assert [(r[0], r[2], r[3]) for r in rows] == [
        (1, "live", None),
        (2, "live", None),
        (3, "building", 2),
    ]
    assert [(s.id, s.column, s.state, s.successor_of, s.queued, s.coverage, s.fingerprint)
            for s in status(dsn)] == rows  # fmt: skip
    assert [s.id for s in status(dsn, columns=[3, 1])] == [1, 3]
    assert rows[0][5] == 100.0


def test_records_are_json(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    work(dsn)
    record = only(dsn).record()
    assert json.loads(json.dumps(record)) == record
    assert record["coverage"] == 100.0


@pytest.mark.parametrize("secret", SECRETS)
def test_a_model_with_a_secret_is_refused_and_told_nowhere(
    dsn: str, db: psycopg.Connection[Any], secret: str
) -> None:
    """Before anything is asked of the model's server, and by an encoder of one's own as well."""
    with pytest.raises(InputError, match="TASKVEC_API_KEY") as caught:
        put(dsn, model=secret)
    told = [str(caught.value)]
    with pytest.raises(InputError, match="TASKVEC_API_KEY"):
        attach(dsn, "docs", source="text", model=secret)
    put(dsn)
    with pytest.raises(InputError, match="TASKVEC_API_KEY") as caught:
        alter(dsn, "docs", model=secret, embedder=StubEmbedder(name="next"))
    told += [str(caught.value), metrics_text(dsn)]
    assert "hush" not in " ".join(told)
    assert [one.model for one in status(dsn)] == ["starter"]


def test_ids_mean_successors_as_well(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    alter(dsn, "docs", dim=16, embedder=StubEmbedder())
    assert [one.id for one in status(dsn, columns=[1])] == [1, 2]
    work(dsn, columns=[1])
    swap(dsn, "docs")
    assert [one.id for one in status(dsn, columns=[1])] == [2]


def test_a_dropped_table_and_a_detached_column_break_nothing(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    put(dsn)
    put(dsn, column="second")
    detach(dsn, "docs")
    assert [found.id for found in status(dsn)] == [2]
    db.execute("DROP TABLE docs")
    assert only(dsn).rows == 0
    db.execute("DROP TABLE taskvec.queue_2")
    assert only(dsn).queued == 0


def test_whoever_may_read_the_view_needs_no_more(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    role = f"monitor_{uuid.uuid4().hex}"
    db.execute(f"CREATE ROLE {role} LOGIN")
    theirs = dsn.replace("postgres@", f"{role}@")
    try:
        with pytest.raises(SchemaError, match="GRANT USAGE ON SCHEMA taskvec"):
            status(theirs)
        db.execute(f"GRANT USAGE ON SCHEMA taskvec TO {role}")
        db.execute(f"GRANT SELECT ON taskvec.status TO {role}")
        assert only(theirs).rows == ROWS
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_polling_reads_no_users_table(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    work(dsn)
    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        assert only(dsn).coverage == 100.0


def samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("column", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_the_figures(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn, column='na"me\\')
    work(dsn)
    db.execute("ANALYZE docs")
    db.execute("UPDATE docs SET text = 'new' WHERE id <= 20")
    found = samples(metrics_text(dsn))
    name = 'na"me\\'
    assert found["taskvec_up", ""] == 1
    assert found["taskvec_rows", name] == ROWS
    assert found["taskvec_coverage_ratio", name] == pytest.approx(0.9)
    assert found["taskvec_queue_rows", name] == 20
    assert found["taskvec_rows_embedded_total", name] == ROWS
    assert found["taskvec_rows_failed_total", name] == 0
    assert found["taskvec_column_info", name] == 1


def test_metrics_are_served_on_loopback_and_survive_a_lost_server(
    dsn: str, db: psycopg.Connection[Any]
) -> None:
    put(dsn)
    server, thread = serve_metrics(dsn, port=0)
    try:
        assert server.server_address[0] == "127.0.0.1"
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(url) as reply:
            assert 'taskvec_queue_rows{column="embedding"' in reply.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    nowhere = "postgresql://127.0.0.1:1/nowhere"
    assert samples(metrics_text(nowhere)) == {("taskvec_up", ""): 0.0}


def test_a_view_of_another_version_is_made_anew(dsn: str, db: psycopg.Connection[Any]) -> None:
    put(dsn)
    db.execute("DROP VIEW taskvec.status; CREATE VIEW taskvec.status AS SELECT 1 AS old")
    assert only(dsn).id == 1
    assert one(db, "SELECT id FROM taskvec.status") == 1
