"""The four routes from text to answer: each framework's own store and query path."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psycopg
from langchain_postgres import PGEngine, PGVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from pgvector.psycopg import register_vector
from qdrant_client import QdrantClient, models

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.adapters.pgvector import PgVectors, copy_rows
from taskvec.adapters.qdrant import enable_inference
from taskvec.core.embedder import Array, Embedder
from taskvec.integrations.cli.demo.agreement import Answer
from taskvec.integrations.cli.demo.corpus import Passage
from taskvec.integrations.cli.stores.base import batches
from taskvec.integrations.cli.stores.qdrant import hasten_folder

BATCH = 256
OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Place:
    """What the routes share: one encoder, and where the embedded stores live."""

    embedder: Embedder
    model: str
    dim: int
    dsn: str
    folder: Path


class Route(Protocol):
    """A framework with a store in it."""

    label: str

    def index(self, passages: Sequence[Passage], vectors: Array, on_rows: OnRows) -> None:
        """Store passages under the vectors that late chunking gave them, (K, dim)."""

    def passages(self, texts: list[str]) -> Array:
        """Vectors of passages by the adapter's own call, (B, dim)."""

    def ask(self, question: str, k: int) -> list[Answer]:
        """The k best passages by the framework's own query path."""

    def close(self) -> None:
        """Let go of the store."""


class LangChainRoute:
    """`TaskvecEmbeddings` in a PGVectorStore, on Postgres."""

    label = "LangChain"
    table = "langchain_passages"

    def __init__(self, place: Place) -> None:
        # Each row is a transaction of its own there, so waiting for the disk would be most of it.
        options = {"options": "-c synchronous_commit=off"}
        dsn = place.dsn.replace("postgresql://", "postgresql+psycopg://", 1)
        self._engine = PGEngine.from_connection_string(dsn, connect_args=options)
        self._engine.init_vectorstore_table(self.table, place.dim, overwrite_existing=True)
        self._embeddings = TaskvecEmbeddings(
            model=place.model, dim=place.dim, embedder=place.embedder
        )
        self._store = PGVectorStore.create_sync(self._engine, self._embeddings, self.table)

    def index(self, passages: Sequence[Passage], vectors: Array, on_rows: OnRows) -> None:
        """Store passages by `add_embeddings`."""
        for batch in batches(list(zip(passages, vectors.tolist(), strict=True)), BATCH):
            self._store.add_embeddings(
                [passage.text for passage, _ in batch],
                [vector for _, vector in batch],
                [{"name": passage.name} for passage, _ in batch],
                [passage.id for passage, _ in batch],
            )
            on_rows(len(batch))

    def passages(self, texts: list[str]) -> Array:
        """`embed_documents`."""
        return np.array(self._embeddings.embed_documents(texts), np.float32)

    def ask(self, question: str, k: int) -> list[Answer]:
        """`similarity_search_with_score`, whose score is a cosine distance."""
        found = self._store.similarity_search_with_score(question, k=k)
        return [
            Answer(str(document.id), document.metadata["name"], 1 - distance)
            for document, distance in found
        ]

    def close(self) -> None:
        """Give the pool's connections back."""
        asyncio.run(self._engine.close())


class LlamaIndexRoute:
    """`TaskvecEmbedding` in a VectorStoreIndex, on Qdrant."""

    label = "LlamaIndex"

    def __init__(self, place: Place) -> None:
        self._client = QdrantClient(path=str(place.folder / "llama_index"))
        # Made here rather than at the first insert, so that its folder can be hastened first.
        size = models.VectorParams(size=place.dim, distance=models.Distance.COSINE)
        self._client.create_collection("passages", {"dense": size})
        hasten_folder(self._client)
        store = QdrantVectorStore("passages", client=self._client, dense_vector_name="dense")
        self._embedding = TaskvecEmbedding(
            model_name=place.model, dim=place.dim, embedder=place.embedder
        )
        self._index = VectorStoreIndex.from_vector_store(store, embed_model=self._embedding)

    def index(self, passages: Sequence[Passage], vectors: Array, on_rows: OnRows) -> None:
        """Insert nodes that bring their embeddings along."""
        for batch in batches(list(zip(passages, vectors.tolist(), strict=True)), BATCH):
            nodes = [
                TextNode(
                    id_=passage.id,
                    text=passage.text,
                    metadata={"name": passage.name},
                    embedding=vector,
                )
                for passage, vector in batch
            ]
            self._index.insert_nodes(nodes)
            on_rows(len(batch))

    def passages(self, texts: list[str]) -> Array:
        """`get_text_embedding_batch`."""
        return np.array(self._embedding.get_text_embedding_batch(texts), np.float32)

    def ask(self, question: str, k: int) -> list[Answer]:
        """A retriever's `retrieve`."""
        found = self._index.as_retriever(similarity_top_k=k).retrieve(question)
        return [
            Answer(item.node.node_id, item.node.metadata["name"], item.score or 0.0)
            for item in found
        ]

    def close(self) -> None:
        """Unlock the folder."""
        self._client.close()


class QdrantRoute:
    """`models.Document` in an ordinary QdrantClient."""

    label = "Qdrant"
    collection = "passages"

    def __init__(self, place: Place) -> None:
        self._client = QdrantClient(path=str(place.folder / "qdrant"))
        self._model = f"taskvec/{place.model}"
        self._options: dict[str, Any] = {"dim": place.dim}
        enable_inference(self._client, place.model, embedder=place.embedder)
        self._client.create_collection(
            self.collection,
            models.VectorParams(size=place.dim, distance=models.Distance.COSINE),
        )
        hasten_folder(self._client)

    def index(self, passages: Sequence[Passage], vectors: Array, on_rows: OnRows) -> None:
        """Upsert points."""
        for batch in batches(list(zip(passages, vectors.tolist(), strict=True)), BATCH):
            points = [
                models.PointStruct(id=passage.id, vector=vector, payload={"name": passage.name})
                for passage, vector in batch
            ]
            self._client.upsert(self.collection, points)
            on_rows(len(batch))

    def passages(self, texts: list[str]) -> Array:
        """Documents upserted, and the vectors that the client made of them read back."""
        size = models.VectorParams(size=self._options["dim"], distance=models.Distance.COSINE)
        self._client.create_collection("checked", size)
        points = [
            models.PointStruct(
                id=i, vector=models.Document(text=text, model=self._model, options=self._options)
            )
            for i, text in enumerate(texts)
        ]
        self._client.upsert("checked", points)
        found = self._client.retrieve("checked", list(range(len(texts))), with_vectors=True)
        self._client.delete_collection("checked")
        return np.array([point.vector for point in found], np.float32)

    def ask(self, question: str, k: int) -> list[Answer]:
        """`query_points` with the question's text, which the client encodes."""
        query = models.Document(text=question, model=self._model, options=self._options)
        found = self._client.query_points(self.collection, query=query, limit=k)
        return [
            Answer(str(point.id), (point.payload or {})["name"], point.score)
            for point in found.points
        ]

    def close(self) -> None:
        """Unlock the folder."""
        self._client.close()


class PgvectorRoute:
    """`PgVectors` and plain SQL."""

    label = "pgvector"
    # No vector index: an exact search is what the four can be compared by, and quick at this size.
    create = """
        DROP TABLE IF EXISTS passages;
        CREATE TABLE passages (id text, name text, content text, embedding vector({dim}))
    """
    select = """
        SELECT id, name, 1 - (embedding <=> %(query)s) AS score FROM passages
        ORDER BY embedding <=> %(query)s LIMIT %(k)s
    """

    def __init__(self, place: Place) -> None:
        self._vectors = PgVectors(model=place.model, dim=place.dim, embedder=place.embedder)
        self._connection = psycopg.connect(place.dsn, autocommit=True)
        register_vector(self._connection)
        self._connection.execute(psycopg.sql.SQL(self.create).format(dim=place.dim))

    def index(self, passages: Sequence[Passage], vectors: Array, on_rows: OnRows) -> None:
        """Stream rows by binary COPY."""
        for batch in batches(list(zip(passages, vectors, strict=True)), BATCH):
            rows = [(passage.id, passage.name, passage.text, vector) for passage, vector in batch]
            copy_rows(self._connection, "passages", rows)
            on_rows(len(batch))

    def passages(self, texts: list[str]) -> Array:
        """`PgVectors.passages`."""
        return np.array([value.to_list() for value in self._vectors.passages(texts)], np.float32)

    def ask(self, question: str, k: int) -> list[Answer]:
        """A SELECT with the query's value as a parameter."""
        values = {"query": self._vectors.query(question), "k": k}
        return [Answer(*row) for row in self._connection.execute(self.select, values)]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


ROUTES: tuple[type[Any], ...] = (LangChainRoute, LlamaIndexRoute, QdrantRoute, PgvectorRoute)
