"""The adapters, as the conformance suite sees them."""

import uuid
from typing import Any

from langchain_core.stores import InMemoryByteStore
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from taskvec.adapters.langchain import TaskvecEmbeddings, cached
from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.adapters.pgvector import PgVectors
from taskvec.adapters.qdrant import enable_inference, points, query_vector
from taskvec.core.embedder import Span
from tests.conformance.adapter import AXES, FULL, Adapter, Chunked, Place, awaited, paragraphs


class LangChain(Chunked):
    def __init__(self, options: dict[str, Any], place: Place) -> None:
        self.embeddings = TaskvecEmbeddings(**options)

    def query(self, text: str) -> Any:
        return self.embeddings.embed_query(text)

    def passages(self, texts: list[str]) -> Any:
        return self.embeddings.embed_documents(texts)

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        spans = paragraphs(document)
        return spans, self.embeddings.embed_chunks(document, spans)


class LangChainAsync(LangChain):
    def query(self, text: str) -> Any:
        return awaited(self.embeddings.aembed_query(text))

    def passages(self, texts: list[str]) -> Any:
        return awaited(self.embeddings.aembed_documents(texts))

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        spans = paragraphs(document)
        return spans, awaited(self.embeddings.aembed_chunks(document, spans))


class LangChainCached(Adapter):
    new_cache = InMemoryByteStore

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        cache = options.pop("cache", None) or InMemoryByteStore()
        self.embeddings = cached(TaskvecEmbeddings(**options), cache)

    def query(self, text: str) -> Any:
        return self.embeddings.embed_query(text)

    def passages(self, texts: list[str]) -> Any:
        return self.embeddings.embed_documents(texts)


class LlamaIndex(Chunked):
    def __init__(self, options: dict[str, Any], place: Place) -> None:
        self.embedding = embedding_of(options)

    def query(self, text: str) -> Any:
        return self.embedding.get_query_embedding(text)

    def passages(self, texts: list[str]) -> Any:
        return self.embedding.get_text_embedding_batch(texts)

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        spans = paragraphs(document)
        return spans, self.embedding.get_chunk_embeddings(document, spans)


class LlamaIndexAsync(LlamaIndex):
    def query(self, text: str) -> Any:
        return awaited(self.embedding.aget_query_embedding(text))

    def passages(self, texts: list[str]) -> Any:
        return awaited(self.embedding.aget_text_embedding_batch(texts))

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        spans = paragraphs(document)
        return spans, awaited(self.embedding.aget_chunk_embeddings(document, spans))


class LlamaIndexOneByOne(LlamaIndex):
    def passages(self, texts: list[str]) -> Any:
        return [self.embedding.get_text_embedding(text) for text in texts]


class LlamaIndexCached(LlamaIndex):
    new_cache = SimpleKVStore

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        cache = options.pop("cache", None) or SimpleKVStore()
        self.embedding = embedding_of(options | {"embeddings_cache": cache})


class LlamaIndexPipeline(Adapter):
    """Passages as the nodes of a pipeline with its own cache, which knows texts and settings."""

    new_cache = IngestionCache
    refuses = frozenset({"surrogate"})  # LlamaIndex hashes the text of a node as UTF-8

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        cache = options.pop("cache", None) or IngestionCache()
        self.embedding = embedding_of(options)
        self.pipeline = IngestionPipeline(transformations=[self.embedding], cache=cache)

    def query(self, text: str) -> Any:
        return self.embedding.get_query_embedding(text)

    def passages(self, texts: list[str]) -> Any:
        nodes = [TextNode(text=text) for text in texts]
        return [node.embedding for node in self.pipeline.run(nodes=nodes)]


class Qdrant(Adapter):
    """Reads vectors out of the store: a query's from its dot products with the axes."""

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        self.name = f"taskvec/{options.get('model', 'starter')}"
        self.dim = options.get("dim", FULL)
        self.client = QdrantClient(":memory:")
        enable_inference(self.client, **options)
        self.params = models.VectorParams(size=self.dim, distance=models.Distance.DOT)
        self.client.create_collection("axes", vectors_config=self.params)
        self.client.upsert("axes", axes(self.dim))

    def document(self, text: str) -> models.Document:
        return models.Document(text=text, model=self.name)

    def query(self, text: str) -> Any:
        found = self.client.query_points("axes", self.document(text), limit=self.dim).points
        return [point.score for point in sorted(found, key=lambda point: point.id)]

    def passages(self, texts: list[str]) -> Any:
        name = uuid.uuid4().hex  # the local engine mixes up what threads write into one collection
        self.client.create_collection(name, vectors_config=self.params)
        made = [models.PointStruct(id=i, vector=self.document(t)) for i, t in enumerate(texts)]
        self.client.upload_points(name, made)
        found = self.client.retrieve(name, range(len(texts)), with_vectors=True)
        return [point.vector for point in found]


class QdrantAsync(Qdrant):
    """The same through a client that awaits, from one event loop for each call."""

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        super().__init__(options, place)
        self.aclient = AsyncQdrantClient(":memory:")
        enable_inference(self.aclient, **options)
        awaited(self.aclient.create_collection("axes", vectors_config=self.params))
        awaited(self.aclient.upsert("axes", axes(self.dim)))

    def query(self, text: str) -> Any:
        asked = self.aclient.query_points("axes", self.document(text), limit=self.dim)
        return [point.score for point in sorted(awaited(asked).points, key=lambda p: p.id)]

    def passages(self, texts: list[str]) -> Any:
        return awaited(self.apassages(texts))

    async def apassages(self, texts: list[str]) -> Any:
        name = uuid.uuid4().hex
        await self.aclient.create_collection(name, vectors_config=self.params)
        made = [models.PointStruct(id=i, vector=self.document(t)) for i, t in enumerate(texts)]
        if made:  # the client refuses to upsert nothing
            await self.aclient.upsert(name, made)
        found = await self.aclient.retrieve(name, list(range(len(texts))), with_vectors=True)
        return [point.vector for point in found]


class QdrantPoints(Adapter):
    """The two functions that need no hook in the client."""

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        self.for_query = {k: v for k, v in options.items() if k != "passage_task"}
        self.for_points = {k: v for k, v in options.items() if k != "query_task"}

    def query(self, text: str) -> Any:
        return query_vector(text, **self.for_query)

    def passages(self, texts: list[str]) -> Any:
        return [point.vector for point in points(texts, **self.for_points)]


class Pgvector(Adapter):
    def __init__(self, options: dict[str, Any], place: Place) -> None:
        self.vectors = PgVectors(**options)

    def query(self, text: str) -> Any:
        return self.vectors.query(text).to_numpy()

    def passages(self, texts: list[str]) -> Any:
        return [value.to_numpy() for value in self.vectors.passages(texts)]


class PgvectorAsync(Pgvector):
    def query(self, text: str) -> Any:
        return awaited(self.vectors.aquery(text)).to_numpy()

    def passages(self, texts: list[str]) -> Any:
        return [value.to_numpy() for value in awaited(self.vectors.apassages(texts))]


def embedding_of(options: dict[str, Any]) -> TaskvecEmbedding:
    named = {"model_name" if name == "model" else name: value for name, value in options.items()}
    return TaskvecEmbedding(**named)


def axes(dim: int) -> list[models.PointStruct]:
    return [
        models.PointStruct(id=i, vector=axis) for i, axis in enumerate(AXES[:dim, :dim].tolist())
    ]
