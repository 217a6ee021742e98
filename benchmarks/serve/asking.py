"""Clients: one connection each, one request after the other, and what came of each."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import orjson

OK, BUSY = 200, 429
PATIENCE_S = 330.0
HEADERS = {"Content-Type": "application/json"}


class FaultError(Exception):
    """A request that had neither a reply nor a promised refusal."""


@dataclass(frozen=True)
class Answer:
    """A request that was served. seconds: from the last sending on. busy: 429s before that.

    waited: seconds from the first sending on, with the pauses that the 429s asked for.
    """

    kind: str
    seconds: float
    waited: float
    busy: int
    tokens: int
    body: Mapping[str, Any]


def connections() -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    """A session with a connection for every request in progress."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
        headers=HEADERS,
    )


async def ask(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], kind: str = ""
) -> Answer:
    """Send a request until it is served, no sooner than a busy server says. Raises FaultError."""
    content, busy, first = orjson.dumps(body), 0, time.perf_counter()
    while True:
        begun = time.perf_counter()
        status, headers, reply = await _sent(session, url, content)
        taken = time.perf_counter()
        if status != BUSY:
            break
        busy += 1
        await asyncio.sleep(_pause_s(headers))
    if status != OK:
        raise FaultError(f"{kind or 'request'}: {status} {reply[:200].decode(errors='replace')}")
    found = orjson.loads(reply)
    if len(found["data"]) != len(body["input"]):
        raise FaultError(f"{kind}: {len(found['data'])} vectors for {len(body['input'])} texts")
    tokens = found.get("usage", {}).get("total_tokens", 0)
    return Answer(kind, taken - begun, taken - first, busy, tokens, body)


async def _sent(
    session: aiohttp.ClientSession, url: str, content: bytes
) -> tuple[int, Mapping[str, str], bytes]:
    try:
        async with session.post(url, data=content) as response:
            return response.status, response.headers, await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise FaultError(f"{type(error).__name__}: {error}") from error


def _pause_s(headers: Mapping[str, str]) -> float:
    try:
        return float(headers["Retry-After"])
    except (KeyError, ValueError):
        raise FaultError("429 without a Retry-After in seconds") from None


def percentile(seconds: list[float], share: float) -> float:
    """NaN for none."""
    return float(np.percentile(seconds, share)) if seconds else float("nan")
