"""Writes a batch's vectors where rows still say what was encoded, and nowhere else."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from taskvec.adapters.pgvector import copy_rows
from taskvec.core.embedder import Array
from taskvec.integrations.postgres.chunks import CHUNK_COLUMNS, Chunk
from taskvec.integrations.postgres.queue import COUNT_FAILED, Claimed, retry_s
from taskvec.integrations.postgres.registry import Column, hold
from taskvec.integrations.postgres.statements import COMMA, each, name, run

# For triggers of the user's, which may say `docs` for `app.docs` and use tables with policies; and
# back, for what is ours.
USERS_PATH = "SET LOCAL search_path TO DEFAULT; SET LOCAL row_security TO DEFAULT"
OWN_PATH = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off"
# What triggers would do at the commit they do now, before the text is looked at again.
NOTHING_LATER = "SET CONSTRAINTS ALL IMMEDIATE"
BUSY_PAUSE_S = 0.2  # how long a row rests that somebody had locked

# Named by the column and emptied at each commit: made once for a connection.
STAGE = """
CREATE TEMP TABLE IF NOT EXISTS {made} (n integer, {texts}, version bigint, hash bytea,
    attempts integer, pause_s float8, fate text, embedding {type}) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS {pieces} (n integer, ordinal integer, first integer, last integer,
    text text, embedding {type}) ON COMMIT DELETE ROWS
"""
# Emptying them leaves their age as it is, and no other session may vacuum them.
AGED = """
SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'
  AND greatest(age(relfrozenxid), mxid_age(relminmxid)) > $1
"""
FREEZE_AGE = 1_000_000  # in transactions; vacuum's own default freezes at 50 times as many
# A row that somebody has locked is left for later: a worker waits for no writer, and so has no part
# in a deadlock. A locked row is 'held'; the statement after it reads what the row says by then.
HOLD = """
UPDATE {made} m SET fate = 'held' FROM (
    SELECT m.n FROM {made} m JOIN {table} d ON {same} FOR NO KEY UPDATE OF d SKIP LOCKED
) h WHERE h.n = m.n
"""
JUDGE = """
UPDATE {made} m SET fate = CASE
    WHEN sha256(convert_to(s.text, 'UTF8')) IS NOT DISTINCT FROM m.hash
    THEN 'written' ELSE 'changed' END
FROM (SELECT {aliased}, {text} AS text FROM {table}) s WHERE m.fate = 'held' AND {same}
"""
LEFT = """
UPDATE {made} m SET fate = CASE
    WHEN EXISTS (SELECT FROM {table} d WHERE {same}) THEN 'busy' ELSE 'gone' END
WHERE fate IS NULL
"""
SET = """
UPDATE {table} d SET {embedding} = m.embedding FROM {made} m
WHERE m.fate = 'written' AND {same} AND NOT coalesce(
    d.{embedding} OPERATOR({vectors}.=) m.embedding, d.{embedding} IS NULL AND m.embedding IS NULL)
"""
# The row's lock is held, so nobody else has changed it since it was judged.
REJUDGE = """
UPDATE {made} m SET fate = 'rewritten' FROM (SELECT {aliased}, {text} AS text FROM {table}) s
WHERE m.fate = 'written' AND {same}
  AND sha256(convert_to(s.text, 'UTF8')) IS DISTINCT FROM m.hash
"""
# In place of what a trigger has just queued, which would count as a writer's new text.
REWRITTEN = """
WITH held AS (
    SELECT m.n FROM {made} m JOIN {queue} q ON {same}
    WHERE m.fate = 'rewritten' FOR UPDATE OF q SKIP LOCKED
)
UPDATE {queue} q SET lease = NULL, leased_until = NULL, attempts = m.attempts, lost = 0,
    error = $1, parked = m.attempts >= $2,
    not_before = now() + make_interval(secs => m.pause_s)
FROM {made} m JOIN held h USING (n) WHERE {same}
"""
# A row that was gone may be back by now, with chunks that another worker has made of it.
DROP_CHUNKS = """
DELETE FROM {chunks} c USING {made} m WHERE {same} AND (m.fate = 'written'
  OR m.fate = 'gone' AND NOT EXISTS (SELECT FROM {table} d WHERE {standing}))
"""
ADD_CHUNKS = """
INSERT INTO {chunks} ({keys}, {columns})
SELECT {values}, {pieces_columns} FROM {pieces} p JOIN {made} m USING (n) WHERE m.fate = 'written'
"""
FINISH = """
WITH held AS (
    SELECT m.n FROM {made} m JOIN {queue} q ON {same} AND q.version = m.version
    WHERE m.fate IN ('written', 'gone') FOR UPDATE OF q SKIP LOCKED
)
DELETE FROM {queue} q USING {made} m JOIN held h USING (n) WHERE {same} AND q.version = m.version
"""
RETURN = """
WITH held AS (
    SELECT m.n FROM {made} m JOIN {queue} q ON {same} AND q.lease = $1
    WHERE m.fate IN ('changed', 'busy') FOR UPDATE OF q SKIP LOCKED
)
UPDATE {queue} q SET lease = NULL, leased_until = NULL, lost = 0,
    not_before = now() + make_interval(secs => CASE m.fate WHEN 'busy' THEN $2 ELSE 0 END)
FROM {made} m JOIN held h USING (n) WHERE {same} AND q.lease = $1
"""
# Those that are noted keep the file that they had: `sweeping.look` tells by it.
PARTITIONS = """
UPDATE taskvec.columns c SET partitions = f.files || c.partitions FROM (
    SELECT jsonb_object_agg(r.oid::text, r.relfilenode::text) AS files FROM pg_class r
    WHERE r.oid IN (SELECT d.tableoid FROM {made} m JOIN {table} d ON {same}
                    WHERE m.fate IN ('written', 'rewritten'))
) f WHERE c.id = $1 AND f.files || c.partitions <> c.partitions
"""
COUNT = """
UPDATE taskvec.columns SET done = done + $2, last_done = now() WHERE id = $1
"""
REWRITES = (
    "RewrittenError: a trigger of {table} gave the row another text when its vector was written: "
    "let it leave the sources alone where an UPDATE sets the vector column alone, then retry"
)


@dataclass(frozen=True)
class Made:
    """A row in hand with what was made of it: a vector (dim,) or None, and chunks."""

    row: Claimed
    vector: Array | None
    chunks: tuple[Chunk, ...] = ()


def write(
    conn: psycopg.Connection[Any],
    column: Column,
    made: Sequence[Made],
    lease: UUID,
    most_attempts: int,
) -> Counter[str]:
    """Write what was made, in one short transaction. Returns how many rows met which fate.

    "written": the row says what was encoded. "changed": it says something else by now, and stays
    queued. "gone": it was deleted. "busy": somebody holds its lock, so it is tried again shortly.
    "rewritten": the write made a trigger of the table change the text, which is encoded again later
    and later, and parked after most_attempts.
    Raises MovedError where the column is no longer what it was: its vectors have no place to go.
    """
    with conn.transaction():
        hold(conn, column)
        step = _Write(conn, column)
        step.stage(made)
        return step.settle(lease, most_attempts)


def freeze(conn: psycopg.Connection[Any]) -> None:
    """Keep a connection's temporary tables from holding back the wraparound of transaction ids."""
    aged = [sql.Identifier("pg_temp", table) for (table,) in run(conn, AGED, FREEZE_AGE)]
    if aged:
        run(conn, "VACUUM (FREEZE) {tables}", tables=COMMA.join(aged))


class _Write:
    """The statements of one write."""

    def __init__(self, conn: psycopg.Connection[Any], column: Column) -> None:
        self.conn = conn
        self.column = column
        self.made = sql.Identifier("pg_temp", f"made_{column.id}")
        self.pieces = sql.Identifier("pg_temp", f"pieces_{column.id}")

    def stage(self, made: Sequence[Made]) -> None:
        """Copy a batch into the temporary tables."""
        count = len(self.column.keys)
        texts = each("key_{i} text", count)
        self._run(STAGE, texts=texts, type=self.column.vector_type)
        keys = [f"key_{i + 1}" for i in range(count)]
        columns = ("n", *keys, "version", "hash", "attempts", "pause_s", "embedding")
        copy_rows(self.conn, self.made, _rows(made), columns=columns)
        if self.column.chunks:
            copy_rows(self.conn, self.pieces, _pieces(made), columns=("n", *CHUNK_COLUMNS))

    def settle(self, lease: UUID, most_attempts: int) -> Counter[str]:
        """Write where rows are still what they were, and clear the queue of those."""
        column = self.column
        own = column.matches("d", "m", cast=True)
        aliased = column.matches("s", "m", own=False, cast=True)
        self._run(HOLD, same=own)
        said = {"same": aliased, "aliased": column.aliased(), "text": column.text()}
        self._run(JUDGE, **said)
        self._run(LEFT, same=own)
        if column.embedding:
            self._set(column.embedding, own)
        if column.chunks:
            self._replace_chunks(own)
        if column.embedding:
            self._run(REJUDGE, **said)
        queued = column.matches("q", "m", own=False, cast=True)
        self._run(FINISH, same=queued)
        self._run(RETURN, lease, BUSY_PAUSE_S, same=queued)
        told = REWRITES.format(table=column.table)
        self._run(REWRITTEN, told, most_attempts, same=queued)
        found = self._run("SELECT fate, count(*) FROM {made} GROUP BY fate")
        fates = Counter(dict(found.fetchall()))
        if column.chunks and column.table.partitioned:
            self._run(PARTITIONS, column.id, same=own)
        run(self.conn, COUNT, column.id, fates["written"])
        if fates["rewritten"]:
            run(self.conn, COUNT_FAILED, column.id, fates["rewritten"])
        return fates

    def _set(self, column: str, same: sql.Composable) -> None:
        vectors = sql.Identifier(self.column.vectors)
        self._run(USERS_PATH)
        self._run(SET, same=same, embedding=sql.Identifier(column), vectors=vectors)
        self._run(NOTHING_LATER)
        self._run(OWN_PATH)

    def _replace_chunks(self, own: sql.Composable) -> None:
        column = self.column.under(self.column.chunk_keys)
        values = [sql.SQL(f"m.key_{i}::{key.type}") for i, key in enumerate(column.keys, 1)]
        chunks = column.chunk_table
        same = column.matches("c", "m", cast=True)
        self._run(DROP_CHUNKS, chunks=chunks, same=same, standing=own)
        self._run(
            ADD_CHUNKS,
            chunks=chunks,
            keys=column.own(),
            columns=COMMA.join(map(sql.Identifier, CHUNK_COLUMNS)),
            values=COMMA.join(values),
            pieces_columns=COMMA.join([name(one, "p") for one in CHUNK_COLUMNS]),
        )

    def _run(
        self, statement: str, *values: object, **parts: sql.Composable
    ) -> psycopg.RawCursor[tuple[Any, ...]]:
        return run(
            self.conn,
            statement,
            *values,
            made=self.made,
            pieces=self.pieces,
            table=self.column.table.identifier,
            queue=self.column.queue,
            **parts,
        )


def _rows(made: Sequence[Made]) -> Iterator[tuple[object, ...]]:
    for n, one in enumerate(made):
        row, attempts = one.row, one.row.attempts + 1
        yield (n, *row.keys, row.version, row.hash, attempts, retry_s(attempts), one.vector)


def _pieces(made: Sequence[Made]) -> Iterator[tuple[object, ...]]:
    for n, one in enumerate(made):
        for chunk in one.chunks:
            yield (n, chunk.ordinal, chunk.first, chunk.last, chunk.text, chunk.vector)
