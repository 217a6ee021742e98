"""One thread per replica that serves every caller: requests meet here and share batches.

Callers begin a request, put its rows from any thread or event loop, and wait on its future. The
engine's threads take rows from the lanes, a batch of whatever tasks at a time, and run the model.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

from taskvec.core.embedder import Array, Lane
from taskvec.core.errors import BusyError, TaskvecError
from taskvec.core.lanes import Lanes
from taskvec.core.requests import Progress, Request, Row
from taskvec.core.stats import Counts, LaneStats, Stats

if TYPE_CHECKING:
    from taskvec.core.model import Model
    from taskvec.core.preparing import Slice

# How much may wait in a lane unless the user says otherwise, in batches.
QUEUED_BATCHES = 256
# A call tokenizes its next slice once so few batches of it wait: enough to keep the replicas
# busy meanwhile, and little enough to leave the queue to others.
BATCHES_AHEAD = 8
# Callers that were answered together come again together. An engine that starts on the first of
# them runs two half batches in turn; it waits for the others for this share of a batch's time.
GATHERING = 1 / 8


class Engine:
    """Batches the rows of all callers. Every method may be called from any thread."""

    def __init__(
        self, models: Sequence["Model"], *, token_budget: int, queue_tokens: int | None = None
    ) -> None:
        self._models = tuple(models)
        self._budget = token_budget
        self._bound = queue_tokens or QUEUED_BATCHES * token_budget
        ahead = BATCHES_AHEAD * token_budget * len(self._models)
        self._lanes = Lanes(budget=token_budget, bound=self._bound, ahead=ahead)
        self._counts: dict[Lane, Counts] = {lane: Counts() for lane in get_args(Lane)}
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._owner = os.getpid()
        self._running = 0
        self._idle = 0
        self._awaited = 0
        self._paused = False
        self._closed = False

    def begin(
        self,
        *,
        lane: Lane,
        slots: int,
        rows: int,
        dim: int,
        wait: bool = True,
        progress: Progress | None = None,
    ) -> Request:
        """A request for `slots` vectors that `rows` rows will add to; its rows are put next.

        Raises BusyError once closed, and if the lane is full and the caller will not wait.
        """
        self.check_process()
        request = Request(lane=lane, slots=slots, rows=rows, dim=dim, progress=progress)
        with self._changed:
            self._check_open()
            self._counts[lane].requests += 1
            if not wait:
                self._check_room(lane)
        return request

    def put(self, request: Request, part: "Slice", *, wait: bool = True) -> "Future[None] | None":
        """Queue rows of a request.

        Returns a future that is done once the next rows should be put, or None to put them at
        once. Raises BusyError once closed, or if the rows find no room and the caller will not
        wait; no row of this call is queued then.
        """
        self.check_process()
        now = time.perf_counter()
        pairs = zip(part.windows, part.tasks, strict=True)
        rows = [Row(window, task, request, len(window.ids), now) for window, task in pairs]
        with self._changed:
            self._check_open()
            if request.ended:
                return None
            if not wait:
                self._lanes.check_room(request.lane, sum(row.tokens for row in rows))
            self._counts[request.lane].tokenize_s += part.seconds
            request.more = None if self._lanes.put(request, rows) else Future()
            self._start()
            if self._idle or self._lanes.rows >= self._awaited:
                self._changed.notify_all()
            return request.more

    def fail(self, request: Request, error: BaseException) -> None:
        """End a request with an error, or with what interrupted its caller; drop its rows."""
        with self._changed:
            self._lanes.drop(request)
            if not request.ended:
                request.ended = True  # counted once, whoever else fails it now
                self._count_failure(request.lane, error)
        request.end(error)

    @contextmanager
    def exclusively(self) -> Iterator[tuple["Model", ...]]:
        """The models of all replicas, none of which runs meanwhile.

        Raises what `check_open` raises.
        """
        self.check_process()
        with self._changed:
            self._check_open()
            self._changed.wait_for(lambda: not self._paused)
            self._paused = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._running == 0)
            yield self._models
        finally:
            with self._changed:
                self._paused = False
                self._changed.notify_all()

    def stats(self) -> Stats:
        """What has been done, and what waits."""
        self.check_process()
        with self._changed:
            lanes = {lane: self._lane_stats(lane) for lane in self._counts}
        return Stats(self._budget, self._bound, lanes)

    def close(self) -> None:
        """Finish what is queued, then end the threads. Closing twice does nothing.

        Calls with rows that wait for room, or still to be put, fail with BusyError.
        """
        if self._owner != os.getpid():
            return
        with self._changed:
            self._closed = True
            outside = [call for queue in self._lanes.queues.values() for call in queue.outside]
            self._changed.notify_all()
        for request in outside:
            self.fail(request, BusyError("the encoder was closed while texts waited for room"))
        # Not from an engine's own thread, where the garbage collector may call this.
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def check_open(self) -> None:
        """Raises BusyError once closed, TaskvecError in a process forked after loading."""
        self.check_process()
        self._check_open()

    def check_process(self) -> None:
        """Raises TaskvecError in a process that was forked after loading."""
        if self._owner != os.getpid():
            # Neither these threads nor torch's own survive a fork; waiting for them would hang.
            raise TaskvecError("the encoder was loaded before a fork: load it in the child process")

    def _check_open(self) -> None:
        if self._closed:
            raise BusyError("the encoder is closed: load it again")

    def _check_room(self, lane: Lane) -> None:
        try:
            self._lanes.check_room(lane)
        except BusyError:
            self._counts[lane].refused += 1
            raise

    def _lane_stats(self, lane: Lane) -> LaneStats:
        queue = self._lanes.queues[lane]
        return LaneStats(
            **vars(self._counts[lane]),
            queued_rows=queue.rows,
            queued_tokens=queue.tokens,
            queued_requests=len(queue.outside),
        )

    def _start(self) -> None:
        for model in self._models[len(self._threads) :]:
            name = f"taskvec-engine-{len(self._threads)}"
            thread = threading.Thread(target=self._run, args=(model,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, model: "Model") -> None:
        answered, seconds = 0, 0.0
        while batch := self._next_batch(answered, seconds * GATHERING):
            start = time.perf_counter()
            answered = self._serve(model, batch)
            seconds = time.perf_counter() - start
            del batch  # or its vectors would be kept until the next one comes
            self._ran()

    def _next_batch(self, answered: int, patience_s: float) -> list[Row]:
        """Wait for rows; [] once closed and drained.

        answered: calls that the last batch ended. patience_s: how long to wait for them to come
        again, unless there is a whole batch anyway.
        """
        with self._changed:
            if answered > 1 and not self._lanes.full:
                self._gather(self._lanes.rows + answered, patience_s)
            while not (batch := self._take()):
                if self._closed and not self._paused:
                    return []
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            self._running += 1
            self._count(batch)
        return sorted(batch, key=lambda row: row.tokens)

    def _gather(self, rows: int, patience_s: float) -> None:
        self._awaited = rows
        self._changed.wait_for(
            lambda: self._closed or self._lanes.full or self._lanes.rows >= rows, patience_s
        )
        self._awaited = 0

    def _take(self) -> list[Row]:
        return [] if self._paused else self._lanes.take()

    def _ran(self) -> None:
        with self._changed:
            self._running -= 1
            if self._paused:
                self._changed.notify_all()

    def _count(self, batch: Sequence[Row]) -> None:
        now = time.perf_counter()
        counts = self._counts[batch[0].request.lane]
        counts.texts += len(batch)
        counts.tokens += sum(row.tokens for row in batch)
        counts.wait_s += sum(now - row.since for row in batch)

    def _serve(self, model: "Model", rows: list[Row]) -> int:
        """Run rows; on an error halve them, so that only the request at fault fails.

        Returns how many requests they ended.
        """
        rows = [row for row in rows if not row.request.ended]
        if not rows:
            return 0
        try:
            sums = self._forward(model, rows)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller of that row
            if len(rows) == 1:
                self.fail(rows[0].request, error)
                return 1
        else:
            return self._deliver(rows, sums)
        middle = len(rows) // 2
        return self._serve(model, rows[:middle]) + self._serve(model, rows[middle:])

    def _forward(self, model: "Model", rows: Sequence[Row]) -> Array:
        """Sums of all pieces of all rows, (P, D)."""
        lane = rows[0].request.lane
        start = time.perf_counter()
        try:
            return model.piece_sums([row.window for row in rows], [row.task for row in rows])
        finally:
            seconds = time.perf_counter() - start
            with self._changed:
                self._counts[lane].batches += 1
                self._counts[lane].model_s += seconds
                self._lanes.ran(lane, seconds)

    def _deliver(self, rows: Sequence[Row], sums: Array) -> int:
        start = ended = 0
        for row in rows:
            end = start + len(row.window.pieces)
            try:
                ended += row.request.add(row.window, sums[start:end])
            except BaseException as error:  # noqa: BLE001 - a progress bar may raise anything
                self.fail(row.request, error)
            start = end
        return ended

    def _count_failure(self, lane: Lane, error: BaseException) -> None:
        if isinstance(error, BusyError):
            self._counts[lane].refused += 1
        elif isinstance(error, Exception):
            self._counts[lane].failed += 1
        else:
            self._counts[lane].cancelled += 1
