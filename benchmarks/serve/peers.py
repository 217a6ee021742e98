"""The same requests to several servers of the same weights, by turns, in one run."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peers import Vectors
from benchmarks.progress import say
from benchmarks.serve.asking import Answer, ask, connections, percentile
from benchmarks.serve.servers import Running
from benchmarks.workloads import log_normal_lengths, texts

# Vectors of the same weights in float32, whatever computes them.
NEAR = 1e-4
WARM_UP_S = 2.0
POOL = 256


class UnlikeError(Exception):
    """A peer's vectors are others: its times would say nothing."""


@dataclass(frozen=True)
class Round:
    """What one server did with one workload from so many clients at once."""

    server: str
    workload: str
    clients: int
    seconds: float
    answers: tuple[float, ...]

    @property
    def requests_s(self) -> float:
        """Requests answered in a second."""
        return len(self.answers) / self.seconds

    @property
    def p95_s(self) -> float:
        """Of a request."""
        return percentile(list(self.answers), 95)


def workloads() -> dict[str, list[list[str]]]:
    """Inputs of requests, by what they are."""
    passages = texts(log_normal_lengths(POOL, median=60, longest=400))
    groups = [passages[start : start + 8] for start in range(0, POOL, 8)]
    return {"a query of 12 tokens": [[one] for one in texts([12] * POOL)], "8 passages": groups}


def run(servers: Sequence[Running], levels: Sequence[int], seconds: float) -> list[Round]:
    """Every server with every workload from so many clients at once, for so long each.

    Raises UnlikeError where the vectors of the servers differ.
    """
    return asyncio.run(_run(servers, levels, seconds))


async def _run(servers: Sequence[Running], levels: Sequence[int], seconds: float) -> list[Round]:
    await _compare(servers)
    rounds = []
    for clients, (name, inputs) in itertools.product(levels, workloads().items()):
        for server in servers:
            await _round(server, name, inputs, clients, min(WARM_UP_S, seconds))
            made = await _round(server, name, inputs, clients, seconds)
            say(f"{name}, {clients} at once: {server.title} {made.requests_s:.1f} requests/s")
            rounds.append(made)
    return rounds


async def _round(
    server: Running, name: str, inputs: list[list[str]], clients: int, seconds: float
) -> Round:
    """Clients that ask without a pause; what has begun at the end is waited for, and counts."""
    turns = itertools.cycle(inputs)
    begun = time.perf_counter()

    async def client() -> list[Answer]:
        answers = []
        while time.perf_counter() < begun + seconds:
            body = {**server.body, "input": next(turns)}
            answers.append(await ask(session, server.url, body))
        return answers

    async with connections() as session:
        found = await asyncio.gather(*(client() for _ in range(clients)))
    taken = time.perf_counter() - begun
    return Round(
        server.title, name, clients, taken, tuple(one.waited for own in found for one in own)
    )


async def _compare(servers: Sequence[Running]) -> None:
    probes = texts([4, 12, 40, 90, 300])
    found = [await _vectors(server, probes) for server in servers]
    for server, vectors in zip(servers, found, strict=True):
        apart = float(np.abs(vectors - found[0]).max())
        if not apart < NEAR:
            raise UnlikeError(
                f"vectors of {server.title} differ from {servers[0].title}'s by {apart:g}"
            )
        say(f"{server.title}: vectors within {apart:.1e}")


async def _vectors(server: Running, probes: list[str]) -> Vectors:
    async with (
        connections() as session,
        session.post(server.url, json={**server.body, "input": probes}) as response,
    ):
        reply = await response.json()
    if "data" not in reply:
        raise UnlikeError(f"{server.title} gives no vectors: {str(reply)[:200]}")
    return np.array([one["embedding"] for one in reply["data"]], np.float32)
