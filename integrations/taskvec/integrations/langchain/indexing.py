"""Indexes documents into any vector store of LangChain, by late chunking."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeAlias, overload

from langchain_core.documents import BaseDocumentTransformer
from langchain_core.indexing import IndexingResult, RecordManager, aindex, index
from langchain_core.vectorstores import VectorStore

from taskvec.adapters.langchain import TaskvecEmbeddings, behind_cache
from taskvec.core.errors import InputError, StoreError
from taskvec.core.inputs import check_positive
from taskvec.integrations.langchain.cutting import SOURCE, Cutter, check_splitter
from taskvec.integrations.langchain.delivering import Delivery, pieces_of
from taskvec.integrations.langchain.documents import (
    AnyDocuments,
    Documents,
    Numbered,
    abatches,
    acuts_of,
    batches,
    cuts_of,
    document_bar,
)

Cleanup: TypeAlias = Literal["incremental", "full", "scoped_full"]

_CACHED = (
    "{store} has {kind} as its embeddings, which know a vector by its text alone, and not by its "
    "document: make it with the TaskvecEmbeddings themselves. record_manager= then saves encoding "
    "passages again, cached(embeddings, …) beside the store that of queries; with "
    "late_chunking=False the store may have cached ones"
)


@overload
def index_documents(
    store: VectorStore,
    documents: Documents,
    splitter: BaseDocumentTransformer,
    *,
    embeddings: TaskvecEmbeddings | None = None,
    late_chunking: bool = True,
    ids: Sequence[str] | None = None,
    record_manager: None = None,
    cleanup: Cleanup | None = "scoped_full",
    batch_size: int = 100,
    show_progress: bool = False,
) -> list[str]: ...


@overload
def index_documents(
    store: VectorStore,
    documents: Documents,
    splitter: BaseDocumentTransformer,
    *,
    embeddings: TaskvecEmbeddings | None = None,
    late_chunking: bool = True,
    ids: Sequence[str] | None = None,
    record_manager: RecordManager,
    cleanup: Cleanup | None = "scoped_full",
    batch_size: int = 100,
    show_progress: bool = False,
) -> IndexingResult: ...


def index_documents(
    store: VectorStore,
    documents: Documents,
    splitter: BaseDocumentTransformer,
    *,
    embeddings: TaskvecEmbeddings | None = None,
    late_chunking: bool = True,
    ids: Sequence[str] | None = None,
    record_manager: RecordManager | None = None,
    cleanup: Cleanup | None = "scoped_full",
    batch_size: int = 100,
    show_progress: bool = False,
) -> list[str] | IndexingResult:
    """Cut documents into chunks and put these into a store with late-chunked vectors.

    Each document is read once, as a whole; a chunk's vector (dim,) is pooled from the tokens of its
    span there. The store does what it always does in `add_documents`; it must have been made with
    `TaskvecEmbeddings`, and hand over the chunks' own texts. Any number of threads and tasks may
    index at once, also into one store if it takes writes of several.

    A chunk's metadata is its document's, with `source` (the document's id where it has none),
    `document_id`, `start_index` and `end_index` (a half-open span of characters), and `fingerprint`
    (of its vector). Its id is a UUID made of the document's id and the chunk's number, so that a
    store that replaces rows of the same id replaces chunks; those beyond a document's new end stay.

    With a record manager, chunks go through `langchain_core.indexing.index`: what is there already
    is neither encoded nor written, and `cleanup` removes what is gone. Ids then change with all
    that a vector depends on, so a change anywhere in a document writes all its chunks anew.

    What was written before an error stays; the same call again does it over, or goes on from there
    with a record manager.

    Args:
        store: a vector store whose `embeddings` are `TaskvecEmbeddings`; without late chunking,
            also `cached` ones.
        documents: those to index, whole, or a loader. Blank ones have no chunks. Pieces that a
            splitter cut before would each be read as a document of its own.
        splitter: a text splitter that only cuts; white space it may change.
        embeddings: the store's; only checked to be so.
        late_chunking: False gives each chunk the vector of its text alone.
        ids: one for each document; by default its own id, or one made of its text and metadata.
        record_manager: LangChain's record of what a store holds.
        cleanup: which chunks to delete, of those that the record manager knows and this call does
            not: "scoped_full" and "incremental" those of the sources in this call, at its end or
            after each batch; "full" all; None none. Without a record manager nothing is deleted.
        batch_size: chunks in one call of the store, at least: documents stay together. With a
            record manager, exactly.
        show_progress: whether to show a bar of documents on stderr.

    Returns:
        The chunks' ids in order; with a record manager, its counts of chunks.

    Raises:
        InputError: two different documents of the same id, a chunk that is no part of its
            document, metadata that has a chunk's own key, another count of ids, or a cleanup
            without a record manager.
        StoreError: the store has other embeddings, changes texts, or gets vectors from elsewhere.

    Example:
        store = InMemoryVectorStore(TaskvecEmbeddings())
        index_documents(store, documents, splitter=RecursiveCharacterTextSplitter(chunk_size=500))
    """
    used = _embeddings_of(store, embeddings, late=late_chunking)
    _check_options(store, splitter, record_manager, cleanup, batch_size)
    cutter = _cutter(used, splitter, late=late_chunking, by_content=record_manager is not None)
    delivery = Delivery(store, used, late=late_chunking, ahead=batch_size)
    with document_bar(documents, shown=show_progress) as done:
        cuts = cuts_of(cutter, Numbered(documents, ids), done)
        if record_manager is None:
            return [key for some in batches(cuts, batch_size) for key in delivery.write(some)]
        return index(
            (delivery.announce(piece) for cut in cuts for piece in pieces_of(cut)),
            record_manager,
            delivery,
            **_options(cleanup, batch_size),
        )


@overload
async def aindex_documents(
    store: VectorStore,
    documents: AnyDocuments,
    splitter: BaseDocumentTransformer,
    *,
    embeddings: TaskvecEmbeddings | None = None,
    late_chunking: bool = True,
    ids: Sequence[str] | None = None,
    record_manager: None = None,
    cleanup: Cleanup | None = "scoped_full",
    batch_size: int = 100,
    show_progress: bool = False,
) -> list[str]: ...


@overload
async def aindex_documents(
    store: VectorStore,
    documents: AnyDocuments,
    splitter: BaseDocumentTransformer,
    *,
    embeddings: TaskvecEmbeddings | None = None,
    late_chunking: bool = True,
    ids: Sequence[str] | None = None,
    record_manager: RecordManager,
    cleanup: Cleanup | None = "scoped_full",
    batch_size: int = 100,
    show_progress: bool = False,
) -> IndexingResult: ...


async def aindex_documents(
    store: VectorStore,
    documents: AnyDocuments,
    splitter: BaseDocumentTransformer,
    *,
    embeddings: TaskvecEmbeddings | None = None,
    late_chunking: bool = True,
    ids: Sequence[str] | None = None,
    record_manager: RecordManager | None = None,
    cleanup: Cleanup | None = "scoped_full",
    batch_size: int = 100,
    show_progress: bool = False,
) -> list[str] | IndexingResult:
    """`index_documents`, awaited: cuts in threads, and encodes a batch's documents together.

    documents: also an asynchronous iterable.

    Example:
        await aindex_documents(store, loader.alazy_load(), splitter=splitter)
    """
    used = _embeddings_of(store, embeddings, late=late_chunking)
    _check_options(store, splitter, record_manager, cleanup, batch_size)
    # The fingerprint loads the model.
    cutter = await asyncio.to_thread(
        _cutter, used, splitter, late=late_chunking, by_content=record_manager is not None
    )
    delivery = Delivery(store, used, late=late_chunking, ahead=batch_size)
    with document_bar(documents, shown=show_progress) as done:
        async with aclosing(acuts_of(cutter, Numbered(documents, ids), done)) as cuts:
            if record_manager is None:
                written = []
                async for some in abatches(cuts, batch_size):
                    written += await delivery.awrite(some)
                return written
            return await aindex(
                (delivery.announce(piece) async for cut in cuts for piece in pieces_of(cut)),
                record_manager,
                delivery,
                **_options(cleanup, batch_size),
            )


def _embeddings_of(
    store: VectorStore, given: TaskvecEmbeddings | None, *, late: bool
) -> TaskvecEmbeddings:
    """The store's embeddings. Raises StoreError unless they are TaskvecEmbeddings, as given.

    late: False takes those behind a cache, too, for a chunk's vector is then its text's.
    """
    if not isinstance(store, VectorStore):
        raise InputError(f"store is {type(store).__name__}: expected a VectorStore of LangChain's")
    used: object = store.embeddings
    behind = behind_cache(used)
    if behind is not None:
        if late:
            raise StoreError(_CACHED.format(store=type(store).__name__, kind=_kind(used)))
        given, used = behind_cache(given) or given, behind
    if not isinstance(used, TaskvecEmbeddings):
        raise StoreError(
            f"{type(store).__name__} has {_kind(used)} as its embeddings: make it with "
            "TaskvecEmbeddings"
        )
    if given is not None and given != used:
        raise StoreError(
            f"{type(store).__name__} has other embeddings than those given; they differ in "
            f"{_differences(used, given)}: give the store's own, or none"
        )
    return used


def _differences(one: TaskvecEmbeddings, other: object) -> str:
    """Names of options, for a value may be a URL with a password."""
    if type(one) is not type(other):
        return f"their class ({type(one).__name__}, not {type(other).__name__})"
    names = type(one).model_fields
    return ", ".join(name for name in names if getattr(one, name) != getattr(other, name))


def _check_options(
    store: VectorStore,
    splitter: BaseDocumentTransformer,
    record_manager: RecordManager | None,
    cleanup: Cleanup | None,
    batch_size: int,
) -> None:
    check_splitter(splitter)
    if batch_size is None:
        raise InputError("batch_size is None: expected a whole number at least 1")
    check_positive("batch_size", batch_size)
    if record_manager is None and cleanup not in ("scoped_full", None):
        raise InputError(
            f"cleanup={cleanup!r} without a record manager, which alone knows what there is to "
            "delete: give record_manager=, too"
        )
    if record_manager is not None and cleanup is not None and not _deletes(store):
        raise StoreError(f"{type(store).__name__} cannot delete: give cleanup=None")


def _kind(embeddings: object) -> str:
    return "nothing that it tells of" if embeddings is None else type(embeddings).__name__


def _deletes(store: VectorStore) -> bool:
    kind = type(store)
    return kind.delete is not VectorStore.delete or kind.adelete is not VectorStore.adelete


def _cutter(
    embeddings: TaskvecEmbeddings,
    splitter: BaseDocumentTransformer,
    *,
    late: bool,
    by_content: bool,
) -> Cutter:
    fingerprint = embeddings.cache_namespace("passage")
    return Cutter(splitter, fingerprint, late=late, by_content=by_content)


def _options(cleanup: Cleanup | None, batch_size: int) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "cleanup": cleanup,
        "source_id_key": lambda chunk: str(chunk.metadata[SOURCE]),
        "key_encoder": lambda chunk: str(chunk.id),
    }
