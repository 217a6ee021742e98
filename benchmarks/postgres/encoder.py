"""An encoder that answers at once, so that what is around it is measured and nothing else."""

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from taskvec.core.embedder import Array, Lane, Overflow, Span, TaskArgument

DIM = 256


class InstantEncoder:
    """An Embedder whose vectors are the texts' hashes.

    pause_s: the longest of the random pauses before an answer, where one is wanted.
    """

    tasks = ("retrieval.query", "retrieval.passage")
    dims = (16, DIM)
    dim = DIM
    max_tokens = 8_192

    def __init__(self, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        task: TaskArgument = None,  # noqa: ARG002 - Embedder's own
        dim: int | None = None,
        lane: Lane = "bulk",  # noqa: ARG002
        overflow: Overflow = "truncate",  # noqa: ARG002
        show_progress: bool = False,  # noqa: ARG002
    ) -> Array:
        """Unit vectors of texts, the same for every task."""
        if self._pause_s:
            time.sleep(random.uniform(0.0, self._pause_s))  # noqa: S311 - no secret
        several = [texts] if isinstance(texts, str) else texts
        vectors = hashed(several, dim or self.dim)
        return vectors[0] if isinstance(texts, str) else vectors

    async def aencode(self, texts: str | Sequence[str], **options: Any) -> Array:
        """`encode`, awaited."""
        return await asyncio.to_thread(self.encode, texts, **options)

    def encode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
    ) -> Array:
        """Each span's text, encoded by itself."""
        return self.encode([document[first:last] for first, last in spans], task=task, dim=dim)

    async def aencode_chunks(self, document: str, spans: Sequence[Span], **options: Any) -> Array:
        """`encode_chunks`, awaited."""
        return await asyncio.to_thread(self.encode_chunks, document, spans, **options)

    def fingerprint(self, task: str | None = None, dim: int | None = None) -> str:
        """Of the hash."""
        return f"hashed/{task}/{dim or self.dim}"


def hashed(texts: Sequence[str], dim: int) -> Array:
    """The vectors of texts, (B, dim) of unit length."""
    raw = b"".join(hashlib.shake_128(text.encode()).digest(dim) for text in texts)
    values = np.frombuffer(raw, np.uint8).astype(np.float32).reshape(len(texts), dim) - 127.5
    vectors: Array = values / np.linalg.norm(values, axis=1, keepdims=True)
    return vectors
