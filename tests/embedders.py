"""Encoders for tests of what is around them: one by hash with faults on request, one that notes."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskvec.core.embedder import Array, Embedder, Lane, Overflow, Span, TaskArgument
from taskvec.core.stats import LaneStats, Stats


def vector_of(text: str, task: TaskArgument = "retrieval.passage", dim: int = 8) -> Array:
    """The one vector (dim,) that a text has under a task."""
    digest = hashlib.shake_256(f"{task}\0{text}".encode("utf-8", "surrogatepass")).digest(dim)
    raw = np.frombuffer(digest, dtype=np.uint8).astype(np.float32) - 127.5
    vector: Array = raw / np.linalg.norm(raw)
    return vector


class StubEmbedder:
    """An Embedder that calls `before` with the texts of each encoding, and counts them."""

    tasks = ("retrieval.query", "retrieval.passage")
    dims = (8, 16)
    dim = 8
    max_tokens = 8_192

    def __init__(self, before: Callable[[list[str]], None] | None = None, name: str = "stub"):
        self._before = before
        self._name = name
        self._counting = threading.Lock()
        self.calls: list[list[str]] = []

    @property
    def encoded(self) -> list[str]:
        """All texts that were encoded, in order."""
        return [text for call in self.calls for text in call]

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        task: TaskArgument = None,
        dim: int | None = None,
        lane: Lane = "bulk",
        overflow: Overflow = "truncate",
        show_progress: bool = False,
    ) -> Array:
        if isinstance(texts, str):
            return vector_of(texts, task, dim or self.dim)
        with self._counting:
            self.calls.append(list(texts))
        if self._before:
            self._before(list(texts))
        rows = [vector_of(text, task, dim or self.dim) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(rows), dim or self.dim)

    async def aencode(
        self, texts: str | Sequence[str], *, wait: bool = True, **options: Any
    ) -> Array:
        return await asyncio.to_thread(self.encode, texts, **options)

    def encode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
    ) -> Array:
        parts = [document[first:last] for first, last in spans]
        return self.encode(parts, task=task, dim=dim)

    async def aencode_chunks(
        self, document: str, spans: Sequence[Span], *, wait: bool = True, **options: Any
    ) -> Array:
        return await asyncio.to_thread(self.encode_chunks, document, spans, **options)

    def count_tokens(self, texts: Sequence[str], *, task: TaskArgument = None) -> list[int]:
        return [1 + len(text) // 4 for text in texts]

    def stats(self) -> Stats:
        lane = LaneStats(0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0)
        return Stats(1, 1, {"query": lane, "bulk": lane})

    def fingerprint(self, task: str | None = None, dim: int | None = None) -> str:
        return f"{self._name}/{task}/{dim or self.dim}"


@dataclass(frozen=True)
class Call:
    """What an encoder was asked for: texts, or the parts of a document."""

    texts: list[str]
    task: TaskArgument
    dim: int | None
    lane: Lane | None


class RecordingEmbedder:
    """An encoder that notes what it is asked for."""

    def __init__(self, encoder: Embedder) -> None:
        self._encoder = encoder
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    @property
    def tasks_used(self) -> set[TaskArgument]:
        return {call.task for call in self.calls}

    def encode(self, texts: Sequence[str], **options: Any) -> Array:
        self._note(texts, options)
        return self._encoder.encode(texts, **options)

    async def aencode(self, texts: Sequence[str], **options: Any) -> Array:
        self._note(texts, options)
        return await self._encoder.aencode(texts, **options)

    def encode_chunks(self, document: str, spans: Sequence[Span], **options: Any) -> Array:
        self._note([document[first:last] for first, last in spans], options)
        return self._encoder.encode_chunks(document, spans, **options)

    async def aencode_chunks(self, document: str, spans: Sequence[Span], **options: Any) -> Array:
        self._note([document[first:last] for first, last in spans], options)
        return await self._encoder.aencode_chunks(document, spans, **options)

    def _note(self, texts: Sequence[str], options: dict[str, Any]) -> None:
        self.calls.append(Call(list(texts), options["task"], options["dim"], options.get("lane")))
