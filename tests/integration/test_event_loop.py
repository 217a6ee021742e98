"""Awaited calls let the event loop's other tasks go on, however long they take."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document as Passage
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import CharacterTextSplitter
from llama_index.core import Document
from llama_index.core.node_parser import LangchainNodeParser

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.core import Encoder
from taskvec.core.embedder import Array
from taskvec.integrations.langchain import aindex_documents
from taskvec.integrations.llama_index import LateChunkingNodeParser, TaskvecEmbedding
from tests.embedders import StubEmbedder

TEXTS = [f"open the file {i} and read the list of the queue" for i in range(2_000)]
SPLITTER = CharacterTextSplitter(separator="\n\n", chunk_size=60, chunk_overlap=0)
Call = Callable[[Encoder], Awaitable[Any]]


@contextmanager
def without_collector() -> Iterator[None]:
    """A collection of all that a test session has imported stops every thread for long."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def lag(call: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """How long another task waits at most while a call is awaited, and the call takes, in s."""
    gaps = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    gaps.clear()
    begin = time.perf_counter()
    kept = await call()
    length = time.perf_counter() - begin
    # The gap that the call's end lies in counts, too.
    await asyncio.sleep(0.01)
    ticking.cancel()
    del kept  # which takes long, too
    return max(gaps), length


async def check(call: Callable[[], Awaitable[Any]]) -> None:
    """Other tasks wait for a small part of the call at most, unless the machine was busy thrice."""
    await call()  # what is loaded and compiled once
    shares = []
    with without_collector():
        for _ in range(3):
            gap, length = await lag(call)
            shares.append(gap / length)
            if shares[-1] < 0.15:
                return
    pytest.fail(f"largest gaps, as parts of the call: {shares}")


def langchain(encoder: Any) -> Awaitable[Any]:
    return TaskvecEmbeddings(embedder=encoder).aembed_documents(TEXTS)


def llama_index(encoder: Any) -> Awaitable[Any]:
    return TaskvecEmbedding(embedder=encoder).aget_text_embedding_batch(TEXTS)


def joined() -> list[str]:
    return ["\n\n".join(TEXTS[i : i + 50]) for i in range(0, 800, 50)]


def late_nodes(encoder: Any) -> Awaitable[Any]:
    late = LateChunkingNodeParser(LangchainNodeParser(SPLITTER), TaskvecEmbedding(embedder=encoder))
    return late.acall([Document(text=text, id_=str(i)) for i, text in enumerate(joined())])


def late_chunks(encoder: Any) -> Awaitable[Any]:
    store = InMemoryVectorStore(TaskvecEmbeddings(embedder=encoder))
    return aindex_documents(store, [Passage(text) for text in joined()], splitter=SPLITTER)


@pytest.mark.parametrize("call", [langchain, llama_index, late_nodes, late_chunks])
async def test_other_tasks_go_on_while_much_is_encoded(call: Call, encoder: Encoder) -> None:
    await check(lambda: call(encoder))


class Large(StubEmbedder):
    """Has vectors as large as a published model's, and one call's after another's."""

    dims = (512, 1024)
    dim = 1024

    def __init__(self) -> None:
        super().__init__()
        self._device = asyncio.Lock()

    async def aencode(self, texts: Any, **_: Any) -> Array:
        async with self._device:
            await asyncio.sleep(len(texts) / 20_000)
            return np.ones((len(texts), self.dim), dtype=np.float32)


@pytest.mark.parametrize("call", [langchain, llama_index])
async def test_other_tasks_go_on_while_vectors_become_floats(call: Call) -> None:
    await check(lambda: call(Large()))
