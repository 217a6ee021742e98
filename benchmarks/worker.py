"""A process for each contender, told over a pipe what to do.

OpenMP gives every thread that starts a parallel region a pool of its own, and as soon as the pools
of one process hold more threads than the machine has CPUs, they sleep at barriers where they spun
before: contenders in one process slow each other down by up to three times. So each lives alone,
and the process that tells them what to do never computes.
"""

import functools
import importlib
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
START_S, CALL_S = 600.0, 1200.0


class WorkerError(Exception):
    """A worker failed, died, or did not answer in time; the message says which."""


class Worker:
    """An object that lives in another process.

    target: "package.module:name" of what is called there with `arguments` to make the object.
    environment: the process's variables. log: where its output goes.
    """

    def __init__(
        self, target: str, *arguments: object, environment: Mapping[str, str], log: Path
    ) -> None:
        self._log = log
        self._pipe, theirs = Pipe()
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._send((target, arguments))

    def ready(self) -> None:
        """Wait until the object is made. Raises WorkerError."""
        self._answer(START_S)

    def call(self, method: str, *arguments: object) -> Any:
        """What the object's method returns. Raises WorkerError."""
        self._send((method, arguments))
        return self._answer(CALL_S)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: tuple[str, tuple[object, ...]]) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise WorkerError(self._death()) from error

    def _answer(self, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                self._process.kill()
                raise WorkerError(f"no answer within {timeout_s:.0f} s")
            good, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerError(self._death()) from error
        if not good:
            raise WorkerError(answer)
        return answer

    def _death(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no output"
        return f"the process ended: {last} (see {self._log})"


def make(target: str, *arguments: object) -> Any:
    """Call what "package.module:name" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def main(handle: int) -> None:
    """Make the object that the first message names, then call a method per message."""
    pipe = Connection(handle)
    target, arguments = pipe.recv()
    made: list[Any] = []
    _answer(pipe, lambda: made.append(make(target, *arguments)))
    while made:
        try:
            method, arguments = pipe.recv()
        except EOFError:  # the other side is done with it
            return
        _answer(pipe, functools.partial(_call, made[0], method, *arguments))


def _call(made: object, method: str, *arguments: object) -> object:
    return getattr(made, method)(*arguments)


def _answer(pipe: Connection, work: Callable[[], object]) -> None:
    answer: tuple[bool, object]
    try:
        answer = True, work()
    except Exception as error:  # noqa: BLE001 - told to the other side, whatever it is
        traceback.print_exc()
        answer = False, f"{type(error).__name__}: {error}".strip().splitlines()[0]
    pipe.send(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
