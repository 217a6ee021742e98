"""LangChain's stores, opened empty, and how to read back what they hold."""

import asyncio
import threading
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_postgres import PGEngine, PGVectorStore
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models
from sqlalchemy import text as sql

from taskvec.adapters.langchain import TaskvecEmbeddings

Stored = dict[str, tuple[Document, list[float]]]


@dataclass
class Opened:
    """A store, and how to read all that it holds."""

    store: VectorStore
    read: Callable[[], Stored]
    close: Callable[[], None] = field(default=lambda: None)


def memory(embeddings: TaskvecEmbeddings, _: Any) -> Opened:
    store = InMemoryVectorStore(embeddings)
    return Opened(store, lambda: held(store))


def held(store: InMemoryVectorStore) -> Stored:
    return {
        key: (Document(row["text"], metadata=row["metadata"]), row["vector"])
        for key, row in store.store.items()
    }


class SafeClient(QdrantClient):
    """Qdrant's local engine mixes up vectors that threads upsert at once; a server does not."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.writing = threading.Lock()

    def upsert(self, *arguments: Any, **options: Any) -> Any:
        with self.writing:
            return super().upsert(*arguments, **options)


def qdrant(embeddings: TaskvecEmbeddings, _: Any) -> Opened:
    client = SafeClient(":memory:")
    params = models.VectorParams(size=embeddings.dim, distance=models.Distance.COSINE)
    client.create_collection("texts", vectors_config=params)

    def read() -> Stored:
        points: list[Any] = client.scroll("texts", limit=1000, with_vectors=True)[0]
        return {
            str(point.id): (
                Document(point.payload["page_content"], metadata=point.payload["metadata"]),
                point.vector,
            )
            for point in points
        }

    return Opened(QdrantVectorStore(client, "texts", embedding=embeddings), read, client.close)


def postgres(embeddings: TaskvecEmbeddings, request: pytest.FixtureRequest) -> Opened:
    dsn = request.getfixturevalue("dsn")
    engine = PGEngine.from_connection_string(dsn.replace("://", "+psycopg://", 1))
    engine.init_vectorstore_table("texts", embeddings.dim)

    async def rows() -> Any:
        query = "SELECT langchain_id, content, langchain_metadata, embedding::real[] FROM texts"
        async with engine._pool.connect() as conn:
            return (await conn.execute(sql(query))).fetchall()

    def read() -> Stored:
        return {
            str(key): (Document(content, metadata=metadata), vector)
            for key, content, metadata, vector in engine._run_as_sync(rows())
        }

    def close() -> None:
        asyncio.run_coroutine_threadsafe(engine.close(), engine._default_loop).result()

    return Opened(PGVectorStore.create_sync(engine, embeddings, "texts"), read, close)


def chroma(embeddings: TaskvecEmbeddings, _: Any) -> Opened:
    langchain_chroma = pytest.importorskip("langchain_chroma")
    settings = pytest.importorskip("chromadb.config").Settings(anonymized_telemetry=False)
    store = langchain_chroma.Chroma(
        f"texts-{uuid.uuid4().hex}",
        embedding_function=embeddings,
        client_settings=settings,
    )

    def read() -> Stored:
        found = store.get(include=["documents", "metadatas", "embeddings"])
        columns = (found["ids"], found["documents"], found["metadatas"], found["embeddings"])
        return {
            key: (Document(content, metadata=metadata), list(vector))
            for key, content, metadata, vector in zip(*columns, strict=True)
        }

    return Opened(store, read, store.delete_collection)


def faiss(embeddings: TaskvecEmbeddings, _: Any) -> Opened:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the package as a whole
        library = pytest.importorskip("faiss")
        vectorstores = pytest.importorskip("langchain_community.vectorstores")
        docstores = pytest.importorskip("langchain_community.docstore.in_memory")
    index = library.IndexFlatIP(embeddings.dim)
    store = vectorstores.FAISS(embeddings, index, docstores.InMemoryDocstore(), {})

    def read() -> Stored:
        return {
            key: (store.docstore.search(key), list(store.index.reconstruct(place)))
            for place, key in store.index_to_docstore_id.items()
        }

    return Opened(store, read)


STORES = (memory, qdrant, postgres, chroma, faiss)
