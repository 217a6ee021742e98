"""One call's share of the engine's work: its rows on the way in, its sums on the way out."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taskvec.core.embedder import Array, Lane
from taskvec.core.windows import Window

if TYPE_CHECKING:
    from taskvec.core.tasks import Task

Progress = Callable[[int], object]


class Request:
    """What one call asked for, and how far it is.

    sums: (K, dim) float32, one slot per text or span, to which rows add. counts: (K,) tokens
    summed. finished: done once all rows have run, or one has failed. queued: tokens that were put
    and have not run, which the lanes keep. more: done once the call should put its next rows.
    """

    def __init__(
        self, *, lane: Lane, slots: int, rows: int, dim: int, progress: Progress | None = None
    ) -> None:
        self.lane = lane
        self.sums: Array = np.zeros((slots, dim), np.float32)
        self.counts: Array = np.zeros(slots, np.float32)
        self.finished: Future[None] = Future()
        self.ended = False
        self.queued = 0
        self.more: Future[None] | None = None
        self._pending = rows
        self._progress = progress
        # Replicas may bring two windows of one document at the same time.
        self._adding = threading.Lock()
        if rows == 0:
            self.end()

    def add(self, window: Window, sums: Array) -> bool:
        """Add the sums of a window's pieces, (P, D). Returns whether this ended the request."""
        if self.ended:
            return False
        dim = self.sums.shape[1]
        with self._adding:
            for (start, end, slot), vector in zip(window.pieces, sums, strict=True):
                self.sums[slot] += vector[:dim]
                self.counts[slot] += end - start
            self._pending -= 1
            if self._progress:
                self._progress(1)
            if self._pending:
                return False
        self.end()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Finish, or fail with an error; nothing happens to a request that has ended."""
        self.ended = True
        with suppress(InvalidStateError):  # cancelled, or ended by another row
            if error is None:
                self.finished.set_result(None)
            else:
                self.finished.set_exception(error)
        self.ask_for_more()

    def ask_for_more(self) -> None:
        """Wake the caller if it waits to put its next rows."""
        more, self.more = self.more, None
        if more:
            with suppress(InvalidStateError):  # cancelled
                more.set_result(None)


@dataclass(eq=False, slots=True)
class Row:
    """One text, or one window of a long one, waiting for its forward pass.

    since: when it was put, in seconds of the engine's clock.
    """

    window: Window
    task: "Task | None"
    request: Request
    tokens: int
    since: float = 0.0
