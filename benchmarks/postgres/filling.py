"""How fast a worker fills a column, and how much memory it takes."""

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil
import psycopg
from psycopg import sql

from benchmarks.postgres.encoder import InstantEncoder
from benchmarks.progress import say
from taskvec.integrations.postgres import Progress, Worker, attach, detach

CREATE = "CREATE TABLE docs (id integer PRIMARY KEY, text text)"
INSERT = """
INSERT INTO docs SELECT i, repeat('a text of some words, number ' || i || '. ', 10)
FROM generate_series(1, {rows}) i
"""
BATCHES = (64, 512)


@dataclass(frozen=True)
class Filled:
    """One worker's work. rss: resident bytes after the first batch, after a tenth, at most."""

    title: str
    rows: int
    batch: int
    seconds: float
    rss_first: int
    rss_tenth: int
    rss_peak: int


def measure(dsn: str, rows: int) -> list[Filled]:
    """Rows that were there before and rows that were written since, at each batch size."""
    found = []
    for batch in BATCHES:
        for title in ("backfill", "new rows"):
            say(f"filling: {rows} rows, {title}, batches of {batch}")
            _prepare(dsn, rows, attached_first=title == "new rows")
            found.append(Filled(title, rows, batch, *_work(dsn, rows, batch)))
            detach(dsn, "docs")
    return found


def work(dsn: str, rows: int, batch: int, results: Connection) -> None:
    """Be the worker: embed everything, send seconds and resident bytes."""
    process = psutil.Process()
    first = tenth = peak = 0

    def tell(progress: Progress) -> None:
        nonlocal first, tenth, peak
        if progress.done:
            held = process.memory_info().rss
            first, peak = first or held, max(peak, held)
            tenth = tenth or (held if progress.done >= rows // 10 else 0)

    worker = Worker(dsn, embedder=InstantEncoder(), batch=batch, on_progress=tell)
    start = time.perf_counter()
    worker.run(until_empty=True)
    results.send((time.perf_counter() - start, first, tenth, peak))


def _prepare(dsn: str, rows: int, *, attached_first: bool) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("DROP TABLE IF EXISTS docs")
        conn.execute(CREATE)
        if attached_first:
            attach(conn, "docs", source="text", index="none", embedder=InstantEncoder())
        conn.execute(sql.SQL(INSERT).format(rows=sql.Literal(rows)))
        if not attached_first:
            attach(conn, "docs", source="text", index="none", embedder=InstantEncoder())
        conn.execute("VACUUM (ANALYZE) docs")
        conn.execute("CHECKPOINT")


def _work(dsn: str, rows: int, batch: int) -> tuple[float, int, int, int]:
    """Run a worker in a process of its own. Raises EOFError where it fails."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(dsn, rows, batch, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        result: tuple[float, int, int, int] = mine.recv()
    finally:
        process.join()
    return result
