"""Queries by themselves, and the same queries while others keep the server full."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp

from benchmarks.progress import say
from benchmarks.serve.asking import ask, connections
from benchmarks.serve.mix import Body
from benchmarks.serve.servers import NAME, Running
from benchmarks.workloads import log_normal_lengths, texts

PAUSE_S = 0.02  # between two queries, as they come in
QUERIES, BULK, BULK_CLIENTS = 64, 64, 4
TURNS = 2
SETTLING_S = 2.0


@dataclass
class Lanes:
    """Seconds of each query. pass_s: the mean forward pass of bulk work meanwhile."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    bulk_tokens_s: float = 0.0
    pass_s: float = float("nan")


def run(server: Running, seconds: float) -> Lanes:
    """Queries for so many seconds by themselves and as many beside bulk work, by turns."""
    return asyncio.run(_run(server, seconds))


async def _run(server: Running, seconds: float) -> Lanes:
    lanes, before = Lanes(), await _figures(server)
    begun = busy_s = 0.0
    async with connections() as session:
        await _queries(session, server.url, 1.0)
        for turn in range(TURNS):
            lanes.alone += await _queries(session, server.url, seconds / TURNS)
            async with _saturated(server.url):
                await asyncio.sleep(SETTLING_S)
                begun = time.perf_counter()
                lanes.beside += await _queries(session, server.url, seconds / TURNS)
                busy_s += time.perf_counter() - begun + SETTLING_S
            say(f"turn {turn + 1} of {TURNS}: {len(lanes.alone)} and {len(lanes.beside)} queries")
    after = await _figures(server)
    passes = after["taskvec_batches_total"] - before["taskvec_batches_total"]
    if passes:
        spent = after["taskvec_model_seconds_total"] - before["taskvec_model_seconds_total"]
        lanes.pass_s = spent / passes
    tokens = after["taskvec_tokens_total"] - before["taskvec_tokens_total"]
    lanes.bulk_tokens_s = tokens / busy_s
    return lanes


async def _queries(session: aiohttp.ClientSession, url: str, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    for number, text in enumerate(_forever(texts([12] * QUERIES))):
        if time.perf_counter() > end and number:
            return taken
        body = {"model": NAME, "input": [text], "task": "retrieval.query"}
        taken.append((await ask(session, url, body)).seconds)
        await asyncio.sleep(PAUSE_S)
    return taken


@asynccontextmanager
async def _saturated(url: str) -> AsyncIterator[None]:
    """A few clients that send batches of passages without a pause."""
    lengths = log_normal_lengths(BULK, median=60, longest=400)
    body: Body = {"model": NAME, "input": texts(lengths), "task": "retrieval.passage"}
    async with connections() as session:
        clients = [asyncio.create_task(_endless(session, url, body)) for _ in range(BULK_CLIENTS)]
        try:
            yield
        finally:
            for client in clients:
                client.cancel()
                with suppress(asyncio.CancelledError):
                    await client


async def _endless(session: aiohttp.ClientSession, url: str, body: Body) -> None:
    while True:
        await ask(session, url, body, "bulk")


async def _figures(server: Running) -> Mapping[str, float]:
    """The bulk lane's counters."""
    mark = '{lane="bulk"}'
    async with connections() as session, session.get(f"{server.base}/metrics") as response:
        lines = (await response.text()).splitlines()
    pairs = (line.split() for line in lines if mark in line and not line.startswith("#"))
    return {name.removesuffix(mark): float(value) for name, value in pairs}


def _forever(items: list[str]) -> Iterator[str]:
    while True:
        yield from items
