"""What the command prints: results on standard output, progress on standard error."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from taskvec.integrations.extras import needs_extra

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

WIDTH_UNKNOWN = 100


def output() -> "Console":
    """The console of results; text goes through it literally, whatever it contains."""
    return _console(stderr=False)


def errors() -> "Console":
    """The console of progress and warnings."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> "Console":
    with needs_extra("the taskvec command", "cli"):
        from rich.console import Console
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDTH_UNKNOWN
    return console


def program_name() -> str:
    """What to type for this command here: its name, or its path where no folder of PATH has it."""
    if shutil.which("taskvec"):
        return "taskvec"
    script = Path(sys.argv[0])
    if script.name != "taskvec":
        return "python -m taskvec.integrations.cli"
    return os.path.relpath(script) if script.is_absolute() else str(script)


class Bar:
    """One progress bar: steps done out of a total, and a note after them."""

    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Go on by some steps, and show another note."""
        self._progress.advance(self._task, steps)
        if note is not None:
            self._progress.update(self._task, note=note)


@contextmanager
def progress_bars() -> Iterator["Progress"]:
    """A display of progress bars on standard error, drawn only where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed

    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        Elapsed(),
    )
    console = errors()
    with Progress(*columns, console=console) as progress:
        yield progress


def add_bar(progress: "Progress", label: str, *, total: int | None = None) -> Bar:
    """A new bar in a display."""
    return Bar(progress, progress.add_task(label, total=total, note=""))
