"""Many clients at once for a while: what they waited for, and what the encoder does alone."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.progress import say
from benchmarks.serve.asking import Answer, FaultError, ask, connections
from benchmarks.serve.mix import Body, Mix

SLICE = 64  # requests whose texts the encoder in process gets at once


@dataclass
class Load:
    """What came of it. seconds: until the last request was answered. faults: by what they were.

    alone: tokens per second of the encoder in process on the same texts.
    """

    clients: int
    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    alone: float = float("nan")

    @property
    def tokens_s(self) -> float:
        """Tokens that the server encoded per second."""
        return sum(answer.tokens for answer in self.answers) / self.seconds

    @property
    def busy(self) -> int:
        """Refusals with 429, each of which was followed by its pause."""
        return sum(answer.busy for answer in self.answers)


def run(url: str, clients: int, seconds: float) -> Load:
    """So many clients for so long; requests that have begun by then are waited for."""
    return asyncio.run(_run(url, Load(clients), seconds))


async def _run(url: str, load: Load, seconds: float) -> Load:
    mix, begun = Mix(), time.perf_counter()
    async with connections() as session, asyncio.TaskGroup() as group:
        for seed in range(load.clients):
            client = _client(session, url, mix.requests(seed), begun + seconds, load)
            group.create_task(client)
        group.create_task(_tell(load, begun + seconds))
    load.seconds = time.perf_counter() - begun
    return load


async def _client(
    session: aiohttp.ClientSession,
    url: str,
    requests: Iterator[tuple[str, Body]],
    end: float,
    load: Load,
) -> None:
    for kind, body in requests:
        if time.perf_counter() >= end:
            return
        try:
            load.answers.append(await ask(session, url, body, kind))
        except FaultError as fault:
            load.faults[str(fault)] += 1
            await asyncio.sleep(1)


async def _tell(load: Load, end: float) -> None:
    while time.perf_counter() < end:
        await asyncio.sleep(min(10.0, max(0.0, end - time.perf_counter())))
        say(f"{len(load.answers)} answered, {load.busy} busy, {load.faults.total()} faults")


class Alone:
    """Lives in a worker: the encoder in process, given the same requests' texts."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from taskvec.core import Encoder  # noqa: PLC0415 - loads torch, which only workers may

        self._encoder = Encoder.load(folder, device="cpu", dtype=dtype)

    def tokens_s(self, requests: Sequence[tuple[Body, int]], seconds: float) -> float:
        """Tokens per second over requests, as many as the seconds suffice for."""
        asyncio.run(self._encode([body for body, _ in requests[:SLICE]]))
        tokens, begun = 0, time.perf_counter()
        for start in range(0, len(requests), SLICE):
            part = requests[start : start + SLICE]
            asyncio.run(self._encode([body for body, _ in part]))
            tokens += sum(count for _, count in part)
            if time.perf_counter() - begun > seconds:
                break
        return tokens / (time.perf_counter() - begun)

    async def _encode(self, bodies: Sequence[Body]) -> None:
        """All texts in one call, beside it each document to chunk late."""
        from taskvec.integrations.server.embeddings import join_chunks  # noqa: PLC0415

        plain = [body for body in bodies if not body.get("late_chunking")]
        texts = [text for body in plain for text in body["input"]]
        tasks = [body["task"] for body in plain for _ in body["input"]]
        late = [body for body in bodies if body.get("late_chunking")]
        calls: list[Any] = [self._encoder.aencode(texts, task=tasks)]
        for body in late:
            document, spans = join_chunks(body["input"])
            calls.append(self._encoder.aencode_chunks(document, spans, task=body["task"]))
        await asyncio.gather(*calls)
