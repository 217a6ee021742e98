"""What the processes of a fault run do: a worker until it is killed, a writer until it is told."""

import random
import time
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.postgres.encoder import InstantEncoder
from taskvec.core.errors import StoreError
from taskvec.integrations.postgres import Worker

BATCH = 16
LEASE_S = 1.0
PAUSE_S = 0.02
WORDS = """
table row key index lock page vacuum plan cost join scan sort hash merge view cast text null
wal slot lease queue chunk vector trigger schema grant role cursor commit rollback
"""
# A deleted row comes back, a new one may be there already.
INSERT = """
INSERT INTO docs (id, title, body) VALUES (%(id)s, %(title)s, %(text)s) ON CONFLICT DO NOTHING
"""
# In the order of the key, so that writers do not wait for each other in a ring.
SOME = sql.SQL("id IN (SELECT id FROM docs WHERE id >= %(id)s ORDER BY id LIMIT %(n)s FOR UPDATE)")
STATEMENTS = {
    "insert": INSERT,
    "update": "UPDATE docs SET body = %(text)s || id WHERE {some}",
    "retitle": "UPDATE docs SET title = %(title)s WHERE id = %(id)s",
    "blank": "UPDATE docs SET title = NULL, body = ' ' WHERE id = %(id)s",
    "touch": "UPDATE docs SET other = other + 1 WHERE {some}",
    "hide": "UPDATE docs SET public = NOT public WHERE {some}",
    "delete": "DELETE FROM docs WHERE {some}",
    "move": "UPDATE docs SET id = %(to)s WHERE id = %(id)s",
}
WEIGHTS = {"insert": 9, "update": 6, "retitle": 3, "blank": 1, "touch": 2, "hide": 2, "delete": 2,
           "move": 2}  # fmt: skip
REFUSED = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.UniqueViolation,
)


def serve(dsn: str) -> None:
    """Be a worker, started again as a service manager would, until the process is killed."""
    encoder = InstantEncoder(PAUSE_S)
    while True:
        try:
            Worker(dsn, embedder=encoder, batch=BATCH, lease_s=LEASE_S, poll_s=0.5).run()
        except StoreError as error:
            if type(error) is not StoreError:
                raise
            time.sleep(0.1)  # the server is down


def write(dsn: str, seed: int, keys: int, orders: Connection) -> None:
    """Change rows of `docs` until anything is received, then send what was done, counted."""
    chance, done = random.Random(seed), Counter[str]()  # noqa: S311 - no secret
    while not orders.poll():
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                while not orders.poll():
                    done.update(_transaction(conn, chance, keys))
        except psycopg.errors.DeadlockDetected:
            done["deadlock"] += 1
        except (psycopg.OperationalError, psycopg.Rollback):  # one that the connection cut short
            done["connection lost"] += 1
            time.sleep(0.05)
    orders.send(done)


def _transaction(conn: psycopg.Connection[Any], chance: random.Random, keys: int) -> Counter[str]:
    """One transaction of some statements; what of it was committed."""
    names = chance.choices([*WEIGHTS], [*WEIGHTS.values()], k=chance.randint(1, 3))
    old_snapshot, gives_up = chance.random() < 0.25, chance.random() < 0.1
    empties = chance.random() < 0.0005
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ if old_snapshot else None
    try:
        with conn.transaction() as transaction:
            if empties:
                conn.execute("TRUNCATE docs")
                return Counter(["truncate"])
            for name in names:
                conn.execute(sql.SQL(STATEMENTS[name]).format(some=SOME), _values(chance, keys))
            if gives_up:
                raise psycopg.Rollback(transaction)
    except REFUSED as error:
        return Counter([type(error).__name__])
    return Counter(["rollback"]) if gives_up else Counter(names)


def _values(chance: random.Random, keys: int) -> dict[str, object]:
    return {
        "id": chance.randrange(keys),
        "to": chance.randrange(keys),
        "n": chance.randint(1, 5),
        "title": sentence(chance),
        "text": " ".join(sentence(chance) for _ in range(chance.randint(1, 6))),
    }


def sentence(chance: random.Random) -> str:
    """Some words with a full stop."""
    return " ".join(chance.choices(WORDS.split(), k=chance.randint(3, 9))).capitalize() + "."
