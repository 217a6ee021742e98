"""A Qdrant collection of documents, through a blocking client."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self, overload

from qdrant_client import QdrantClient

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
from taskvec.integrations.qdrant.documents import Cutter, Document, Splitter, batches, cuts_of
from taskvec.integrations.qdrant.filters import Filter
from taskvec.integrations.qdrant.hits import Explanation, Hit
from taskvec.integrations.qdrant.ingesting import POINTS, Ingested, deleting, ingesting
from taskvec.integrations.qdrant.layout import Quantization
from taskvec.integrations.qdrant.searching import explaining, searching, wish_of
from taskvec.integrations.qdrant.settings import as_kept, choose, named
from taskvec.integrations.qdrant.steps import run


class TaskvecCollection(Collection):
    """Documents in Qdrant, cut and encoded on the way in, searched in stages.

    One reading of a text gives its vectors at several Matryoshka dims: the smallest is searched, by
    HNSW and quantised, in memory; the largest lies on disk and ranks what the smallest found.
    Queries get the query task, chunks the passage task.

    Make one with `create` or `open`. Several threads may share one object or client; with Qdrant's
    local engine their calls are made one by one. A document is written by one run at a time.

    Requests that meet a busy or failing server (429, 5xx, a timeout, no connection) are made again,
    `retries` times, with growing pauses and as late as the server asks; then StoreError is raised.

    Example:
        collection = TaskvecCollection.create(QdrantClient("http://localhost:6333"), "docs")
        collection.ingest([Document("gzip", "Open a gzip-compressed file. …", {"year": 2024})])
        for hit in collection.search("read compressed data", k=3, filter={"year": 2024}):
            print(hit.score, hit.document_id, hit.text)
    """

    @classmethod
    def create(
        cls,
        client: QdrantClient,
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
        """Make a collection, or open the one that was made with the same settings.

        One that exists gets the payload indexes that it lacks.

        Args:
            client: of a server, or in local mode; a folder's points are then written without a
                wait for the disk each, so that a power failure may undo the last ones.
            name: of the collection.
            model: a model name, a folder, or a server's URL; see `shared_encoder`.
            embedder: one to use in its place.
            device: where the model runs.
            dtype: what it calculates in.
            task: for queries and passages alike.
            query_task: for queries.
            passage_task: for chunks.
            dims: Matryoshka dims to store, by default one of 128 or less and the full one.
            late_chunking: whether chunks are pooled from their document, or read alone.
            context: the characters of a document that are read at once; by default those of the
                collection, and for a new one 1,800 for "starter", which was trained on short
                texts, and 16,000 for others.
            quantization: of the smallest dim. "binary" needs a wide one. Another one that was set
                by `client.update_collection` stays; `open` takes any.
            sparse: "bm25" for hybrid search.
            payload_indexes: fields of metadata to index for filters, such as {"year": "integer"};
                kinds are those of `models.PayloadSchemaType`, or Qdrant's index parameters.
            retries: how often a request is made again.

        Raises:
            InputError: an unknown option; DimensionError for dims, TaskError for a task.
            FingerprintError: the collection exists, with vectors of another kind.
            SchemaError: it exists and is none of ours, or is quantised otherwise.
            StoreError: the server cannot be reached, or refuses.
        """
        roles = Roles.choose(task, query_task, passage_task)
        used = embedder_or_shared(embedder, model, device=device, dtype=dtype)
        tools = tools_of(client, QdrantClient, name, used, retries)
        wanted = choose(
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
        return cls(tools, run(steps, tools), roles)

    @classmethod
    def open(
        cls,
        client: QdrantClient,
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
        """Open a collection that `create` made, with the model and tasks that it was made with.

        Raises FingerprintError for others, SchemaError for a collection that is none of ours,
        StoreError where there is none, or no server. Options are those of `create`.
        """
        roles = Roles.choose(task, query_task, passage_task)
        used = embedder_or_shared(embedder, model, device=device, dtype=dtype)
        tools = tools_of(client, QdrantClient, name, used, retries)
        kept = run(opening(name), tools)
        as_kept(name, kept, used, roles)
        return cls(tools, kept, roles)

    def ingest(
        self,
        documents: Iterable[Document],
        *,
        splitter: Splitter | None = None,
        chunk_characters: int | None = None,
        batch_size: int = POINTS,
        show_progress: bool = False,
    ) -> Ingested:
        """Cut documents, encode their chunks and store them; each takes the place of its old self.

        A document that is there with the same text, metadata and spans is neither encoded nor
        written. Chunks that a new version no longer has are deleted. A run that was cut off, even
        by a kill, is resumed by the same call: what was complete is passed over, the rest is
        written whole. Every write is waited for, so that what a call returned from can be found;
        while a changed document is being written, searches may find chunks of both versions.

        Documents are read, encoded and written in batches, so a generator of any length will do.

        Args:
            documents: those to store, each with an id of its own. Blank ones have no chunks.
            splitter: gives a text's chunks in order, such as a LangChain splitter's `split_text`,
                or their spans. By default the text is cut at paragraphs and sentences.
            chunk_characters: the longest chunk of the default splitter, 600 where nothing is said.
                Not kept: other chunks than last time are another version of every document.
            batch_size: chunks in one batch, at least: documents stay together.
            show_progress: whether to show a bar of documents on stderr.

        Raises:
            InputError: a document, its chunks or spans that cannot be stored, two of one id, or
                both a splitter and chunk_characters.
            StoreError: the server failed for longer than retries last. What was written before
                an error stays.
        """
        cutter = Cutter(splitter, characters=chunk_characters)
        check_number("batch_size", batch_size)
        counts = Ingested()
        with progress_bar(length_of(documents), shown=show_progress, unit="document") as done:
            for batch in batches(cuts_of(cutter, documents), batch_size):
                run(ingesting(batch, self._settings, self._roles.passage, counts), self._tools)
                if done is not None:
                    done(len(batch))
        return counts

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents with all their chunks; gives how many of them there were."""
        return run(deleting(checked_ids(ids)), self._tools)

    @overload
    def search(
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
    def search(
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

    def search(
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
        """The k chunks nearest to a query, best first.

        The smallest dim chooses candidates, the larger ones re-score them in turn. A hybrid search
        fuses their ranks with those of BM25, by reciprocal rank (k = 60).

        Args:
            text: the query.
            k: how many hits.
            filter: a mapping of metadata ({"lang": "en"}, {"lang": ["en", "de"]},
                {"year": {"gte": 2020}}), all of which must hold, and "document_id"; or
                `models.Filter`, whose keys are those of the payload: "metadata.lang",
                "document_id". A key that no document has finds nothing.
            group_by_document: the best chunk of each of k documents, in the place of k chunks.
            hybrid: by default, whether the collection has sparse vectors.
            candidates: how many chunks each stage hands on; by default twenty for each hit, at
                least 200, and four times that when grouping.
            oversampling: how many times more the quantised vectors choose, for the unquantised ones
                of the same dim to choose from; 1 leaves that to the next dim. By default 2 where
                there is but one dim, else 1: more candidates find more.
            explain: give an `Explanation` of the hits: each stage's scores, size and time.

        Raises:
            InputError: an option or filter that means nothing, or hybrid=True without sparse
                vectors.
            StoreError: the server failed for longer than retries last, or refused the filter.

        Source: arXiv:2205.13147 (Matryoshka vectors, re-ranked from small to large).
        """
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
            return run(explaining(wish, self._settings, self._roles.query), self._tools)
        return run(searching(wish, self._settings, self._roles.query), self._tools)
