"""One connection's worth of work: columns in turn, until there is nothing due."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import psycopg

from taskvec.core import Embedder
from taskvec.core.errors import FingerprintError, StoreError
from taskvec.core.registry import embedder_or_shared
from taskvec.integrations.postgres import backfill, partitions, queue, registry, sweeping, triggers
from taskvec.integrations.postgres.encoding import answers, encode, is_outage
from taskvec.integrations.postgres.faults import BROKEN, DENIED, PASSING, blameless
from taskvec.integrations.postgres.following import follow
from taskvec.integrations.postgres.halving import Outcome, halving
from taskvec.integrations.postgres.queue import Claimed
from taskvec.integrations.postgres.registry import BrokenError, Column, MovedError
from taskvec.integrations.postgres.rights import DeniedError, require_rights
from taskvec.integrations.postgres.seeing import HiddenError, require_all_rows
from taskvec.integrations.postgres.served import REST_S, Options, Served
from taskvec.integrations.postgres.waking import Waker
from taskvec.integrations.postgres.writing import BUSY_PAUSE_S, Made, freeze, write

LOG = logging.getLogger("taskvec.postgres")
UPKEEP_S = 60.0
HEAR_S = 1.0  # between looks at what was notified, while a batch is encoded
HOPELESS = 8  # troubles of a column in a row, a minute
SHORTEST_WAIT_S = 0.01
REGISTRY = 0  # no column's id
NO_REGISTRY = "`taskvec pg grant` gives a role what a worker needs"
OUTAGES = 3  # of an encoder for one column in a row, until its texts are looked at


@dataclass
class Shift:
    """The work of one worker over one pair of connections.

    served and told outlive the shift: what the worker knows of its columns, and what it has said of
    those that it leaves alone, by id; of the registry itself, by REGISTRY. is_first: whether the
    worker has had no shift before. known: the ids of all columns when the registry was last read.
    heard: whether there was a notification since. went_round: whether all columns had their turn.
    """

    options: Options
    conn: psycopg.Connection[Any]
    listener: psycopg.Connection[Any]
    encoding: Executor
    lease: UUID
    stopping: threading.Event
    waker: Waker
    served: dict[int, Served]
    told: dict[int, str]
    is_first: bool
    known: frozenset[int] = frozenset()
    heard: bool = False
    went_round: bool = False
    next_upkeep: float = 0.0

    def work(self, *, until_empty: bool) -> None:
        """Serve the columns in turn until stopped, or until all rows are embedded or parked."""
        self.upkeep(strict=self.is_first)
        for one in self.served.values():
            with suppress(
                psycopg.ProgrammingError, *PASSING, *DENIED
            ):  # the leases end by themselves
                queue.release(self.conn, one.column, self.lease, lost=one.cut_off)
                one.cut_off = False
        while not self.stopping.is_set():
            if time.monotonic() >= self.next_upkeep:
                self.upkeep(strict=False)
            steps = [self.step(one) for one in self._ready()]
            worked = any(steps)
            self.went_round = True
            if not worked and until_empty:
                left = self._left()
                if not left:
                    return
                _require_hope(left)
            self._hear(0.0 if worked else self._wait_s())
            if self.heard:
                self._look_for_new_columns()

    def _hear(self, timeout_s: float) -> None:
        """Wait for a notification, a stop or the time.

        Notifications are taken in however busy it is: a server that cannot send them stands still
        in a transaction, whose snapshot holds up vacuum and CREATE INDEX CONCURRENTLY.
        """
        self.heard |= self.waker.wait(timeout_s, self.listener)

    def upkeep(self, *, strict: bool) -> None:
        """Read the registry, take on new columns, and see that the triggers still fit.

        strict: raise what is wrong with a column, unless it is broken, its rows are hidden or the
        role lacks a right;
        otherwise it is logged and left alone.
        """
        self.next_upkeep = time.monotonic() + UPKEEP_S
        self.heard = False
        self._follow()
        with suppress(*PASSING):
            freeze(self.conn)
        present = self._registry(strict=strict)
        if present is None:
            return
        self.known = frozenset(row["id"] for row in present)
        chosen = self.options.columns
        for gone in self.served.keys() - self.known:
            del self.served[gone]
        for row in registry.meant(present, chosen):
            # A worker that was given the live column's model leaves its successor to others.
            asked = chosen is None or row["id"] in chosen or row["state"] == "live"
            with self._tolerating(row, strict=strict and asked):
                self._take_on(row)
        if strict and chosen:
            self._require(chosen, present)

    def _registry(self, *, strict: bool) -> list[dict[str, Any]] | None:
        """The registry's rows; None, and a line in the log, where this role may not read it."""
        try:
            present = registry.rows(self.conn)
        except psycopg.errors.InsufficientPrivilege as error:
            told = f"{error.diag.message_primary}: {NO_REGISTRY}"
            if strict:
                raise DeniedError(told) from error
            self._tell_once(REGISTRY, "the registry is left alone: %s", told)
            return None
        self.told.pop(REGISTRY, None)
        return present

    def _require(self, chosen: frozenset[int], present: list[dict[str, Any]]) -> None:
        known = {id_ for row in present for id_ in (row["id"], *row["succeeds"])}
        if missing := chosen - known:
            attached = sorted(self.known)
            raise StoreError(f"no columns with ids {sorted(missing)}: attached are {attached}")

    def step(self, one: Served) -> bool:
        """One batch of a column, or a slice of its backfill or sweep. Returns whether any was.

        An error that is no row's fault leaves the column alone for a while, and the others go on.
        """
        try:
            worked = self._serve(one)
        except (MovedError, psycopg.Error) as error:
            if self._lost(error):
                one.rest_in_trouble(error)  # what ended it may be of this column: others go first
                raise
            return self._recover(one, error)
        one.troubles = 0
        return worked

    def _serve(self, one: Served) -> bool:
        claimed = self._claim(one)
        if claimed.results:
            self._handle(one, claimed.results)
        rows = [*claimed.results, *(row for row, _ in claimed.failed)]
        # A suspect row comes alone, however many others are due.
        dry = len(rows) < self.options.batch and not any(row.suspect for row in rows)
        filled = dry and (self._fill(one) or self._sweep(one))
        return bool(rows) or filled

    def _recover(self, one: Served, error: MovedError | psycopg.Error) -> bool:
        """See what a column needs after an error. Returns whether it is to go on at once."""
        if isinstance(error, PASSING):
            LOG.info("%s is locked, trying again shortly: %s", one.column, error)
            one.rest(REST_S)
            return False
        if self._moved(one) or isinstance(error, MovedError):
            LOG.info("%s is read anew: %s", one.column, error)
            return True
        LOG.warning("%s rests for %g s: %s", one.column, one.rest_in_trouble(error), error)
        return False

    def _lost(self, error: Exception) -> bool:
        """Whether an error means that a connection is gone, and not that the server refuses."""
        return isinstance(error, BROKEN) and (self.conn.closed or self.listener.closed)

    def _claim(self, one: Served) -> Outcome[Claimed, Claimed]:
        options = self.options
        with self._noting_a_cut(one):
            claimed = queue.claim(
                self.conn,
                one.column,
                self.lease,
                lease_s=options.lease_s,
                batch=options.batch,
                most_attempts=options.attempts,
            )
        if claimed.failed:
            one.failed += len(claimed.failed)
            self._tell(one)
        return claimed

    @contextmanager
    def _noting_a_cut(self, one: Served) -> Iterator[None]:
        try:
            yield
        finally:
            one.cut_off = self.conn.closed

    def _handle(self, one: Served, rows: list[Claimed]) -> None:
        if any(row.deadly for row in rows):
            self._park(one, *rows)
            return
        try:
            outcome = self._encode(one, rows)
        except Exception as error:
            if not is_outage(error):
                raise
            one.outages += 1
            LOG.warning("the encoder of %s takes no work: %s", one.column, error)
            queue.give_back(self.conn, one.column, rows, self.lease, REST_S)
            one.rest(REST_S)
            return
        one.outages = 0
        try:
            failed = outcome.failed + self._write(one, outcome)
            if failed:
                queue.fail(self.conn, one.column, failed, self.lease, self.options.attempts)
        except MovedError:
            queue.give_back(self.conn, one.column, rows, self.lease)
            raise
        except psycopg.Error:
            if not self.conn.closed:
                queue.give_back(self.conn, one.column, rows, self.lease, REST_S)
            raise
        one.failed += len(failed)
        self._tell(one)

    def _park(self, one: Served, row: Claimed) -> None:
        LOG.warning(
            "%s: row %s is parked, it was in hand when workers or connections ended",
            one.column,
            row.keys,
        )
        queue.park(self.conn, one.column, row, self.lease)
        one.failed += 1
        self._tell(one)

    def _encode(self, one: Served, rows: list[Claimed]) -> Outcome[Claimed, Made]:
        """Encode with nothing held on the server but leases, which are renewed meanwhile."""
        made = self.encoding.submit(_encoded, one, rows)
        renewal_s = self.options.lease_s / 3
        due = time.monotonic() + renewal_s
        while not _finished(made, min(renewal_s, HEAR_S)):
            with suppress(*BROKEN):  # what broke is found again, with no row in hand
                self._hear(0.0)
            if time.monotonic() >= due:
                self._renew(one, rows)
                due = time.monotonic() + renewal_s
        return made.result()

    def _renew(self, one: Served, rows: list[Claimed]) -> None:
        try:
            queue.renew(self.conn, one.column, rows, self.lease, self.options.lease_s)
        except psycopg.Error as error:
            if self.conn.closed:
                raise
            # The next renewal comes before the lease's end.
            LOG.info("leases of %s were not renewed: %s", one.column, error)

    def _write(
        self, one: Served, outcome: Outcome[Claimed, Made]
    ) -> list[tuple[Claimed, Exception]]:
        """Write what was made; a row that the table refuses is found by halving."""
        if not outcome.results:
            return []
        act = partial(
            _written,
            self.conn,
            one.column,
            lease=self.lease,
            most_attempts=self.options.attempts,
        )
        with self._noting_a_cut(one):
            written = halving(outcome.results, act, outage=blameless)
        for fates in written.results:
            one.done += fates["written"]
            one.failed += fates["rewritten"]
        return [(made.row, error) for made, error in written.failed]

    def _moved(self, one: Served) -> bool:
        """Whether a column was detached or renamed; the registry is read again before all else."""
        self.next_upkeep = 0.0
        try:
            with suppress(psycopg.errors.InsufficientPrivilege):  # upkeep tells of it
                registry.require_unmoved(self.conn, one.column)
        except MovedError:
            return True
        return False

    def _fill(self, one: Served) -> bool:
        if one.filled:
            return False
        try:
            state = backfill.advance(
                self.conn, one.column, limit=one.slice, rate=self.options.backfill_rate
            )
        except psycopg.errors.LockNotAvailable:
            one.slice = max(1, one.slice // 8)
            raise
        one.slice = min(one.slice * 2, backfill.SLICE)
        one.filled = state.done and not partitions.look(self.conn, one.column)
        one.seen = state.seen
        self._tell(one)
        return state.moved

    def _sweep(self, one: Served) -> bool:
        if one.swept:
            return False
        one.swept, moved = sweeping.sweep(self.conn, one.column)
        return moved

    def _ready(self) -> list[Served]:
        now = time.monotonic()
        return [one for one in self.served.values() if one.rests_until <= now]

    def _left(self) -> list[Served]:
        """The columns that have something left to do."""
        return [
            one
            for one in self.served.values()
            if not (one.filled and one.swept) or queue.next_due_s(self.conn, one.column) is not None
        ]

    def _wait_s(self) -> float:
        """Until something is due by itself, or the poll."""
        now = time.monotonic()
        times = [self.options.poll_s, self.next_upkeep - now]
        for one in self.served.values():
            if one.rests_until > now:
                times.append(one.rests_until - now)
                continue
            due = queue.next_due_s(self.conn, one.column)
            # What is due and was not claimed is locked by a writer, whose commit is notified.
            times += [] if due is None else [due if due > 0 else BUSY_PAUSE_S]
            times += [] if one.filled and one.swept else [self._fill_pause_s()]
        return max(min(times), SHORTEST_WAIT_S)

    def _fill_pause_s(self) -> float:
        rate = self.options.backfill_rate
        return REST_S if rate is None else min(1.0 / rate, REST_S)

    def _look_for_new_columns(self) -> None:
        self.heard = False
        present = self._registry(strict=False)
        if present is not None and self.known != {row["id"] for row in present}:
            self.upkeep(strict=False)

    def _follow(self) -> None:
        try:
            follow(self.conn)
        except (*PASSING, *DENIED) as error:
            LOG.info("the registry cannot be written, following renames later: %s", error)

    def _take_on(self, row: dict[str, Any]) -> None:
        before = self.served.get(row["id"])
        column = registry.load(self.conn, row)
        require_rights(self.conn, column)
        chunks = [] if column.chunks is None else [column.chunk_table]
        require_all_rows(self.conn, column.table.identifier, *chunks)
        sweeping.look(self.conn, column)
        filled = not partitions.look(self.conn, column) and row["backfill_done"]
        if before is None:
            embedder = embedder_or_shared(self.options.embedder, self.options.model or row["model"])
            _check_fingerprint(column, embedder)
            total = backfill.estimate(self.conn, column)
            self.served[column.id] = Served(column, embedder, total, filled=filled)
        else:
            before.column, before.filled = column, filled
        self._mend_triggers(column)
        self.served[column.id].swept = False
        self.told.pop(column.id, None)

    def _mend_triggers(self, column: Column) -> None:
        if not triggers.outdated(self.conn, column):
            return
        try:
            with self.conn.transaction():
                triggers.install(self.conn, column)
        except psycopg.errors.InsufficientPrivilege:
            LOG.warning(
                "the triggers of %s do not fit its table any more, and this role may not change "
                "them: run a worker as the table's owner, or detach and attach it",
                column,
            )

    @contextmanager
    def _tolerating(self, row: dict[str, Any], *, strict: bool) -> Iterator[None]:
        """One column's trouble is logged, and none of the others' business."""
        try:
            yield
        except PASSING as error:
            LOG.info("column %s is locked, looking again shortly: %s", row["id"], error)
            self.next_upkeep = time.monotonic() + REST_S
        except Exception as error:  # whatever loading a model may raise
            if self._lost(error):
                raise
            self.served.pop(row["id"], None)
            if strict and not isinstance(error, BrokenError | DeniedError | HiddenError):
                raise
            self._tell_once(row["id"], f"column {row['id']} is left alone: %s", str(error))

    def _tell_once(self, of: int, message: str, told: str) -> None:
        if self.told.get(of) != told:
            self.told[of] = told
            LOG.warning(message, told)

    def _tell(self, one: Served) -> None:
        if self.options.on_progress is not None:
            self.options.on_progress(one.progress())


def _written(
    conn: psycopg.Connection[Any],
    column: Column,
    made: Sequence[Made],
    *,
    lease: UUID,
    most_attempts: int,
) -> list[Counter[str]]:
    try:
        return [write(conn, column, made, lease, most_attempts)]
    except StoreError as error:  # copy_rows' word for what the server says
        cause = error.__cause__
        if cause is not None and blameless(cause):
            raise cause from None
        raise


def _require_hope(left: list[Served]) -> None:
    """Raise StoreError where all that is left has been in trouble for too long."""
    if all(one.troubles >= HOPELESS for one in left):
        told = "; ".join(f"{one.column}: {one.trouble}" for one in left)
        raise StoreError(f"there is work left that cannot be done: {told}")


def _encoded(one: Served, rows: list[Claimed]) -> Outcome[Claimed, Made]:
    """What is to be written of rows.

    After some outages in a row the encoder is asked for a word: where it answers, it is the texts,
    or how many they are, that it does not take.
    """
    blamed = one.outages >= OUTAGES and answers(one.embedder, one.column)
    return encode(one.embedder, one.column, rows, blamed=blamed)


def _finished(future: Future[Any], timeout_s: float) -> bool:
    return bool(wait([future], timeout=timeout_s).done)


def _check_fingerprint(column: Column, embedder: Embedder) -> None:
    present = embedder.fingerprint(column.task, column.dim)
    if present != column.fingerprint:
        raise FingerprintError(
            f"{column} was attached with fingerprint {column.fingerprint!r} and this encoder has "
            f"{present!r}: run the worker with model {column.model!r}, or change the column's "
            "model with alter"
        )
