"""How statements run: under settings of their own, and without queueing up for a table's lock."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from taskvec.core.errors import StoreError
from taskvec.integrations.postgres.statements import run

Result = TypeVar("Result")

# Whoever waits for a table's strongest lock holds up everybody who comes after: not for long.
LOCK_TIMEOUT_MS = 100
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5
SET = """
SELECT name, setting, set_config(name, $2, true) FROM pg_catalog.pg_settings WHERE name = $1
"""


@contextmanager
def local_settings(conn: psycopg.Connection[Any], settings: Mapping[str, str]) -> Iterator[None]:
    """Inside a transaction: settings until the end of the block; those unknown here are left out.

    After an error they go with the transaction, or with its savepoint.
    """
    former = []
    for name, value in settings.items():
        row = run(conn, SET, name, value).fetchone()
        former += [row[:2]] if row else []
    yield
    for name, value in former:
        run(conn, SET, name, value)


def patiently(
    conn: psycopg.Connection[Any], act: Callable[[], Result], *, wait_s: float, what: str
) -> Result:
    """Do something in a short transaction that waits for no lock, again until it gets them.

    Raises StoreError where somebody holds a lock for longer than wait_s.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            with conn.transaction(), local_settings(conn, {"lock_timeout": str(LOCK_TIMEOUT_MS)}):
                return act()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if time.monotonic() >= end:
                raise StoreError(
                    f"{what} needs a lock that a transaction has held for {wait_s:g} s: end it, "
                    f"or wait for longer ({error.diag.message_primary})"
                ) from error
            time.sleep(random.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S))  # noqa: S311 - no secret


def in_transaction(conn: psycopg.Connection[Any]) -> bool:
    """Whether what is run now belongs to a transaction that the caller ends."""
    idle = conn.info.transaction_status == TransactionStatus.IDLE
    return not (idle and conn.autocommit)
