"""One suite for every adapter: the right task and dim in each role, and the core's own vectors.

A new adapter is a class with `query` and `passages`, and one line in ADAPTERS.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.adapters.pgvector import PgVectors
from taskvec.adapters.qdrant import enable_inference, points, query_vector
from taskvec.core import Encoder
from taskvec.core.embedder import Array
from taskvec.core.errors import DimensionError, TaskError

TEXTS = ["read a json file", "the lock of a thread", "time and date", "", " ", "nul \0 inside"]
FULL = 32


class LangChain:
    def __init__(self, options: dict[str, Any]) -> None:
        self.embeddings = TaskvecEmbeddings(**options)

    def query(self, text: str) -> Any:
        return self.embeddings.embed_query(text)

    def passages(self, texts: list[str]) -> Any:
        return self.embeddings.embed_documents(texts)


class LangChainAsync(LangChain):
    def query(self, text: str) -> Any:
        return asyncio.run(self.embeddings.aembed_query(text))

    def passages(self, texts: list[str]) -> Any:
        return asyncio.run(self.embeddings.aembed_documents(texts))


class LlamaIndex:
    def __init__(self, options: dict[str, Any]) -> None:
        if "model" in options:
            options = options | {"model_name": options["model"]}
            del options["model"]
        self.embedding = TaskvecEmbedding(**options)

    def query(self, text: str) -> Any:
        return self.embedding.get_query_embedding(text)

    def passages(self, texts: list[str]) -> Any:
        return self.embedding.get_text_embedding_batch(texts)


class LlamaIndexAsync(LlamaIndex):
    def query(self, text: str) -> Any:
        return asyncio.run(self.embedding.aget_query_embedding(text))

    def passages(self, texts: list[str]) -> Any:
        return asyncio.run(self.embedding.aget_text_embedding_batch(texts))


class LlamaIndexOneByOne(LlamaIndex):
    def passages(self, texts: list[str]) -> Any:
        return [self.embedding.get_text_embedding(text) for text in texts]


class Qdrant:
    """Reads vectors out of the store: a query's from its dot products with the axes."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.name = f"taskvec/{options.get('model', 'starter')}"
        self.dim = options.get("dim", FULL)
        self.client = QdrantClient(":memory:")
        enable_inference(self.client, **options)
        params = models.VectorParams(size=self.dim, distance=models.Distance.DOT)
        for collection in ("axes", "texts"):
            self.client.create_collection(collection, vectors_config=params)
        axes = np.eye(self.dim).tolist()
        self.client.upsert(
            "axes", [models.PointStruct(id=i, vector=axis) for i, axis in enumerate(axes)]
        )

    def document(self, text: str) -> models.Document:
        return models.Document(text=text, model=self.name)

    def query(self, text: str) -> Any:
        found = self.client.query_points("axes", self.document(text), limit=self.dim).points
        return [point.score for point in sorted(found, key=lambda point: point.id)]

    def passages(self, texts: list[str]) -> Any:
        made = [models.PointStruct(id=i, vector=self.document(t)) for i, t in enumerate(texts)]
        self.client.upload_points("texts", made)
        found = self.client.retrieve("texts", range(len(texts)), with_vectors=True)
        return [point.vector for point in found]


class QdrantAsync:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    async def used(self, text: str, *, is_query: bool) -> Any:
        client = AsyncQdrantClient(":memory:")
        enable_inference(client, **self.options)
        dim = self.options.get("dim", FULL)
        params = models.VectorParams(size=dim, distance=models.Distance.DOT)
        await client.create_collection("some", vectors_config=params)
        document = models.Document(
            text=text, model=f"taskvec/{self.options.get('model', 'starter')}"
        )
        if not is_query:
            await client.upsert("some", [models.PointStruct(id=0, vector=document)])
            return (await client.retrieve("some", [0], with_vectors=True))[0].vector
        axes = [models.PointStruct(id=i, vector=a) for i, a in enumerate(np.eye(dim).tolist())]
        await client.upsert("some", axes)
        found = (await client.query_points("some", document, limit=dim)).points
        return [point.score for point in sorted(found, key=lambda point: point.id)]

    def query(self, text: str) -> Any:
        return asyncio.run(self.used(text, is_query=True))

    def passages(self, texts: list[str]) -> Any:
        return [asyncio.run(self.used(text, is_query=False)) for text in texts]


class QdrantPoints:
    """The two functions that need no hook in the client."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.for_query = {k: v for k, v in options.items() if k != "passage_task"}
        self.for_points = {k: v for k, v in options.items() if k != "query_task"}

    def query(self, text: str) -> Any:
        return query_vector(text, **self.for_query)

    def passages(self, texts: list[str]) -> Any:
        return [point.vector for point in points(texts, **self.for_points)]


class Pgvector:
    def __init__(self, options: dict[str, Any]) -> None:
        self.vectors = PgVectors(**options)

    def query(self, text: str) -> Any:
        return self.vectors.query(text).to_numpy()

    def passages(self, texts: list[str]) -> Any:
        return [value.to_numpy() for value in self.vectors.passages(texts)]


class PgvectorAsync(Pgvector):
    def query(self, text: str) -> Any:
        return asyncio.run(self.vectors.aquery(text)).to_numpy()

    def passages(self, texts: list[str]) -> Any:
        return [value.to_numpy() for value in asyncio.run(self.vectors.apassages(texts))]


ADAPTERS = [
    LangChain,
    LangChainAsync,
    LlamaIndex,
    LlamaIndexAsync,
    LlamaIndexOneByOne,
    Qdrant,
    QdrantAsync,
    QdrantPoints,
    Pgvector,
    PgvectorAsync,
]

pytestmark = [pytest.mark.parametrize("adapter", ADAPTERS)]


def close(given: Any, expected: Array, tolerance: float = 1e-6) -> bool:
    array = np.asarray(given, dtype=np.float32)
    return array.shape == expected.shape and bool(np.abs(array - expected).max() <= tolerance)


def test_query_gets_the_query_task(adapter: Any, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder}).query(TEXTS[0])
    assert close(made, encoder.encode(TEXTS[0], task="retrieval.query"))
    assert not close(made, encoder.encode(TEXTS[0], task="retrieval.passage"), 1e-2)


def test_passages_get_the_passage_task(adapter: Any, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder}).passages(TEXTS)
    assert close(made, encoder.encode(TEXTS, task="retrieval.passage"))
    assert not close(made, encoder.encode(TEXTS, task="retrieval.query"), 1e-2)


def test_dim_arrives_in_both_roles(adapter: Any, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder, "dim": 8})
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="retrieval.query", dim=8))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="retrieval.passage", dim=8))


def test_shorthand_task_serves_both_roles(adapter: Any, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder, "task": "text-matching"})
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="text-matching"))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="text-matching"))


def test_each_role_takes_a_task_of_its_own(adapter: Any, encoder: Encoder) -> None:
    options = {"query_task": "separation", "passage_task": "classification"}
    made = adapter({"embedder": encoder} | options)
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="separation"))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="classification"))


def test_no_task_means_base_weights(adapter: Any, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder, "query_task": None, "passage_task": None})
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0]))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS))


def test_model_name_finds_the_shared_encoder(
    adapter: Any, encoder: Encoder, checkpoint: Path
) -> None:
    made = adapter({"model": str(checkpoint), "dtype": "float32"})
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="retrieval.query"))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="retrieval.passage"))


def test_no_passages_are_no_vectors(adapter: Any, encoder: Encoder) -> None:
    assert adapter({"embedder": encoder}).passages([]) == []


def test_unknown_task_is_refused_at_first_use(adapter: Any, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder, "task": "retrieval"})
    with pytest.raises(TaskError, match="retrieval"):
        made.query(TEXTS[0])
    with pytest.raises(TaskError, match="retrieval"):
        made.passages(TEXTS)


def test_unknown_dim_is_refused_at_first_use(adapter: Any, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder, "dim": 9})
    with pytest.raises(DimensionError, match="9"):
        made.query(TEXTS[0])
    with pytest.raises(DimensionError, match="9"):
        made.passages(TEXTS)


def test_many_threads_each_get_their_own_vectors(adapter: Any, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder})
    texts = [f"list {i} of the queue" for i in range(40)]
    expected = encoder.encode(texts, task="retrieval.query")
    with ThreadPoolExecutor(16) as pool:
        given = list(pool.map(made.query, texts))
    assert close(given, expected, 1e-5)
