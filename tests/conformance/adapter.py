"""What the conformance suite asks of an adapter, a store or an integration."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskvec.core import Embedder, RemoteEncoder
from taskvec.core.embedder import Span
from taskvec.core.registry import _SHARED

FULL = 32  # the tiny model's dim
AXES = np.eye(FULL, dtype=np.float32)
# Two chunks by paragraph, and a context that tells late chunking from chunks read alone.
DOCUMENT = "open the file and read the list\n\nclose the queue of the thread"


@dataclass(frozen=True)
class Place:
    """What an adapter may use: an empty folder, a database, and encoders behind a URL."""

    folder: Path
    dsn: str
    url_of: Callable[[Embedder], str]


class Adapter:
    """One way from texts to vectors, made for one test. Subclass it and add it to ADAPTERS.

    options: `embedder` or `model` (a folder or a URL), and of `dim`, `task`, `query_task` and
    `passage_task` those that a test sets. What a framework stores is read out of its store, so that
    what it did to a vector shows.

    Beside `query` and `passages`, the suite tests what a class has of these, and no more:
    `chunked`, `asked_by`, `new_cache`.
    """

    # Whether tasks can be chosen; otherwise they are those of retrieval.
    tasks = True
    # Whether `model` may be a folder beside a `dtype`.
    folders = True
    # Texts that cannot come in: "blank", "nul", "surrogate".
    refuses: frozenset[str] = frozenset()
    # From how many threads at once it may be used; 1 where its store is one process's and call's.
    threads = 64
    # Makes an empty cache, which is then given as the option `cache`.
    new_cache: Callable[[], Any] | None = None

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        raise NotImplementedError

    def query(self, text: str) -> Any:
        """The vector (dim,) that a text is looked for with."""
        raise NotImplementedError

    def passages(self, texts: list[str]) -> Any:
        """The vectors (B, dim) that are kept of texts."""
        raise NotImplementedError


class Chunked(Adapter):
    """One that chunks late."""

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        """The spans (K) that a document is cut into, and the vectors (K, dim) that are kept."""
        raise NotImplementedError


class Kept(Adapter):
    """One whose vectors outlive it, and know what made them."""

    def asked_by(self, embedder: Embedder) -> Any:
        """Ask what `passages` kept with another encoder. Raises FingerprintError."""
        raise NotImplementedError


def awaited(coroutine: Any) -> Any:
    """What a coroutine returns, in an event loop of its own, whose connections are closed."""

    async def run() -> Any:
        try:
            return await coroutine
        finally:
            for shared in list(_SHARED.values()):
                if isinstance(shared._loaded, RemoteEncoder):
                    await shared._loaded.aclose()

    return asyncio.run(run())


def paragraphs(document: str) -> list[Span]:
    """The spans of a document's paragraphs."""
    spans, start = [], 0
    for part in document.split("\n\n"):
        spans.append((start, start + len(part)))
        start += len(part) + 2
    return spans
