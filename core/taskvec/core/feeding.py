"""How a call reaches the engine: slice by slice, so that tokenizing overlaps the model."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar, get_args

from taskvec.core.embedder import Array, Lane
from taskvec.core.engine import Engine
from taskvec.core.pooling import cut, mean
from taskvec.core.preparing import Job
from taskvec.core.requests import Request
from taskvec.core.waiting import progress_bar

Result = TypeVar("Result")


class Feeder:
    """Feeds an engine. Methods may be called from any thread or event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Queries have a thread of their own, so that none waits for a bulk job's tokens.
        self._aside: dict[Lane, ThreadPoolExecutor] = {
            lane: ThreadPoolExecutor(1, thread_name_prefix=f"taskvec-tokenize-{lane}")
            for lane in get_args(Lane)
        }

    def run(
        self, job: Job, *, dim: int, lane: Lane, wait: bool = True, show_progress: bool = False
    ) -> Array:
        """The vectors of a job, (K, dim). Interrupted by Ctrl-C, it drops what has not run."""
        with self._begun(job, dim, lane, wait, show_progress) as request:
            while not request.ended and (part := next(job.slices, None)):
                more = self._engine.put(request, part, wait=wait)
                wait = True  # a call that has begun is not refused half-way
                if more:
                    more.result()
            request.finished.result()
        return cut(mean(request.sums, request.counts), dim)

    async def arun(
        self,
        prepare: Callable[[], Job],
        *,
        aside: bool,
        dim: int,
        lane: Lane,
        wait: bool = True,
        show_progress: bool = False,
    ) -> Array:
        """`run`, awaited: no thread waits for it, and cancelling it drops what has not run.

        aside: tokenize in a thread of the lane's own, so that the event loop is never held up.
        """
        self._engine.check_open()
        call = partial(self._call, lane, aside)
        job = await call(prepare)
        with self._begun(job, dim, lane, wait, show_progress) as request:
            while not request.ended and (part := await call(partial(next, job.slices, None))):
                more = self._engine.put(request, part, wait=wait)
                wait = True
                if more:
                    await asyncio.wrap_future(more)
            await asyncio.wrap_future(request.finished)
        return cut(mean(request.sums, request.counts), dim)

    def close(self) -> None:
        """End the threads that tokenize."""
        for executor in self._aside.values():
            executor.shutdown(wait=False)

    async def _call(self, lane: Lane, aside: bool, call: Callable[[], Result]) -> Result:
        if not aside:
            return call()
        return await asyncio.get_running_loop().run_in_executor(self._aside[lane], call)

    @contextmanager
    def _begun(
        self, job: Job, dim: int, lane: Lane, wait: bool, show_progress: bool
    ) -> Iterator[Request]:
        with progress_bar(job.rows, shown=show_progress) as progress:
            request = self._engine.begin(
                lane=lane, slots=job.slots, rows=job.rows, dim=dim, wait=wait, progress=progress
            )
            try:
                yield request
            except BaseException as error:
                self._engine.fail(request, error)
                raise
