"""LlamaIndex's `BaseEmbedding` over a shared encoder."""

import asyncio
import pickle
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from taskvec.adapters.floats import arows_of, rows_of
from taskvec.core import Embedder, Roles
from taskvec.core.embedder import Role, Span
from taskvec.core.errors import InputError, MissingExtraError
from taskvec.core.inputs import check_several
from taskvec.core.registry import embedder_or_shared, is_url
from taskvec.core.served import without_secrets

try:
    from llama_index.core.async_utils import run_jobs
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.schema import BaseNode
    from llama_index.core.storage.kvstore.types import BaseKVStore
    from pydantic import AliasChoices, ConfigDict, Field, model_validator

    from taskvec.adapters.llama_index_events import announced, dispatcher, without_span
    from taskvec.adapters.options import refuse_key
except ImportError as error:
    raise MissingExtraError("taskvec.adapters.llama_index", "llama-index") from error

__all__ = ["TaskvecEmbedding"]

Vector = list[float]


class TaskvecEmbedding(BaseEmbedding):
    """An embedding model whose queries and texts each get their own task.

    model_name: "starter", a folder, a hub id, or the URL of a server; also `model`.
    dim: a Matryoshka dim of the model; None is its full dim.
    task: one task for both roles, instead of query_task and passage_task.
    embedder: an encoder of your own, used in place of the shared one of `model_name`; with one,
        the instance travels to another process only if that encoder can be pickled.

    Nothing is loaded before the first text. A task or dim that the model does not have raises
    TaskError or DimensionError there.

    Example:
        index = VectorStoreIndex(nodes, embed_model=TaskvecEmbedding(dim=128))
    """

    model_config = ConfigDict(extra="forbid")

    # Every setting is a field, because fields make up the cache key of an IngestionPipeline.
    model_name: str = Field(default="starter", validation_alias=AliasChoices("model_name", "model"))
    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    dim: int | None = Field(default=None, gt=0, strict=True)
    task: str | None = None
    query_task: str | None = "retrieval.query"
    passage_task: str | None = "retrieval.passage"
    device: str = "auto"
    dtype: str = "auto"
    # An Embedder; typed so, pydantic would read its properties and thereby load a lazy encoder.
    embedder: Any = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_key(cls, data: Any) -> Any:
        return refuse_key(cls, data)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex stores for this class."""
        return "TaskvecEmbedding"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The settings. In place of the model's name, an injected encoder's fingerprints."""
        data: dict[str, Any] = super().to_dict(**kwargs)
        if self.embedder is not None:
            data["model_name"] = f"{self._fingerprint('query')} {self._fingerprint('passage')}"
        return data

    def to_payload(self) -> dict[str, Any]:
        """What events and callbacks tell of it: without passwords; its names, and its tasks."""
        return {
            "class_name": self.class_name(),
            "model_name": self._shown_name(),
            "embed_batch_size": self.embed_batch_size,
            "dim": self.dim,
            "query_task": self._task("query"),
            "passage_task": self._task("passage"),
        }

    def get_query_embedding(self, query: str) -> Vector:
        """The vector of one query: `dim` floats of unit length."""
        return without_span(BaseEmbedding.get_query_embedding)(self._in_role("query"), query)

    async def aget_query_embedding(self, query: str) -> Vector:
        """`get_query_embedding`, awaited."""
        return await without_span(BaseEmbedding.aget_query_embedding)(self._in_role("query"), query)

    def get_text_embedding(self, text: str) -> Vector:
        """The vector of one passage: `dim` floats of unit length."""
        return without_span(BaseEmbedding.get_text_embedding)(self._in_role("passage"), text)

    async def aget_text_embedding(self, text: str) -> Vector:
        """`get_text_embedding`, awaited."""
        return await without_span(BaseEmbedding.aget_text_embedding)(self._in_role("passage"), text)

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Vector]:
        """Vectors of passages, `embed_batch_size` texts at a time."""
        check_several(texts)
        embed = without_span(BaseEmbedding.get_text_embedding_batch)
        return embed(self._in_role("passage"), texts, show_progress, **kwargs)

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Vector]:
        """`get_text_embedding_batch`, awaited; `num_workers` batches at once, by default all."""
        check_several(texts)
        embed, own = without_span(BaseEmbedding.aget_text_embedding_batch), self._in_role("passage")
        # Several calls: the base class makes the events of one all at once, on the event loop.
        starts = range(0, len(texts), self.embed_batch_size)
        batches = [embed(own, texts[i : i + self.embed_batch_size], **kwargs) for i in starts]
        workers = self.num_workers or len(batches) or 1
        made = await run_jobs(batches, show_progress, workers, desc="Generating embeddings")
        return [vector for rows in made for vector in rows]

    @dispatcher.span
    def get_chunk_embeddings(self, document: str, spans: Sequence[Span]) -> list[Vector]:
        """Late-chunked vectors of a document's spans: `dim` floats of unit length for each.

        The document is read once, as a whole, as a passage. spans: half-open ranges of characters;
        InputError for one outside the document.

        Example:
            first, second = embedding.get_chunk_embeddings("open it. close it.", [(0, 8), (9, 18)])
        """
        task = self._task("passage")
        with announced(self.to_payload(), self.callback_manager) as done:
            if limiter := getattr(self, "rate_limiter", None):
                limiter.acquire()
            made = self._embedder().encode_chunks(document, spans, task=task, dim=self.dim)
            vectors = rows_of(made)
            done([document[first:last] for first, last in spans], vectors)
        return vectors

    @dispatcher.span
    async def aget_chunk_embeddings(self, document: str, spans: Sequence[Span]) -> list[Vector]:
        """`get_chunk_embeddings`, awaited."""
        task = self._task("passage")
        with announced(self.to_payload(), self.callback_manager) as done:
            if limiter := getattr(self, "rate_limiter", None):
                await limiter.async_acquire()
            made = await self._embedder().aencode_chunks(document, spans, task=task, dim=self.dim)
            vectors = await arows_of(made)
            done([document[first:last] for first, last in spans], vectors)
        return vectors

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Give every node a vector; one that a node has already (a late chunk's) stays."""
        missing = [node for node in nodes if node.embedding is None]
        without_span(BaseEmbedding.__call__)(self, missing, **kwargs)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__`, awaited."""
        await super().acall([node for node in nodes if node.embedding is None], **kwargs)
        return nodes

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex drops what it cannot pickle; the worker would then load another model.
        if self.embedder is not None:
            try:
                pickle.dumps(self.embedder)
            except Exception as error:
                raise InputError(
                    f"embedder {type(self.embedder).__name__} cannot go to another process: give "
                    f"model_name instead, so that every process loads the model for itself"
                ) from error
        return super().__getstate__()

    def _get_query_embedding(self, query: str) -> Vector:
        vectors = self._embedder().encode(
            [query], task=self._task("query"), dim=self.dim, lane="query"
        )
        return rows_of(vectors)[0]

    async def _aget_query_embedding(self, query: str) -> Vector:
        vectors = await self._embedder().aencode(
            [query], task=self._task("query"), dim=self.dim, lane="query"
        )
        return (await arows_of(vectors))[0]

    def _get_text_embedding(self, text: str) -> Vector:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Vector:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Vector]:
        vectors = self._embedder().encode(texts, task=self._task("passage"), dim=self.dim)
        return rows_of(vectors)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Vector]:
        vectors = await self._embedder().aencode(texts, task=self._task("passage"), dim=self.dim)
        return await arows_of(vectors)

    def _embedder(self) -> Embedder:
        return embedder_or_shared(
            self.embedder, self.model_name, device=self.device, dtype=self.dtype
        )

    def _shown_name(self) -> str:
        if self.embedder is not None:
            return type(self.embedder).__name__
        return without_secrets(self.model_name) if is_url(self.model_name) else self.model_name

    def _task(self, role: Role) -> str | None:
        return Roles.choose(self.task, self.query_task, self.passage_task).task(role)

    def _fingerprint(self, role: Role) -> str:
        return self._embedder().fingerprint(task=self._task(role), dim=self.dim)

    def _in_role(self, role: Role) -> "TaskvecEmbedding":
        """This instance, its cache seen through the role: the base class keys by text alone."""
        if self.embeddings_cache is None:
            return self
        cache = _RoleCache(self.embeddings_cache, lambda: self._fingerprint(role))
        return self.model_copy(update={"embeddings_cache": cache})


class _RoleCache:
    """The four calls that BaseEmbedding makes to its cache, with the fingerprint in the key."""

    def __init__(self, store: BaseKVStore, fingerprint: Callable[[], str]) -> None:
        self._store = store
        self._fingerprint = fingerprint

    def get(self, key: str, collection: str) -> dict[str, Any] | None:
        return self._store.get(self._key(key), collection)

    async def aget(self, key: str, collection: str) -> dict[str, Any] | None:
        return await self._store.aget(await asyncio.to_thread(self._key, key), collection)

    def put(self, key: str, val: dict[str, Any], collection: str) -> None:
        self._store.put(self._key(key), val, collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str) -> None:
        await self._store.aput(await asyncio.to_thread(self._key, key), val, collection)

    def _key(self, text: str) -> str:
        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self._fingerprint()}-{digest}"
