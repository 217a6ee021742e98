"""LangChain's `Embeddings` over a shared encoder."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from taskvec.adapters.floats import arows_of, rows_of
from taskvec.adapters.prepared import prepared_rows
from taskvec.core import Embedder, Roles
from taskvec.core.embedder import Lane, Role, Span
from taskvec.core.errors import InputError, MissingExtraError
from taskvec.core.inputs import check_positive, check_several
from taskvec.core.registry import embedder_or_shared

try:
    from langchain_core.embeddings import Embeddings
    from langchain_core.stores import BaseStore
    from pydantic import BaseModel, ConfigDict, Field, model_validator

    from taskvec.adapters.options import refuse_key
except ImportError as error:
    raise MissingExtraError("taskvec.adapters.langchain", "langchain") from error

if TYPE_CHECKING:
    from langchain_classic.embeddings import CacheBackedEmbeddings

__all__ = ["TaskvecEmbeddings", "cached"]


class TaskvecEmbeddings(BaseModel, Embeddings):
    """Embeddings whose queries and documents each get their own task.

    model: "starter", a folder, a hub id, or the URL of a server.
    dim: a Matryoshka dim of the model; None is its full dim.
    task: one task for both roles, instead of query_task and passage_task.
    embedder: an encoder of your own, used in place of the shared one of `model`.

    Nothing is loaded before the first text. A task or dim that the model does not have raises
    TaskError or DimensionError there.

    Example:
        store = InMemoryVectorStore(TaskvecEmbeddings(dim=128))
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    model_name: str = Field(default="starter", alias="model")
    dim: int | None = Field(default=None, gt=0, strict=True)
    task: str | None = None
    query_task: str | None = "retrieval.query"
    passage_task: str | None = "retrieval.passage"
    device: str = "auto"
    dtype: str = "auto"
    show_progress: bool = False
    # An Embedder; typed so, pydantic would read its properties and thereby load a lazy encoder.
    embedder: Any = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_key(cls, data: Any) -> Any:
        return refuse_key(cls, data)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of passages: one list of `dim` floats, of unit length, per text."""
        check_several(texts)
        made = prepared_rows(self, texts)
        rest = _but(texts, made)
        if made and not rest:
            return list(made.values())
        vectors = self._embedder().encode(
            rest, task=self._task("passage"), dim=self.dim, show_progress=self.show_progress
        )
        return _merged(made, rows_of(vectors))

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query: `dim` floats of unit length."""
        lane: Lane = "query"
        vectors = self._embedder().encode([text], task=self._task("query"), dim=self.dim, lane=lane)
        return rows_of(vectors)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents`, awaited."""
        check_several(texts)
        made = prepared_rows(self, texts)
        rest = _but(texts, made)
        if made and not rest:
            return list(made.values())
        vectors = await self._embedder().aencode(
            rest, task=self._task("passage"), dim=self.dim, show_progress=self.show_progress
        )
        return _merged(made, await arows_of(vectors))

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query`, awaited."""
        vectors = await self._embedder().aencode(
            [text], task=self._task("query"), dim=self.dim, lane="query"
        )
        return (await arows_of(vectors))[0]

    def embed_chunks(self, document: str, spans: Sequence[Span]) -> list[list[float]]:
        """Late-chunked vectors of a document's spans: one list of `dim` floats per span.

        spans: half-open ranges of characters. Raises InputError for one outside the document.
        """
        task = self._task("passage")
        return rows_of(self._embedder().encode_chunks(document, spans, task=task, dim=self.dim))

    async def aembed_chunks(self, document: str, spans: Sequence[Span]) -> list[list[float]]:
        """`embed_chunks`, awaited."""
        task = self._task("passage")
        vectors = await self._embedder().aencode_chunks(document, spans, task=task, dim=self.dim)
        return await arows_of(vectors)

    def cache_namespace(self, role: Role) -> str:
        """What the vectors of a role depend on, as the namespace of a cache. Loads the model.

        Raises InputError for a role other than "query" and "passage".
        """
        return self._embedder().fingerprint(task=self._task(role), dim=self.dim)

    def _embedder(self) -> Embedder:
        return embedder_or_shared(
            self.embedder, self.model_name, device=self.device, dtype=self.dtype
        )

    def _vector_dim(self) -> int:
        return self._embedder().dim if self.dim is None else self.dim

    def _task(self, role: Role) -> str | None:
        return Roles.choose(self.task, self.query_task, self.passage_task).task(role)


def _but(texts: list[str], made: dict[int, list[float]]) -> list[str]:
    return [text for i, text in enumerate(texts) if i not in made] if made else texts


def _merged(made: dict[int, list[float]], rows: list[list[float]]) -> list[list[float]]:
    """Rows in their texts' order, of which `made` has some by their place."""
    if not made:
        return rows
    rest = iter(rows)
    return [made[i] if i in made else next(rest) for i in range(len(made) + len(rows))]


def cached(
    embeddings: TaskvecEmbeddings, store: BaseStore[str, bytes], *, batch_size: int | None = None
) -> "CacheBackedEmbeddings":
    """Embeddings that keep the vectors of queries and documents in a byte store.

    Keys hold the role's fingerprint, so roles, models and dims share one store safely.
    batch_size: documents to encode between two writes to the store; None writes once.
    Raises InputError for another embedding, for one that is cached already, and for what is no
    byte store.

    Example:
        embeddings = cached(TaskvecEmbeddings(), LocalFileStore("vectors"))
    """
    _check_cached(embeddings, store)
    check_positive("batch_size", batch_size)
    try:
        from langchain_classic.embeddings import CacheBackedEmbeddings  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("taskvec.adapters.langchain.cached", "langchain") from error
    return CacheBackedEmbeddings(
        embeddings,
        _RoleStore(embeddings, "passage", store),
        query_embedding_store=_RoleStore(embeddings, "query", store),
        batch_size=batch_size,
    )


def behind_cache(embeddings: object) -> TaskvecEmbeddings | None:
    """What `cached` made these of; None where it did not make them."""
    kept = getattr(embeddings, "document_embedding_store", None)
    return kept.embeddings if isinstance(kept, _RoleStore) else None


def _check_cached(embeddings: object, store: object) -> None:
    if not isinstance(embeddings, TaskvecEmbeddings):
        known = ", which is cached already" if behind_cache(embeddings) else ""
        raise InputError(
            f"embeddings is {type(embeddings).__name__}{known}: expected TaskvecEmbeddings"
        )
    if not isinstance(store, BaseStore):
        raise InputError(
            f"store is {type(store).__name__}: expected a byte store of LangChain's, such as "
            "LocalFileStore(folder) or InMemoryByteStore()"
        )


class _RoleStore(BaseStore[str, list[float]]):
    """One role's vectors in a byte store, as float32, keyed by fingerprint and text.

    LangChain's EncoderBackedStore would ask for the fingerprint once per text, and on the event
    loop, where the first one loads the model.
    """

    def __init__(
        self, embeddings: TaskvecEmbeddings, role: Role, store: BaseStore[str, bytes]
    ) -> None:
        self.embeddings = embeddings
        self._role = role
        self._store = store

    def mget(self, keys: Sequence[str]) -> list[list[float] | None]:
        return self._unpack(self._store.mget(self._keys(keys)))

    async def amget(self, keys: Sequence[str]) -> list[list[float] | None]:
        values = await self._store.amget(await asyncio.to_thread(self._keys, keys))
        return await asyncio.to_thread(self._unpack, values)

    def mset(self, key_value_pairs: Sequence[tuple[str, list[float]]]) -> None:
        self._store.mset(self._pairs(key_value_pairs))

    async def amset(self, key_value_pairs: Sequence[tuple[str, list[float]]]) -> None:
        await self._store.amset(await asyncio.to_thread(self._pairs, key_value_pairs))

    def mdelete(self, keys: Sequence[str]) -> None:
        self._store.mdelete(self._keys(keys))

    async def amdelete(self, keys: Sequence[str]) -> None:
        await self._store.amdelete(await asyncio.to_thread(self._keys, keys))

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        return iter(self._store.yield_keys(prefix=prefix))

    def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        return self._store.ayield_keys(prefix=prefix)

    def _keys(self, texts: Sequence[str]) -> list[str]:
        namespace = self.embeddings.cache_namespace(self._role)
        return [f"{namespace}-{_digest(text)}" for text in texts]

    def _pairs(self, pairs: Sequence[tuple[str, list[float]]]) -> list[tuple[str, bytes]]:
        keys = self._keys([text for text, _ in pairs])
        return [(key, _pack(vector)) for key, (_, vector) in zip(keys, pairs, strict=True)]

    def _unpack(self, values: Sequence[bytes | None]) -> list[list[float] | None]:
        # What another program cut short is no vector: encoding it again mends it.
        size = 4 * self.embeddings._vector_dim()
        whole = (v if v is not None and len(v) == size else None for v in values)
        return [None if v is None else np.frombuffer(v, dtype="<f4").tolist() for v in whole]


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _pack(vector: Sequence[float]) -> bytes:
    return np.asarray(vector, dtype="<f4").tobytes()
