"""How a caller waits for the engine: with a result, an interrupt, or a progress bar."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from taskvec.core.embedder import Array


def result_of(future: "Future[Array]") -> Array:
    """The result of a future; an interrupt such as Ctrl-C drops the rows that have not run."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], object] | None]:
    """A bar on stderr; gives what to call with the number of texts done, None if not shown."""
    if not shown:
        yield None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415 - only where a bar is asked for

    with tqdm(total=total, unit="text") as bar:
        yield bar.update
