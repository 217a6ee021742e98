"""Vectors of queries and of chunks, in the steps of a workflow."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from taskvec.core.embedder import Array, Span
from taskvec.core.pooling import cut as shorten
from taskvec.integrations.documents.cutting import sections
from taskvec.integrations.qdrant.documents import Cut
from taskvec.integrations.qdrant.steps import Tools

# Sections that are encoded at once, so that short ones share batches.
AT_ONCE = 8
# The same where they are awaited: fewer than the connections that an HTTP client opens.
AWAITED = 64


@dataclass(frozen=True)
class EncodeQuery:
    """A step that gives the vector (dim,) of a query."""

    text: str
    task: str | None
    dim: int

    def do(self, tools: Tools) -> Array:
        """Encode it, before any bulk work."""
        return tools.embedder.encode(self.text, task=self.task, dim=self.dim, lane="query")

    async def ado(self, tools: Tools) -> Array:
        """`do`, awaited."""
        return await tools.embedder.aencode(self.text, task=self.task, dim=self.dim, lane="query")


@dataclass(frozen=True)
class EncodeChunks:
    """A step that gives the vectors (K, dim) of all chunks of some documents, in order.

    context: how many characters are encoded at once; None encodes each chunk by itself.
    """

    cuts: Sequence[Cut]
    task: str | None
    dim: int
    context: int | None

    def do(self, tools: Tools) -> Array:
        """Encode them, several sections at a time."""
        if self.context is None:
            return tools.embedder.encode(self._chunks(), task=self.task, dim=self.dim)

        def vectors(section: tuple[str, list[Span]]) -> Array:
            text, spans = section
            return tools.embedder.encode_chunks(text, spans, task=self.task, dim=self.dim)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return self._joined(list(pool.map(vectors, self._sections(self.context))))

    async def ado(self, tools: Tools) -> Array:
        """`do`, awaited."""
        embedder = tools.embedder
        if self.context is None:
            return await embedder.aencode(self._chunks(), task=self.task, dim=self.dim)
        room = asyncio.Semaphore(AWAITED)

        async def vectors(text: str, spans: list[Span]) -> Array:
            async with room:
                return await embedder.aencode_chunks(text, spans, task=self.task, dim=self.dim)

        calls = [asyncio.ensure_future(vectors(*some)) for some in self._sections(self.context)]
        try:
            return self._joined(await asyncio.gather(*calls))
        finally:
            for call in calls:  # of which one failed
                call.cancel()

    def _chunks(self) -> list[str]:
        return [chunk for cut in self.cuts for chunk in cut.chunks]

    def _sections(self, context: int) -> Iterator[tuple[str, list[Span]]]:
        for cut in self.cuts:
            yield from sections(cut.text, cut.spans, context)

    def _joined(self, parts: Sequence[Array]) -> Array:
        return np.concatenate([np.zeros((0, self.dim), dtype=np.float32), *parts])


def shortened(vectors: Array, dims: Sequence[int]) -> dict[int, list[list[float]]]:
    """Vectors (K, full) at each dim, as plain floats."""
    return {dim: shorten(vectors, dim).tolist() for dim in dims}
