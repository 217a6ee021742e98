"""What tests of attached Postgres columns share: working, waiting, and looking."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg

from taskvec.core import Embedder
from taskvec.integrations.postgres import Worker
from taskvec.integrations.postgres.shift import UPKEEP_S
from tests.embedders import StubEmbedder, vector_of

# Before a worker's upkeep, which makes good a wake-up that was lost.
DEADLINE_S = UPKEEP_S * 2 / 3
# What a worker asks last before it sleeps is when the next row is due.
ASLEEP = """
SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%min(greatest(not_before, leased_until))%'
AND state = 'idle' AND datname = current_database() AND pid <> pg_backend_pid()
"""


def work(dsn: str, embedder: Embedder | None = None, **options: Any) -> None:
    """Let a worker make everything right."""
    Worker(dsn, embedder=embedder or StubEmbedder(), **options).run(until_empty=True)


@contextmanager
def working(dsn: str, embedder: Embedder | None = None, **options: Any) -> Iterator[Worker]:
    """A worker in a thread, stopped and waited for at the end; what it raises is raised."""
    worker = Worker(dsn, embedder=embedder or StubEmbedder(), **options)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(DEADLINE_S)
    assert not thread.is_alive(), "the worker did not stop"
    if failed:
        raise failed[0]


def until(happened: Callable[[], object], what: str = "it") -> None:
    """Return as soon as something is true; fail where it is not within the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.005)


def one(conn: psycopg.Connection[Any], query: str, *values: object) -> Any:
    """The first value of a query's first row; None without a row."""
    row = psycopg.RawCursor(conn).execute(query, values or None).fetchone()
    return row[0] if row else None


def queued(conn: psycopg.Connection[Any], id_: int = 1) -> int:
    """How many rows wait."""
    return int(one(conn, f"SELECT count(*) FROM taskvec.queue_{id_}"))


def assert_right(
    conn: psycopg.Connection[Any],
    table: str = "docs",
    text: str = "text",
    column: str = "embedding",
    dim: int = 8,
) -> None:
    """Every row's vector is its present text's; rows of no text have none."""
    rows = conn.execute(f"SELECT {text}, {column}::text FROM {table}").fetchall()
    assert rows
    for said, stored in rows:
        if not (said or "").strip():
            assert stored is None, f"a vector without a text: {said!r}"
        else:
            assert stored is not None, f"no vector for {said!r}"
            values = np.array([float(x) for x in stored[1:-1].split(",")])
            np.testing.assert_allclose(values, vector_of(said, dim=dim), atol=2e-3)
