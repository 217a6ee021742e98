"""The fault run: workers are killed, the server restarts, writers go on; then all is checked."""

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import psycopg

from benchmarks.postgres import processes
from benchmarks.postgres.encoder import InstantEncoder, hashed
from benchmarks.postgres.server import Server, fresh_server
from benchmarks.progress import say
from taskvec.integrations.documents.cutting import split_spans
from taskvec.integrations.documents.reading import Document
from taskvec.integrations.postgres import attach

DIM = 16
CHUNK_CHARACTERS = 80
DRAIN_S = 180.0
SIGKILLED = -9
CREATE = """
CREATE TABLE docs (id integer PRIMARY KEY, title text, body text,
    public boolean NOT NULL DEFAULT true, other integer NOT NULL DEFAULT 0)
"""
ROWS = """
SELECT id, CASE WHEN public THEN ARRAY[title, body] END, embedding::text FROM docs ORDER BY id
"""
CHUNKS = "SELECT id, ordinal, first, last, text, embedding::text FROM docs_chunks ORDER BY 1, 2"
QUEUE = "SELECT count(*), count(*) FILTER (WHERE parked) FROM taskvec.queue_1"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to happen. gap_s: the mean time between two faults."""

    kills: int = 200
    restarts: int = 20
    workers: int = 4
    writers: int = 4
    rows: int = 500
    gap_s: float = 0.25
    seed: int = 0


@dataclass
class Verdict:
    """What happened, and what was found wrong; nothing, where all promises were kept."""

    plan: Plan
    killed: int = 0
    restarted: int = 0
    ended: list[str] = field(default_factory=list)
    writes: Counter[str] = field(default_factory=Counter)
    embedded: int = 0
    seconds: float = 0.0
    drained_s: float = 0.0
    rows: int = 0
    chunks: int = 0
    found: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> bool:
        """Whether nothing is wrong."""
        return not self.ended and not self.found.total()

    def __str__(self) -> str:
        wrong = [f"{count} {what}" for what, count in sorted(self.found.items()) if count]
        head = "ok" if self.kept else "VIOLATED: " + ", ".join([*self.ended, *wrong])
        writes = ", ".join(f"{count} {name}" for name, count in self.writes.most_common())
        return (
            f"{head}: {self.killed} kills, {self.restarted} restarts, {self.plan.workers} workers, "
            f"{self.plan.writers} writers ({writes}); {self.embedded} embeddings written, drained "
            f"{self.drained_s:.1f} s after the last write; {self.rows} rows and {self.chunks} "
            f"chunks checked; {self.seconds:.0f} s, seed {self.plan.seed}"
        )


@dataclass
class Crew:
    """The processes of a run, each ended by its own id."""

    dsn: str
    plan: Plan
    verdict: Verdict
    workers: list[BaseProcess] = field(default_factory=list)
    writers: list[tuple[BaseProcess, Connection]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([processes.__name__])

    def start(self) -> None:
        """Start all workers and writers."""
        self.workers = [self._worker() for _ in range(self.plan.workers)]
        for number in range(self.plan.writers):
            mine, theirs = self._context.Pipe()
            seed = self.plan.seed * 1_000 + number
            arguments = (self.dsn, seed, self.plan.rows * 2, theirs)
            process = self._context.Process(target=processes.write, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.writers.append((process, mine))

    def kill(self, number: int) -> None:
        """Kill a worker and start another one in its place."""
        if self._end(self.workers[number]):
            self.verdict.killed += 1
        self.workers[number] = self._worker()

    def stop_writers(self) -> None:
        """Tell the writers to end, and take what they did."""
        for process, orders in self.writers:
            try:
                orders.send("stop")
                self.verdict.writes.update(orders.recv())
            except (EOFError, OSError):
                self.verdict.ended.append(f"{process.name} ended by itself")
            process.join()

    def close(self) -> None:
        """End what still runs."""
        for worker in self.workers:
            self._end(worker)
        for process, _ in self.writers:
            process.kill()
            process.join()

    def _worker(self) -> BaseProcess:
        process = self._context.Process(target=processes.serve, args=(self.dsn,), daemon=True)
        process.start()
        return process

    def _end(self, worker: BaseProcess) -> bool:
        worker.kill()
        worker.join()
        if worker.exitcode != SIGKILLED:
            self.verdict.ended.append(f"{worker.name} ended by itself ({worker.exitcode})")
        return worker.exitcode == SIGKILLED


def run_faults(plan: Plan) -> Verdict:
    """Let everything happen on a fresh server, wait until the queue is empty, and check."""
    verdict, start = Verdict(plan), time.monotonic()
    with fresh_server() as server:
        _prepare(server.dsn, plan)
        with _crew(server.dsn, plan, verdict) as crew:
            _disturb(server, crew, plan, verdict)
            crew.stop_writers()
            stopped = time.monotonic()
            _drain(server.dsn, verdict)
            verdict.drained_s = time.monotonic() - stopped
        with psycopg.connect(server.dsn) as conn:
            check(conn, verdict)
    verdict.seconds = time.monotonic() - start
    return verdict


def check(conn: psycopg.Connection[Any], verdict: Verdict) -> None:
    """Compare every row and every chunk with the direct encoding of its row's present text."""
    rows = conn.execute(ROWS).fetchall()
    texts = {id_: _text(parts) for id_, parts, _ in rows}
    for id_, _, stored in rows:
        verdict.found["rows with a wrong vector"] += not _same(stored, texts[id_])
    chunks: dict[int, list[tuple[object, ...]]] = {}
    for id_, *chunk in conn.execute(CHUNKS):
        verdict.chunks += 1
        verdict.found["chunks of deleted rows"] += id_ not in texts
        verdict.found["chunks with a wrong vector"] += not _same(chunk[-1], chunk[-2])
        chunks.setdefault(id_, []).append(tuple(chunk[:-1]))
    for id_, text in texts.items():
        verdict.found["rows with wrong chunks"] += chunks.get(id_, []) != _cut(text)
    left, parked = conn.execute(QUEUE).fetchone() or (0, 0)
    verdict.found["rows left in the queue"] += left - parked
    verdict.found["parked rows"] += parked
    [verdict.embedded] = conn.execute("SELECT done FROM taskvec.columns").fetchone() or (0,)
    verdict.rows = len(rows)


def _prepare(dsn: str, plan: Plan) -> None:
    chance = random.Random(plan.seed)  # noqa: S311 - no secret
    sentence = processes.sentence
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(CREATE)
        rows = [(i * 2, sentence(chance), sentence(chance)) for i in range(plan.rows)]
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO docs (id, title, body) VALUES (%s, %s, %s)", rows)
    attach(
        dsn,
        "docs",
        source=["title", "body"],
        dim=DIM,
        where="public",
        chunks="docs_chunks",
        chunk_characters=CHUNK_CHARACTERS,
        embedder=InstantEncoder(),
    )


@contextmanager
def _crew(dsn: str, plan: Plan, verdict: Verdict) -> Iterator[Crew]:
    crew = Crew(dsn, plan, verdict)
    try:
        crew.start()
        yield crew
    finally:
        crew.close()


def _disturb(server: Server, crew: Crew, plan: Plan, verdict: Verdict) -> None:
    """Kills and restarts in random order, at random moments."""
    chance = random.Random(plan.seed)  # noqa: S311 - no secret
    faults = ["kill"] * plan.kills + ["restart"] * plan.restarts
    chance.shuffle(faults)
    for number, fault in enumerate(faults, 1):
        time.sleep(chance.expovariate(1 / plan.gap_s))
        if fault == "kill":
            crew.kill(chance.randrange(plan.workers))
        else:
            server.restart(chance.choice(["fast", "immediate"]))
            verdict.restarted += 1
        if number % 20 == 0 or number == len(faults):
            say(f"{number} of {len(faults)} faults: {verdict.killed} kills")


def _drain(dsn: str, verdict: Verdict) -> None:
    """Wait until nothing is queued but what is parked."""
    end = time.monotonic() + DRAIN_S
    with psycopg.connect(dsn, autocommit=True) as conn:
        while time.monotonic() < end:
            left, parked = conn.execute(QUEUE).fetchone() or (0, 0)
            done = conn.execute("SELECT backfill_done FROM taskvec.columns").fetchone()
            if left == parked and done == (True,):
                return
            time.sleep(0.1)
    verdict.ended.append(f"the queue was not empty after {DRAIN_S:.0f} s")


def _text(parts: list[str | None] | None) -> str | None:
    """What a row's vector is made of; None for nothing."""
    text = "\n\n".join(part for part in parts or () if part is not None)
    return text if text.strip() else None


def _same(stored: str | None, text: str | None) -> bool:
    """Whether a stored vector is a text's, and there is none where there is no text."""
    if stored is None or text is None:
        return stored is None and text is None
    values = np.array(stored[1:-1].split(","), dtype=np.float32)
    return bool(np.allclose(values, hashed([text], DIM)[0], atol=1e-5))


def _cut(text: str | None) -> list[tuple[object, ...]]:
    """The chunks that a text has: ordinal, first, last, text."""
    if text is None:
        return []
    spans = split_spans(Document(text, marks=()), characters=CHUNK_CHARACTERS)
    return [(n, first, last, text[first:last]) for n, (first, last) in enumerate(spans)]
