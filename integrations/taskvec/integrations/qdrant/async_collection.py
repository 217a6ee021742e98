"""A Qdrant collection of documents, through an awaiting client."""

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, overload

from qdrant_client import AsyncQdrantClient

from taskvec.core import Embedder, Roles
from taskvec.core.inputs import check_number
from taskvec.core.registry import embedder_or_shared
from taskvec.core.waiting import progress_bar
from taskvec.integrations.qdrant.base import (
    Collection,
    checked_ids,
    indexes_of,
    layout_of,
    length_of,
    tools_of,
)
from taskvec.integrations.qdrant.creating import creating, opening
from taskvec.integrations.qdrant.documents import Cutter, Document, Splitter, abatches, acuts_of
from taskvec.integrations.qdrant.filters import Filter
from taskvec.integrations.qdrant.hits import Explanation, Hit
from taskvec.integrations.qdrant.ingesting import POINTS, Ingested, deleting, ingesting
from taskvec.integrations.qdrant.layout import Quantization
from taskvec.integrations.qdrant.searching import explaining, searching, wish_of
from taskvec.integrations.qdrant.settings import as_kept, choose, named
from taskvec.integrations.qdrant.steps import arun


class AsyncTaskvecCollection(Collection):
    """`TaskvecCollection` for an AsyncQdrantClient: the same methods, awaited.

    Several tasks may share one object.

    Example:
        collection = await AsyncTaskvecCollection.create(AsyncQdrantClient(url), "docs")
        await collection.ingest(documents)
        hits = await collection.search("read compressed data", k=3)
    """

    @classmethod
    async def create(
        cls,
        client: AsyncQdrantClient,
        name: str,
        *,
        model: str = "starter",
        embedder: Embedder | None = None,
        device: str = "auto",
        dtype: str = "auto",
        task: str | None = None,
        query_task: str | None = "retrieval.query",
        passage_task: str | None = "retrieval.passage",
        dims: Sequence[int] | None = None,
        late_chunking: bool = True,
        context: int | None = None,
        quantization: Quantization | None = "scalar",
        sparse: Literal["bm25"] | None = None,
        payload_indexes: Mapping[str, Any] | None = None,
        retries: int = 5,
    ) -> Self:
        """See `TaskvecCollection.create`. The model is loaded in a thread."""
        roles = Roles.choose(task, query_task, passage_task)
        used = embedder_or_shared(embedder, model, device=device, dtype=dtype)
        tools = tools_of(client, AsyncQdrantClient, name, used, retries)
        wanted = await asyncio.to_thread(
            choose,
            used,
            roles,
            model=named(model, embedder),
            dims=dims,
            late_chunking=late_chunking,
            context=context,
            sparse=sparse,
        )
        layout = layout_of(wanted, quantization)
        indexes = indexes_of(tools, payload_indexes)
        steps = creating(name, wanted, layout, indexes, any_context=context is None)
        return cls(tools, await arun(steps, tools), roles)

    @classmethod
    async def open(
        cls,
        client: AsyncQdrantClient,
        name: str,
        *,
        model: str = "starter",
        embedder: Embedder | None = None,
        device: str = "auto",
        dtype: str = "auto",
        task: str | None = None,
        query_task: str | None = "retrieval.query",
        passage_task: str | None = "retrieval.passage",
        retries: int = 5,
    ) -> Self:
        """See `TaskvecCollection.open`. The model is loaded in a thread."""
        roles = Roles.choose(task, query_task, passage_task)
        used = embedder_or_shared(embedder, model, device=device, dtype=dtype)
        tools = tools_of(client, AsyncQdrantClient, name, used, retries)
        kept = await arun(opening(name), tools)
        await asyncio.to_thread(as_kept, name, kept, used, roles)
        return cls(tools, kept, roles)

    async def ingest(
        self,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        splitter: Splitter | None = None,
        chunk_characters: int | None = None,
        batch_size: int = POINTS,
        show_progress: bool = False,
    ) -> Ingested:
        """See `TaskvecCollection.ingest`. Documents are cut in threads.

        documents: also an asynchronous iterable.
        """
        cutter = Cutter(splitter, characters=chunk_characters)
        check_number("batch_size", batch_size)
        counts = Ingested()
        with progress_bar(length_of(documents), shown=show_progress, unit="document") as done:
            async for batch in abatches(acuts_of(cutter, documents), batch_size):
                steps = ingesting(batch, self._settings, self._roles.passage, counts)
                await arun(steps, self._tools)
                if done is not None:
                    done(len(batch))
        return counts

    async def delete(self, ids: Iterable[str]) -> int:
        """See `TaskvecCollection.delete`."""
        return await arun(deleting(checked_ids(ids)), self._tools)

    @overload
    async def search(
        self,
        text: str,
        k: int = 10,
        *,
        filter: Filter | None = None,
        group_by_document: bool = False,
        hybrid: bool | None = None,
        candidates: int | None = None,
        oversampling: float | None = None,
        explain: Literal[False] = False,
    ) -> list[Hit]: ...

    @overload
    async def search(
        self,
        text: str,
        k: int = 10,
        *,
        filter: Filter | None = None,
        group_by_document: bool = False,
        hybrid: bool | None = None,
        candidates: int | None = None,
        oversampling: float | None = None,
        explain: Literal[True],
    ) -> Explanation: ...

    async def search(
        self,
        text: str,
        k: int = 10,
        *,
        filter: Filter | None = None,  # noqa: A002 - what Qdrant's users look for
        group_by_document: bool = False,
        hybrid: bool | None = None,
        candidates: int | None = None,
        oversampling: float | None = None,
        explain: bool = False,
    ) -> list[Hit] | Explanation:
        """See `TaskvecCollection.search`."""
        wish = wish_of(
            self._settings,
            text,
            k,
            filter=filter,
            group_by_document=group_by_document,
            hybrid=hybrid,
            candidates=candidates,
            oversampling=oversampling,
            local=self._local,
        )
        if explain:
            return await arun(explaining(wish, self._settings, self._roles.query), self._tools)
        return await arun(searching(wish, self._settings, self._roles.query), self._tools)
