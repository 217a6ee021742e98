"""A worker in the foreground: ended by a signal, shown by progress bars, asked for metrics."""

import argparse
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from taskvec.core.errors import InputError
from taskvec.integrations.cli.console import errors, progress_bars
from taskvec.integrations.cli.failures import SIGNALLED
from taskvec.integrations.postgres import Progress, Worker

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

STANDARD_ERROR = 2
SHOW_CURSOR = b"\x1b[?25h\n"  # which progress bars hide


def work(dsn: str, arguments: argparse.Namespace) -> list[Progress]:
    """Run a worker until a signal ends it, or nothing is due. Returns what it did, by column."""
    with ExitStack() as stack:
        # A log gets no bars.
        shown = stack.enter_context(progress_bars()) if errors().is_terminal else None
        bars = _Bars(shown)
        worker = Worker(
            dsn,
            columns=arguments.id,
            model=arguments.model,
            batch=arguments.batch,
            lease_s=arguments.lease,
            poll_s=arguments.poll,
            attempts=arguments.attempts,
            backfill_rate=arguments.backfill_rate,
            on_progress=bars.show,
        )
        if arguments.metrics:
            stack.enter_context(_serving(dsn, arguments))
        stack.enter_context(_stopped_by_signals(worker.stop))
        worker.run(until_empty=arguments.until_empty)
    return list(bars.latest.values())


class _Bars:
    """One bar a column: of its backfill, while that lasts."""

    def __init__(self, bars: "Bars | None") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self.latest: dict[str, Progress] = {}

    def show(self, progress: Progress) -> None:
        self.latest[progress.column] = progress
        if self._bars is not None:
            self._draw(self._bars, progress)

    def _draw(self, bars: "Bars", progress: Progress) -> None:
        task = self._tasks.get(progress.column)
        if task is None:
            task = self._tasks[progress.column] = bars.add_task(progress.column, note="")
        note = f"{progress.rate:.0f} rows/s, {progress.failed} failed"
        if progress.eta_s:
            note += f", about {progress.eta_s:.0f} s left"
        total = max(progress.total, progress.seen)
        bars.update(task, completed=progress.seen, total=total, note=note)


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM or Ctrl-C finishes the batch in hand; whichever comes next ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def finish(*_: object) -> None:
        for number in former:
            signal.signal(number, _leave)
        stop()

    for number in former:
        signal.signal(number, finish)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> None:
    """End the process here and now: an exception would wait for the model, which may hang."""
    told = b"taskvec: ended by a signal\n"
    try:
        os.write(STANDARD_ERROR, SHOW_CURSOR + told if os.isatty(STANDARD_ERROR) else told)
    finally:
        os._exit(SIGNALLED + number)


@contextmanager
def _serving(dsn: str, arguments: argparse.Namespace) -> Iterator[None]:
    from taskvec.integrations.postgres.metrics import serve_metrics

    place = f"{arguments.metrics_address}:{arguments.metrics}"
    try:
        server, thread = serve_metrics(
            dsn, port=arguments.metrics, address=arguments.metrics_address, columns=arguments.id
        )
    except OSError as error:
        raise InputError(f"metrics cannot be served at {place}: {error.strerror}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
