"""When a server is asked again, and what its refusals become."""

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING

from taskvec.core.errors import CODES, BusyError, InputError, SizeError, TaskvecError

if TYPE_CHECKING:
    import httpx

# Busy, or out for a moment. Encoding changes nothing on the server, so asking twice is safe.
RETRIED = frozenset({429, 502, 503})
# The whole deadline went by for nothing: asked again, the server would do the same work again.
LATE = 504
NOT_FOUND = 404
TOO_LARGE = 413  # said by proxies, too
REFUSED = frozenset({400, NOT_FOUND, 409, TOO_LARGE, 422})
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 20.0


class Retries:
    """The pauses of one request: doubling, with jitter, or as long as the server asks for."""

    def __init__(self, allowed: int) -> None:
        self._left = allowed
        self._pause_s = FIRST_PAUSE_S

    def wait_after(self, failure: TaskvecError, response: "httpx.Response | None" = None) -> None:
        """Sleep before the next attempt; raises `failure` if none is left."""
        time.sleep(self._next_pause_s(failure, response))

    async def await_after(
        self, failure: TaskvecError, response: "httpx.Response | None" = None
    ) -> None:
        """`wait_after`, awaited."""
        await asyncio.sleep(self._next_pause_s(failure, response))

    def _next_pause_s(self, failure: TaskvecError, response: "httpx.Response | None") -> float:
        if self._left == 0:
            raise failure
        self._left -= 1
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        jittered = self._pause_s * random.uniform(0.5, 1)  # noqa: S311 - spreads callers, no secret
        return min(max(jittered, _asked_for_s(response)), LONGEST_PAUSE_S)


def failure_of(url: str, cause: "httpx.Response | Exception") -> TaskvecError:
    """The error that stands for a failed request: a reply with an error status, or no reply."""
    if isinstance(cause, Exception):
        return TaskvecError(f"{url} cannot be reached: {type(cause).__name__}: {cause}")
    detail = detail_of(cause.content) or cause.reason_phrase
    return refusal(url, cause.status_code, detail, code_of(cause.content))


def refusal(name: str, status: int, detail: str, code: str = "") -> TaskvecError:
    """The error that stands for a reply with an error status.

    detail, code: what the reply says of it.
    """
    if status in RETRIED:
        return BusyError(f"{name} is busy ({status}): {detail}")
    if status == LATE:
        return BusyError(f"{name} took too long ({status}): {detail}")
    if status == NOT_FOUND and name.endswith("/v1"):
        return InputError(f"{name} refused the request ({status}): leave out /v1, it is added")
    if status in REFUSED:
        kind = SizeError if status == TOO_LARGE else CODES.get(code, InputError)
        return kind(f"{name} refused the request ({status}): {detail}")
    return TaskvecError(f"{name} failed ({status}): {detail}")


def detail_of(content: str | bytes) -> str:
    """What a server says of an error; "" for a reply that is not in its form."""
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        return ""


def code_of(content: str | bytes) -> str:
    """What a server calls an error; "" for a reply that is not in its form."""
    try:
        return str(json.loads(content)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _asked_for_s(response: "httpx.Response | None") -> float:
    try:
        return float(response.headers["Retry-After"]) if response is not None else 0.0
    except (KeyError, ValueError):
        return 0.0
