"""What an attached column costs a writer, beside plain tables in the same run."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import psycopg
from psycopg import sql

from benchmarks.postgres.encoder import DIM, InstantEncoder
from benchmarks.progress import say
from taskvec.integrations.postgres import attach

CREATE = """
CREATE TABLE {table} (id integer PRIMARY KEY, text text, other integer NOT NULL DEFAULT 0,
    embedding {schema}.vector({dim}));
INSERT INTO {table} (id, text, embedding)
SELECT i, 'a text of some words, number ' || i,
    (SELECT array_agg(sin(i + j)) FROM generate_series(1, {dim}) j)::real[]::{schema}.vector
FROM generate_series(1, {rows}) i
"""
# What triggers by statement need: both transition tables, for an UPDATE of whatever column.
STAGED = """
CREATE TABLE staged_queue (id integer PRIMARY KEY, version bigint GENERATED ALWAYS AS IDENTITY);
CREATE FUNCTION staged() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO staged_queue SELECT n.id FROM new_rows n JOIN old_rows o USING (id)
  WHERE n.text IS DISTINCT FROM o.text ON CONFLICT (id) DO UPDATE SET version = DEFAULT;
  RETURN NULL;
END $$;
CREATE TRIGGER staged AFTER UPDATE ON "by statement"
REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows
FOR EACH STATEMENT EXECUTE FUNCTION staged()
"""
PLAIN, AGAIN, ATTACHED, STATEMENT = "plain", "plain again", "attached", "by statement"
TABLES = (PLAIN, AGAIN, ATTACHED, STATEMENT)
# Deleted are the rows that were just inserted.
WRITES = {
    "UPDATE of an unrelated column": "UPDATE {table} SET other = other + 1 WHERE id <= {rows}",
    "UPDATE of a source": "UPDATE {table} SET text = text || '.' WHERE id <= {rows}",
    "INSERT": "INSERT INTO {table} (id, text) SELECT id + {rows}, text FROM {table}",
    "DELETE": "DELETE FROM {table} WHERE id > {rows}",
}
TICK_S = 0.01  # what a system counts CPU time in
BETWEEN = ("TRUNCATE staged_queue", "TRUNCATE taskvec.queue_1", "VACUUM (ANALYZE) {table}")


@dataclass(frozen=True)
class Taken:
    """Seconds of a statement: by the clock, and of the server process' CPU."""

    clock: float
    cpu: float


@dataclass
class Costs:
    """What each write took on each table, repeat by repeat."""

    rows: int
    taken: dict[str, dict[str, list[Taken]]] = field(default_factory=dict)

    def median(self, write: str, table: str) -> float:
        """Seconds of the middle repeat, by the clock."""
        return statistics.median(taken.clock for taken in self.taken[write][table])

    def times(self, write: str, table: str, *, cpu: bool = False) -> list[float]:
        """Times as long as on the plain table, of neighbouring runs, ascending."""
        pairs = zip(self.taken[write][table], self.taken[write][PLAIN], strict=True)
        return sorted(
            ours.cpu / max(plain.cpu, TICK_S) if cpu else ours.clock / plain.clock
            for ours, plain in pairs
        )


def measure(dsn: str, rows: int, repeats: int) -> Costs:
    """Run all writes on all tables in turn; a first round does not count."""
    costs = Costs(rows, {write: {table: [] for table in TABLES} for write in WRITES})
    with psycopg.connect(dsn, autocommit=True) as conn:
        _prepare(conn, dsn, rows)
        for turn in range(repeats + 1):
            say(f"writes: run {turn} of {repeats}")
            for write, statement in WRITES.items():
                # Each table is first and last alike.
                order = TABLES if turn % 2 else TABLES[::-1]
                taken = _round(conn, statement, order, rows)
                for table, one in taken.items() if turn else ():
                    costs.taken[write][table].append(one)
    return costs


def _prepare(conn: psycopg.Connection[Any], dsn: str, rows: int) -> None:
    say(f"writes: filling {len(TABLES)} tables of {rows} rows")
    for table in TABLES:
        conn.execute(
            sql.SQL(CREATE).format(
                table=sql.Identifier(table),
                schema=sql.Identifier("public"),
                dim=sql.Literal(DIM),
                rows=sql.Literal(rows),
            )
        )
    conn.execute(STAGED)
    attach(dsn, ATTACHED, source="text", index="none", existing="keep", embedder=InstantEncoder())


def _round(
    conn: psycopg.Connection[Any], statement: str, order: Sequence[str], rows: int
) -> Mapping[str, Taken]:
    """One write on each table, with empty queues and everything on disk before."""
    server, taken = psutil.Process(conn.info.backend_pid), {}
    for table in order:
        parts = {"table": sql.Identifier(table), "rows": sql.Literal(rows)}
        for before in BETWEEN:
            conn.execute(sql.SQL(before).format(**parts))
        conn.execute("CHECKPOINT")
        cpu, start = _cpu_s(server), time.perf_counter()
        conn.execute(sql.SQL(statement).format(**parts))
        taken[table] = Taken(time.perf_counter() - start, _cpu_s(server) - cpu)
    return taken


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)
