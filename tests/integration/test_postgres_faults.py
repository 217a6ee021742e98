"""A short fault run, and that its check would see what it looks for."""

from collections import Counter
from typing import Any

import psycopg
import pytest

from benchmarks.postgres.encoder import InstantEncoder
from benchmarks.postgres.faults import (
    CHUNK_CHARACTERS,
    CREATE,
    DIM,
    Plan,
    Verdict,
    check,
    run_faults,
)
from taskvec.integrations.postgres import Worker, attach

TEXT = "The first sentence is about tables and rows. The second one is about locks and leases."


def test_kills_and_a_restart_lose_nothing_while_writers_go_on() -> None:
    verdict = run_faults(Plan(kills=6, restarts=1, rows=60, gap_s=0.3, seed=1))
    assert verdict.kept, str(verdict)
    assert (verdict.killed, verdict.restarted) == (6, 1)
    assert verdict.embedded > 0
    assert verdict.writes["update"] > 0
    assert verdict.writes["delete"] > 0


DAMAGES = {
    "UPDATE docs SET embedding = NULL WHERE id = 1": {"rows with a wrong vector": 1},
    "UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 2) WHERE id = 1": {
        "rows with a wrong vector": 1
    },
    "UPDATE docs SET title = 'unseen' WHERE id = 1": {
        "rows with a wrong vector": 1,
        "rows with wrong chunks": 1,
    },
    "DELETE FROM docs WHERE id = 2": {"chunks of deleted rows": 1},
    "DELETE FROM docs_chunks WHERE id = 1 AND ordinal = 1": {"rows with wrong chunks": 1},
    "UPDATE docs_chunks c SET embedding = o.embedding FROM docs_chunks o"
    " WHERE c.id = 2 AND (o.id, o.ordinal) = (1, 0)": {"chunks with a wrong vector": 1},
    "INSERT INTO taskvec.queue_1 (key_1) VALUES (1)": {"rows left in the queue": 1},
    "INSERT INTO taskvec.queue_1 (key_1, parked) VALUES (1, true)": {"parked rows": 1},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_finds_what_is_damaged(
    dsn: str, conn: psycopg.Connection[Any], damage: str
) -> None:
    conn.autocommit = True
    conn.execute(CREATE)
    conn.execute(
        "INSERT INTO docs VALUES (1, 'long', %s), (2, 'short', NULL), (3, ' ', '')", [TEXT]
    )
    conn.execute("INSERT INTO docs VALUES (4, 'hidden', 'and so without a vector', false)")
    encoder = InstantEncoder()
    attach(
        dsn, "docs", source=["title", "body"], dim=DIM, where="public", embedder=encoder,
        chunks="docs_chunks", chunk_characters=CHUNK_CHARACTERS,
    )  # fmt: skip
    Worker(dsn, embedder=encoder).run(until_empty=True)
    assert _found(conn) == {}
    conn.execute("SET session_replication_role = replica")  # no trigger sees it
    conn.execute(damage)
    assert _found(conn) == DAMAGES[damage]


def _found(conn: psycopg.Connection[Any]) -> dict[str, int]:
    verdict = Verdict(Plan())
    check(conn, verdict)
    assert verdict.kept == (not +verdict.found)
    return dict(+Counter(verdict.found))
