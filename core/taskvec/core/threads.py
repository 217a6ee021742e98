"""Where torch may run: on a replica's own thread, or on one that ends."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def on_own_thread(call: Callable[[], Result]) -> Result:
    """What a call returns or raises, run on a thread that has ended when this returns.

    OpenMP gives every thread that runs a torch operator a pool of its own for as long as that
    thread lives. Once the pools of a process have more threads than the machine has CPUs, all of
    them sleep at barriers instead of spinning, which makes a short query three times slower. So
    nothing runs torch on a caller's thread.

    An interrupt such as Ctrl-C leaves the call to end by itself.
    """
    future: Future[Result] = Future()
    thread = threading.Thread(
        target=_settle, args=(future, call), name="taskvec-torch", daemon=True
    )
    thread.start()
    try:
        return future.result()
    finally:
        if future.done():
            thread.join()
        del future  # no cycle with the traceback of its error


def _settle(future: "Future[Result]", call: Callable[[], Result]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
        future.set_exception(error)
    else:
        future.set_result(result)
