"""A hundred thousand small requests on one server, and whether its memory grows with them."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import orjson
import psutil

from benchmarks.progress import say
from benchmarks.serve.asking import OK, connections
from benchmarks.serve.mix import Body
from benchmarks.serve.servers import NAME, Running
from benchmarks.workloads import TASKS, near_lengths, texts

CLIENTS = 16
SAMPLE, TOLD = 500, 10_000  # requests
# Of the requests. An allocator takes memory in steps, which come late for few requests.
WARM_UP = 0.5
# MiB by 10 000 requests: ten bytes a request.
LEAK = 0.1
MIB = 1 << 20
# One in so many.
WRONG, GONE = 16, 50
REFUSED: tuple[tuple[Body, int], ...] = (
    ({"model": NAME, "input": [1, 2]}, 422),
    ({"model": NAME, "input": "one", "dimensions": 7}, 422),
    ({"model": "gpt", "input": "one"}, 404),
    ({"model": NAME}, 422),
)


@dataclass
class Memory:
    """MiB resident by requests so far. answers: how many of each status; 0 where a client left."""

    requests: list[int] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def warm(self) -> int:
        """The first sample after the warm-up."""
        return int(len(self.mib) * WARM_UP)

    @property
    def growth(self) -> tuple[float, float]:
        """MiB by 10 000 requests after the warm-up: least squares, and twice its standard error.

        Samples of one process hang together, so the true error is larger.
        """
        x, y = np.array(self.requests[self.warm :]) / 1e4, np.array(self.mib[self.warm :])
        (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
        return float(slope), 2 * float(np.sqrt(covariance[0, 0]))

    @property
    def kept(self) -> bool:
        """Whether nothing failed, and no growth beyond LEAK is certain."""
        slope, error = self.growth
        return not self.faults and slope - error < LEAK


def run(server: Running, requests: int) -> Memory:
    """So many requests from a few clients, some of them wrong, some left alone half-way."""
    return asyncio.run(_run(server, requests))


async def _run(server: Running, requests: int) -> Memory:
    async with connections() as session:
        asking = _Asking(session, server, requests)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(asking.client())
    return asking.found


class _Asking:
    """What all clients share."""

    def __init__(self, session: aiohttp.ClientSession, server: Running, requests: int) -> None:
        self.found = Memory()
        self._session, self._server = session, server
        self._numbers = iter(range(1, requests + 1))
        self._pool = texts(near_lengths(256, around=8))
        self._process = psutil.Process(server.pid)

    async def client(self) -> None:
        """Requests, as long as there are any left."""
        found = self.found
        for number in self._numbers:
            try:
                await self._one(number)
            except (aiohttp.ClientError, OSError) as error:
                found.faults[f"{type(error).__name__}: {error}"] += 1
            if number % SAMPLE == 0:
                found.requests.append(number)
                found.mib.append(self._process.memory_info().rss / MIB)
            if number % TOLD == 0:
                say(f"{number} requests: {found.mib[-1]:.1f} MiB")

    async def _one(self, number: int) -> None:
        if number % GONE == 0:
            text = self._pool[number % len(self._pool)]
            await _leave(self._server, text, whole=number % (2 * GONE) == 0)
            self.found.answers[0] += 1
            return
        body, want = self._body(number)
        async with self._session.post(self._server.url, data=orjson.dumps(body)) as response:
            await response.read()
            self.found.answers[response.status] += 1
            if response.status != want:
                self.found.faults[f"{response.status} where {want} was due"] += 1

    def _body(self, number: int) -> tuple[Body, int]:
        """A request, and the status that it ought to have."""
        if number % WRONG == 0:
            return REFUSED[number // WRONG % len(REFUSED)]
        chosen = [self._pool[(number + own) % len(self._pool)] for own in range(1 + number % 4)]
        return {"model": NAME, "input": chosen, "task": TASKS[number % len(TASKS)]}, OK


async def _leave(server: Running, text: str, *, whole: bool) -> None:
    """Hang up before the reply; or before the request is whole."""
    place = urlsplit(server.url)
    body = orjson.dumps({"model": NAME, "input": text})
    head = f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {len(body)}\r\n"
    kind = "Content-Type: application/json\r\n\r\n"
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"{head}{kind}".encode() + (body if whole else body[:-5]))
    await writer.drain()
    writer.close()
