"""One thread that serves every caller: requests meet here and share batches.

Callers submit requests from any thread or event loop and wait on a future. The engine's thread
takes rows from two lanes, `query` before `bulk`, fills a batch up to a token budget with
whatever tasks they have, and runs the model.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from taskvec.core.embedder import Array, Lane
from taskvec.core.errors import BusyError, TaskvecError
from taskvec.core.model import Model
from taskvec.core.pooling import mean
from taskvec.core.preparing import Prepared
from taskvec.core.tasks import Task
from taskvec.core.windows import Window

# After so many batches that began with the query lane, one begins with the bulk lane.
QUERY_TURNS = 4


@dataclass(eq=False)
class Request:
    """Rows that one call asked for. The future gives mean vectors, (K, D) float32."""

    sums: Array  # (K, D), one slot per text or span
    counts: Array  # (K,)
    pending: int
    progress: Callable[[int], object] | None = None
    future: "Future[Array]" = field(default_factory=Future)

    def finish(self) -> None:
        """End the request with its mean vectors, unless it has ended already."""
        with suppress(InvalidStateError):
            self.future.set_result(mean(self.sums, self.counts))

    def fail(self, error: BaseException) -> None:
        """End the request with an error, unless it has ended already."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(frozen=True, eq=False)
class Row:
    """One text, or one window of a long one, waiting for its forward pass."""

    window: Window
    task: Task | None
    request: Request


class Engine:
    """Batches the rows of all callers. Every method may be called from any thread."""

    def __init__(self, model: Model, *, token_budget: int) -> None:
        self._model = model
        self._budget = token_budget
        self._lanes: dict[Lane, deque[Row]] = {"query": deque(), "bulk": deque()}
        self._changed = threading.Condition()
        self._model_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._owner = os.getpid()
        self._closed = False
        self._turn = 0

    def submit(
        self,
        prepared: Prepared,
        *,
        lane: Lane,
        progress: Callable[[int], object] | None = None,
    ) -> "Future[Array]":
        """Queue rows; the future gives the mean vectors of their K slots, (K, D).

        Cancelling the future drops the rows that have not run yet. Raises BusyError once closed.
        """
        hidden = self._model.config.hidden
        sums = np.zeros((prepared.slots, hidden), np.float32)
        counts = np.zeros(prepared.slots, np.float32)
        request = Request(sums, counts, len(prepared.rows), progress)
        pairs = zip(prepared.rows, prepared.tasks, strict=True)
        rows = [Row(window, task, request) for window, task in pairs]
        rows.sort(key=lambda row: len(row.window.ids))
        self.check_open()
        if not rows:
            request.future.set_result(sums)
            return request.future
        with self._changed:
            self.check_open()
            self._lanes[lane].extend(rows)
            self._start()
            self._changed.notify()
        return request.future

    def exclusively(self, change: Callable[[Model], None]) -> None:
        """Change the model between two batches. Raises what `check_open` raises."""
        self.check_open()
        with self._model_lock:
            change(self._model)

    def close(self) -> None:
        """Finish what is queued, then end the thread. Closing twice does nothing."""
        if self._owner != os.getpid():
            return
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    def check_open(self) -> None:
        """Raises BusyError once closed, TaskvecError in a process forked after loading."""
        self.check_process()
        if self._closed:
            raise BusyError("the encoder is closed: load it again")

    def check_process(self) -> None:
        """Raises TaskvecError in a process that was forked after loading."""
        if self._owner != os.getpid():
            # Neither this thread nor torch's own survive a fork; waiting for them would hang.
            raise TaskvecError("the encoder was loaded before a fork: load it in the child process")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="taskvec-engine", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while batch := self._next_batch():
            for row, sums in self._serve(batch):
                try:
                    _deliver(row, sums)
                except BaseException as error:  # noqa: BLE001 - a progress bar may raise anything
                    row.request.fail(error)

    def _next_batch(self) -> list[Row]:
        """Wait for rows and take up to the token budget; empty once closed and drained."""
        with self._changed:
            while True:
                batch = self._take()
                if batch or self._closed:
                    return sorted(batch, key=lambda row: len(row.window.ids))
                self._changed.wait()

    def _take(self) -> list[Row]:
        """Rows of the lane whose turn it is; a query never waits for bulk rows in its batch."""
        self._turn += 1
        bulk_first = self._turn % (QUERY_TURNS + 1) == 0
        lanes: tuple[Lane, Lane] = ("bulk", "query") if bulk_first else ("query", "bulk")
        return next((batch for lane in lanes if (batch := self._fill(self._lanes[lane]))), [])

    def _fill(self, queue: deque[Row]) -> list[Row]:
        batch: list[Row] = []
        room = self._budget
        while queue and (not batch or len(queue[0].window.ids) <= room):
            row = queue.popleft()
            if not row.request.future.done():
                batch.append(row)
                room -= len(row.window.ids)
        return batch

    def _serve(self, batch: list[Row]) -> list[tuple[Row, Array]]:
        """Run a batch; on an error halve it, so that only the row at fault fails."""
        try:
            return self._forward(batch)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller of that row
            if len(batch) == 1:
                batch[0].request.fail(error)
                return []
        middle = len(batch) // 2
        return self._serve(batch[:middle]) + self._serve(batch[middle:])

    def _forward(self, batch: list[Row]) -> list[tuple[Row, Array]]:
        with self._model_lock:
            windows = [row.window for row in batch]
            sums = self._model.piece_sums(windows, [row.task for row in batch])
        edges = np.cumsum([len(row.window.pieces) for row in batch])
        return list(zip(batch, np.split(sums, edges[:-1]), strict=True))


def _deliver(row: Row, sums: Array) -> None:
    """Add a row's sums to its request; its last row finishes the request."""
    request = row.request
    for (start, end, slot), vector in zip(row.window.pieces, sums, strict=True):
        request.sums[slot] += vector
        request.counts[slot] += end - start
    request.pending -= 1
    if request.progress:
        request.progress(1)
    if request.pending == 0:
        request.finish()
