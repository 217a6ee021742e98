"""The worker: takes shifts on an attached database, for as long as it is let."""

import asyncio
import logging
import random
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg

from taskvec.core import Embedder
from taskvec.core.errors import InputError, StoreError
from taskvec.integrations.connecting import connect
from taskvec.integrations.postgres.faults import BROKEN
from taskvec.integrations.postgres.served import Options, Progress, Served
from taskvec.integrations.postgres.shift import Shift
from taskvec.integrations.postgres.statements import run
from taskvec.integrations.postgres.waking import Waker, listen

LOG = logging.getLogger("taskvec.postgres")
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 30.0
# Of several hosts the one that writes; a standby, and what was the primary until a failover, count
# as unreachable.
PRIMARY = {"target_session_attrs": "primary"}
# A worker that stands still inside a transaction, which takes milliseconds, gives up its locks.
# It gives up waiting for a lock before the server looks for deadlocks (after 1 s, as it
# comes): it can be held up by a user's transaction, but never make one fail. Without row_security
# the server raises where a policy would hide rows from it.
SESSION = """
SET search_path = pg_catalog, pg_temp;
SET lock_timeout = '200ms';
SET row_security = off;
SET default_transaction_isolation = 'read committed';
SET idle_in_transaction_session_timeout = '30s';
SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
SET extra_float_digits = 1; SET bytea_output = 'hex';
SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off
"""
# A worker sleeps for long, and how long a write takes is up to the user's triggers. Servers before
# PostgreSQL 17 have no transaction_timeout.
UNTIMED = """
SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN
  ('statement_timeout', 'transaction_timeout', 'idle_session_timeout')
"""
# A worker that is gone without a word holds what it has locked until the server notices.
WATCHED = """
SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '30s'
"""


class Worker:
    """Keeps attached columns right. Any number may run at once, on any number of machines.

    dsn: of the server. `grant` gives the role what it needs. It runs the conditions of the columns
    and the triggers of their tables: trust those who attached them, and let it be no superuser.
    columns: ids that `attach` returned; with each its successor, while that is built and after the
    swap. None is all, those attached later included.
    model, embedder: an encoder in place of the one that each column was attached with.
    batch: rows encoded together. lease_s: how long a killed worker's rows wait for another one.
    poll_s: the longest sleep; notifications end it sooner.
    attempts: failures of a row until it is parked. backfill_rate: rows a second, over all workers.
    on_progress: called after each batch, in the worker's thread.

    Example:
        Worker("postgresql://localhost/app").run()
    """

    def __init__(
        self,
        dsn: str,
        *,
        columns: Sequence[int] | None = None,
        model: str | None = None,
        embedder: Embedder | None = None,
        batch: int = 64,
        lease_s: float = 60.0,
        poll_s: float = 10.0,
        attempts: int = 5,
        backfill_rate: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._dsn = dsn
        self._options = Options(
            columns=None if columns is None else frozenset(columns),
            model=model,
            embedder=embedder,
            batch=batch,
            lease_s=lease_s,
            poll_s=poll_s,
            attempts=attempts,
            backfill_rate=backfill_rate,
            on_progress=on_progress,
        )
        for name in ("batch", "lease_s", "poll_s", "attempts", "backfill_rate"):
            value = getattr(self._options, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} {value!r}: give more than 0")
        self._lease = uuid.uuid4()
        self._stopping = threading.Event()
        self._waker: Waker | None = None
        self._served: dict[int, Served] = {}
        self._told: dict[int, str] = {}
        self._reached = False

    def run(self, *, until_empty: bool = False) -> None:
        """Work until `stop` is called; the batch in hand is finished.

        until_empty: return when all rows are embedded or parked. Raises StoreError where what is
        left has been in trouble for a minute, say for want of disk.
        A column whose table, key or columns are gone, that the role lacks a right for, or whose
        rows policies may hide from it, is told of in the log, once, and left alone.
        Raises FingerprintError where a column was made by another model, SchemaError where this
        role may not read the registry at the start, and StoreError where the
        server cannot be reached at the start, or is a standby. Later, lost connections are made
        anew.
        """
        losses = 0
        with self._awake() as waker, ThreadPoolExecutor(1, "taskvec-encode") as encoding:
            while not self._stopping.is_set():
                shift: Shift | None = None
                try:
                    with self._shift(encoding, waker) as shift:
                        shift.work(until_empty=until_empty)
                        return
                except BROKEN as error:
                    if not self._reached:
                        raise StoreError(str(error).strip()) from error
                    went_well = shift is not None and shift.went_round
                    losses = 1 if went_well else losses + 1
                    waker.wait(_backoff_s(losses, error))

    async def arun(self, *, until_empty: bool = False) -> None:
        """`run`, in a thread of its own. Cancelled, it finishes the batch in hand and ends."""
        running = asyncio.ensure_future(asyncio.to_thread(self.run, until_empty=until_empty))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([running])
            raise

    def stop(self) -> None:
        """Let `run` return after the batch in hand. From any thread or signal handler."""
        self._stopping.set()
        waker = self._waker
        if waker is not None:
            waker.wake()

    @contextmanager
    def _awake(self) -> Iterator[Waker]:
        """A waker for one run. `stop` sets its event first, so that none is missed."""
        if self._waker is not None:
            raise InputError("this worker runs already: make another one")
        self._waker = waker = Waker()
        try:
            yield waker
        finally:
            self._waker = None
            waker.close()

    @contextmanager
    def _shift(self, encoding: Executor, waker: Waker) -> Iterator[Shift]:
        with connect(self._dsn, **PRIMARY) as conn, connect(self._dsn, **PRIMARY) as listener:
            run(conn, SESSION)
            for one in (conn, listener):
                run(one, UNTIMED)
                run(one, WATCHED)
            listen(listener)
            is_first, self._reached = not self._reached, True
            yield Shift(
                options=self._options,
                conn=conn,
                listener=listener,
                encoding=encoding,
                lease=self._lease,
                stopping=self._stopping,
                waker=waker,
                served=self._served,
                told=self._told,
                is_first=is_first,
            )


def _backoff_s(losses: int, error: psycopg.Error) -> float:
    """Before a new connection: longer each time, and never quite as long as other workers'."""
    LOG.warning("the connection was lost, trying again: %s", error)
    pause = min(FIRST_BACKOFF_S * 2.0 ** min(losses, 20), LONGEST_BACKOFF_S)
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
