"""Failures as one sentence on standard error and an exit code; no traceback reaches a user."""

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DEBUG_VARIABLE = "TASKVEC_DEBUG"
INTERRUPTED = 130
PIPE_CLOSED = 141
USAGE = 2
SIGNALLED = 128  # plus the signal, as shells count


class UsageError(Exception):
    """A command line that does not follow the grammar."""


def guarded(action: Callable[[], int]) -> int:
    """Run an action and turn whatever it raises into a sentence and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show some letter of a file should not stop a search.
        sys.stdout.reconfigure(errors="replace")
    try:
        with _ending_as_exceptions():
            code = action()
        sys.stdout.flush()
    except (Ended, KeyboardInterrupt) as told:
        return _stopped(told)
    except BrokenPipeError:
        return _leave_pipe()
    except SystemExit as leaving:
        text = isinstance(leaving.code, str)
        return _report(leaving.code, 1) if text else int(leaving.code or 0)
    except Exception as error:  # noqa: BLE001 - the outermost layer: nothing above it can help
        return _explain(error)
    return code


def _stopped(told: BaseException) -> int:
    if isinstance(told, Ended):
        return _report("ended by a signal", SIGNALLED + told.signal_number)
    return _report(str(told) or "stopped", INTERRUPTED)


class Ended(BaseException):
    """The process was told to end; raised so that context managers clean up first."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def _ending_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `Ended`, so that no server or folder is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        raise Ended(number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    former = {getattr(signal, name): signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def one_line(message: object) -> str:
    """A message on one line, safe to print: white space collapsed, control characters dropped."""
    words = " ".join(str(message).split())
    printable = "".join(letter for letter in words if letter.isprintable())
    return printable.encode("utf-8", "replace").decode("utf-8")


def _explain(error: Exception) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, UsageError):
        return _report(error, USAGE)
    # Late, since the core brings torch and `--help` or a typing mistake should not wait for it.
    from taskvec.core.errors import TaskvecError, status_of

    if isinstance(error, TaskvecError):
        return _report(error, status_of(error).exit_code)
    if isinstance(error, OSError):
        return _report(_system_sentence(error), USAGE)
    kind = type(error).__name__
    return _report(f"{kind}: {error} (set {DEBUG_VARIABLE}=1 for the traceback)", 1)


def _system_sentence(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _report(message: object, code: int) -> int:
    print(f"taskvec: {one_line(message)}", file=sys.stderr)
    return code


def _leave_pipe() -> int:
    # The reader has gone; without this the interpreter complains while it closes stdout.
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = sys.__stdout__
    return PIPE_CLOSED
