"""What a waiting caller sees: a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    total: int | None, *, shown: bool, unit: str = "text"
) -> Iterator[Callable[[int], object] | None]:
    """A bar on stderr; gives what to call with the number of units done, None if not shown."""
    if not shown:
        yield None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415 - only where a bar is asked for

    with tqdm(total=total, unit=unit) as bar:
        yield bar.update
