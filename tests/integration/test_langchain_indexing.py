"""Late-chunked vectors in LangChain's stores, read back from the stores themselves."""

import asyncio
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.indexing import InMemoryRecordManager
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_text_splitters import (
    CharacterTextSplitter,
    MarkdownHeaderTextSplitter,
    RecursiveCharacterTextSplitter,
)

from taskvec.adapters.langchain import TaskvecEmbeddings, cached
from taskvec.core import Encoder, RemoteEncoder
from taskvec.core.errors import InputError, StoreError
from taskvec.integrations.langchain import aindex_documents, index_documents
from tests.langchain_stores import STORES, Opened, Stored, held
from tests.remote_server import serving

DIM = 16
SHARED = "read the list"
TEXTS = [
    f"open the file\n\n{SHARED}\n\na\n\nclose the file",
    f"time and date\n\n{SHARED}\n\na\n\nparse json file\n\n{SHARED}",
    "   \n",
    "one path",
]
CHUNKS = 4 + 5 + 0 + 1


def documents(texts: list[str] = TEXTS) -> list[Document]:
    return [Document(text, metadata={"source": f"{i}.txt"}) for i, text in enumerate(texts)]


def paragraphs(**options: Any) -> CharacterTextSplitter:
    return CharacterTextSplitter(separator="\n\n", chunk_size=15, chunk_overlap=0, **options)


@pytest.fixture
def embeddings(encoder: Encoder) -> TaskvecEmbeddings:
    return TaskvecEmbeddings(embedder=encoder, dim=DIM)


@pytest.fixture(params=STORES, ids=lambda made: made.__name__)
def opened(request: pytest.FixtureRequest, embeddings: TaskvecEmbeddings) -> Iterator[Opened]:
    made = request.param(embeddings, request)
    yield made
    made.close()


@pytest.fixture
def in_memory(embeddings: TaskvecEmbeddings) -> InMemoryVectorStore:
    return InMemoryVectorStore(embeddings)


def check_late(stored: Stored, texts: dict[str, str], encoder: Encoder) -> None:
    """Every row is the late-chunked vector of its span in the document of its source."""
    by_document: dict[str, list[tuple[Document, list[float]]]] = {}
    for chunk, vector in stored.values():
        by_document.setdefault(chunk.metadata["document_id"], []).append((chunk, vector))
    for rows in by_document.values():
        rows.sort(key=lambda row: row[0].metadata["start_index"])
        text = texts[rows[0][0].metadata["source"]]
        spans = [(c.metadata["start_index"], c.metadata["end_index"]) for c, _ in rows]
        assert [text[start:end] for start, end in spans] == [c.page_content for c, _ in rows]
        expected = encoder.encode_chunks(text, spans, dim=DIM)
        np.testing.assert_allclose([vector for _, vector in rows], expected, atol=1e-5)


def sources(texts: list[str] = TEXTS) -> dict[str, str]:
    return {f"{i}.txt": text for i, text in enumerate(texts)}


def test_every_store_gets_late_chunked_vectors(opened: Opened, encoder: Encoder) -> None:
    ids = index_documents(opened.store, documents(), splitter=paragraphs(), batch_size=3)
    stored = opened.read()
    assert sorted(stored) == sorted(ids)
    assert len(ids) == CHUNKS
    check_late(stored, sources(), encoder)


async def test_every_store_gets_late_chunked_vectors_when_awaited(
    opened: Opened, encoder: Encoder
) -> None:
    ids = await aindex_documents(opened.store, documents(), splitter=paragraphs(), batch_size=3)
    stored = opened.read()
    assert sorted(stored) == sorted(ids)
    assert len(ids) == CHUNKS
    check_late(stored, sources(), encoder)


def test_every_store_is_brought_up_to_date_with_a_record_manager(
    opened: Opened, encoder: Encoder
) -> None:
    manager = InMemoryRecordManager("texts")
    manager.create_schema()

    def indexed(texts: list[str]) -> tuple[int, int, int]:
        done = index_documents(
            opened.store,
            documents(texts),
            splitter=paragraphs(),
            record_manager=manager,
            batch_size=3,
        )
        check_late(opened.read(), sources(texts), encoder)
        assert len(opened.read()) == len(manager.list_keys())
        return done["num_added"], done["num_skipped"], done["num_deleted"]

    assert indexed(TEXTS) == (CHUNKS, 0, 0)
    assert indexed(TEXTS) == (0, CHUNKS, 0)
    # One word more at its end moves the vectors of all chunks of this document, and of no other.
    changed = [TEXTS[0] + " now", *TEXTS[1:]]
    assert indexed(changed) == (4, CHUNKS - 4, 4)


def test_ids_come_in_the_order_of_chunks(opened: Opened) -> None:
    ids = index_documents(opened.store, documents(), splitter=paragraphs())
    stored = opened.read()
    order = [
        (int(chunk.metadata["source"][0]), chunk.metadata["start_index"])
        for chunk, _ in (stored[key] for key in ids)
    ]
    assert order == sorted(order)


def test_a_search_compares_a_query_vector_with_them(opened: Opened, encoder: Encoder) -> None:
    index_documents(opened.store, documents(), splitter=paragraphs())
    query = encoder.encode("open", task="retrieval.query", dim=DIM)
    rows = opened.read().values()
    best = max(float(np.asarray(vector) @ query) for _, vector in rows)
    found = opened.store.similarity_search("open", k=1)[0]
    scores = [
        float(np.asarray(vector) @ query)
        for chunk, vector in rows
        if chunk.page_content == found.page_content
    ]
    assert max(scores) == pytest.approx(best, abs=1e-5)


def test_equal_chunks_of_one_call_keep_their_own_vectors(
    in_memory: InMemoryVectorStore, encoder: Encoder
) -> None:
    index_documents(in_memory, documents(), splitter=paragraphs())
    for text in (SHARED, "a"):
        vectors = [v for chunk, v in held(in_memory).values() if chunk.page_content == text]
        assert len({tuple(vector) for vector in vectors}) == TEXTS[0].count(f"\n{text}\n") + (
            2 if text == SHARED else 1
        )


def of_thread(number: int) -> list[str]:
    return [f"time {number}\n\n{SHARED}\n\nnumber {i} file\n\na" for i in range(3)]


def test_threads_that_index_equal_chunks_at_once_do_not_mix(
    opened: Opened, encoder: Encoder
) -> None:
    def work(number: int) -> None:
        made = [
            Document(text, metadata={"source": f"{number}-{i}"})
            for i, text in enumerate(of_thread(number))
        ]
        index_documents(opened.store, made, splitter=splitter, batch_size=5)

    splitter = CharacterTextSplitter(separator="\n\n", chunk_size=13, chunk_overlap=0)
    if type(opened.store).__name__ == "FAISS":
        pytest.skip("its add_texts is not safe among threads")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    texts = {f"{n}-{i}": text for n in range(8) for i, text in enumerate(of_thread(n))}
    stored = opened.read()
    assert len(stored) == 8 * 3 * 4
    check_late(stored, texts, encoder)


async def test_tasks_that_index_equal_chunks_at_once_do_not_mix(
    opened: Opened, encoder: Encoder
) -> None:
    async def work(number: int) -> None:
        made = [
            Document(text, metadata={"source": f"{number}-{i}"})
            for i, text in enumerate(of_thread(number))
        ]
        await aindex_documents(opened.store, made, splitter=splitter, batch_size=5)

    splitter = CharacterTextSplitter(separator="\n\n", chunk_size=13, chunk_overlap=0)
    await asyncio.gather(*(work(number) for number in range(8)))
    texts = {f"{n}-{i}": text for n in range(8) for i, text in enumerate(of_thread(n))}
    stored = opened.read()
    assert len(stored) == 8 * 3 * 4
    check_late(stored, texts, encoder)


class FromAnotherThread(InMemoryVectorStore):
    """Embeds in a thread that knows nothing of its caller's context, in parts and backwards."""

    def add_documents(self, documents: list[Document], ids: Any = None, **_: Any) -> list[str]:
        with ThreadPoolExecutor(4) as pool:
            parts = [[document] for document in documents][::-1]
            return [key for part in pool.map(super().add_documents, parts) for key in part]


def test_a_store_that_embeds_in_threads_of_its_own_gets_the_right_vectors(
    embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    store = FromAnotherThread(embeddings)
    texts = [text.replace("\n\na\n", "\n") for text in TEXTS]
    index_documents(store, documents(texts), splitter=paragraphs())
    assert len(store.store) == CHUNKS - 2
    check_late(held(store), sources(texts), encoder)


class Copying(InMemoryVectorStore):
    """Embeds copies of its texts."""

    def add_documents(self, documents: list[Document], ids: Any = None, **_: Any) -> list[str]:
        copies = [d.page_content.encode().decode() for d in documents]
        made = [Document(c, metadata=d.metadata) for c, d in zip(copies, documents, strict=True)]
        return super().add_documents(made, ids=ids)


def test_a_store_that_copies_texts_gets_vectors_where_it_is_clear_which(
    embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    store = Copying(embeddings)
    for document in documents([TEXTS[0], TEXTS[3]]):
        index_documents(store, [document], splitter=paragraphs())
    check_late(held(store), {"0.txt": TEXTS[0], "1.txt": TEXTS[3]}, encoder)
    with pytest.raises(StoreError, match=f"2 chunks are '{SHARED}'"):
        index_documents(store, documents(TEXTS[1:2]), splitter=paragraphs())
    assert len(store.store) == 5


class Upper(InMemoryVectorStore):
    """Embeds other texts than it is given."""

    def add_documents(self, documents: list[Document], ids: Any = None, **_: Any) -> list[str]:
        made = [Document(d.page_content.upper(), metadata=d.metadata) for d in documents]
        return super().add_documents(made, ids=ids)


class UpperElsewhere(Upper):
    """The same in a thread that knows nothing of its caller's context."""

    def add_documents(self, documents: list[Document], ids: Any = None, **_: Any) -> list[str]:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(super().add_documents, documents, ids).result()


def test_a_store_that_changes_texts_is_refused_before_it_writes(
    embeddings: TaskvecEmbeddings,
) -> None:
    store = Upper(embeddings)
    with pytest.raises(StoreError, match="'OPEN THE FILE', which is none of the chunks"):
        index_documents(store, documents(), splitter=paragraphs())
    assert store.store == {}


def test_what_a_store_wrote_with_other_vectors_is_deleted(embeddings: TaskvecEmbeddings) -> None:
    store = UpperElsewhere(embeddings)
    manager = InMemoryRecordManager("texts")
    for options in ({}, {"record_manager": manager}):
        with pytest.raises(StoreError, match=r"did not ask.*they were deleted again"):
            index_documents(store, documents(), splitter=paragraphs(), **options)
        assert store.store == {}
        assert manager.list_keys() == []


async def test_what_a_store_wrote_with_other_vectors_is_deleted_when_awaited(
    embeddings: TaskvecEmbeddings,
) -> None:
    class Elsewhere(UpperElsewhere):
        async def aadd_documents(self, documents: Any, ids: Any = None, **_: Any) -> list[str]:
            return await asyncio.to_thread(self.add_documents, documents, ids)

    store = Elsewhere(embeddings)
    with pytest.raises(StoreError, match=r"did not ask.*they were deleted again"):
        await aindex_documents(store, documents(), splitter=paragraphs())
    assert store.store == {}


def test_after_a_refusal_the_embeddings_work_as_before(
    embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    with pytest.raises(StoreError):
        index_documents(Upper(embeddings), documents(), splitter=paragraphs())
    expected = encoder.encode([SHARED, "a"], task="retrieval.passage", dim=DIM)
    np.testing.assert_allclose(embeddings.embed_documents([SHARED, "a"]), expected, atol=1e-6)


def test_other_calls_get_ordinary_vectors_while_chunks_are_written(
    embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    class Slow(InMemoryVectorStore):
        def add_documents(self, documents: list[Document], ids: Any = None, **_: Any) -> list[str]:
            with ThreadPoolExecutor(1) as pool:
                beside[:] = pool.submit(embeddings.embed_documents, [SHARED, "a"]).result()
            return super().add_documents(documents, ids)

    beside: list[list[float]] = []
    index_documents(Slow(embeddings), documents(), splitter=paragraphs())
    expected = encoder.encode([SHARED, "a"], task="retrieval.passage", dim=DIM)
    np.testing.assert_allclose(beside, expected, atol=1e-6)


def test_another_embedding_is_refused(
    in_memory: InMemoryVectorStore, embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding

    other = TaskvecEmbeddings(embedder=encoder, dim=8)
    for given, difference in ((other, "in dim:"), (cached(other, InMemoryByteStore()), "class")):
        with pytest.raises(StoreError, match=f"other embeddings than those given.*{difference}"):
            index_documents(in_memory, documents(), paragraphs(), embeddings=given)
    for used, advice in (
        (DeterministicFakeEmbedding(size=DIM), "make it with TaskvecEmbeddings"),
        (cached(embeddings, InMemoryByteStore()), r"record_manager=.*late_chunking=False"),
    ):
        with pytest.raises(StoreError, match=f"{type(used).__name__}.*{advice}"):
            index_documents(InMemoryVectorStore(used), documents(), splitter=paragraphs())
    assert in_memory.store == {}


def test_equal_embeddings_are_as_good(in_memory: InMemoryVectorStore, encoder: Encoder) -> None:
    same = TaskvecEmbeddings(embedder=encoder, dim=DIM)
    index_documents(in_memory, documents(), splitter=paragraphs(), embeddings=same)
    check_late(held(in_memory), sources(), encoder)


def test_without_late_chunking_a_chunk_has_the_vector_of_its_text(
    opened: Opened, encoder: Encoder
) -> None:
    index_documents(opened.store, documents(), splitter=paragraphs(), late_chunking=False)
    for chunk, vector in opened.read().values():
        expected = encoder.encode(chunk.page_content, task="retrieval.passage", dim=DIM)
        np.testing.assert_allclose(vector, expected, atol=1e-5)
        start, end = chunk.metadata["start_index"], chunk.metadata["end_index"]
        assert sources()[chunk.metadata["source"]][start:end] == chunk.page_content


async def test_without_late_chunking_cached_vectors_will_do(
    embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    kept = InMemoryByteStore()
    plain = InMemoryVectorStore(embeddings)
    index_documents(plain, documents(), splitter=paragraphs(), late_chunking=False)
    for given in (None, cached(embeddings, kept), embeddings):
        store = InMemoryVectorStore(cached(embeddings, kept))
        options: dict[str, Any] = {"late_chunking": False, "embeddings": given}
        index_documents(store, documents(), paragraphs(), **options)
        await aindex_documents(store, documents(), paragraphs(), **options)
        assert list(store.store) == list(plain.store)
        for key, row in store.store.items():
            np.testing.assert_allclose(row["vector"], plain.store[key]["vector"], atol=1e-5)
            assert row["metadata"] == plain.store[key]["metadata"]
    texts = {row["text"] for row in plain.store.values()}
    assert len(list(kept.yield_keys())) == len(texts)
    other = TaskvecEmbeddings(embedder=encoder, dim=8)
    with pytest.raises(StoreError, match=r"other embeddings than those given.*in dim:"):
        index_documents(store, documents(), paragraphs(), late_chunking=False, embeddings=other)


def test_fingerprint_tells_late_chunks_and_dims_apart(encoder: Encoder) -> None:
    seen = set()
    for dim in (8, 16):
        for late in (True, False):
            store = InMemoryVectorStore(TaskvecEmbeddings(embedder=encoder, dim=dim))
            index_documents(store, documents(), splitter=paragraphs(), late_chunking=late)
            [found] = {chunk.metadata["fingerprint"] for chunk, _ in held(store).values()}
            seen.add(found)
    assert len(seen) == 4


def test_another_dim_or_manner_is_indexed_anew(encoder: Encoder) -> None:
    manager = InMemoryRecordManager("texts")
    for dim in (8, 16):
        for late in (True, False):
            store = InMemoryVectorStore(TaskvecEmbeddings(embedder=encoder, dim=dim))
            done = index_documents(
                store,
                documents(),
                splitter=paragraphs(),
                late_chunking=late,
                record_manager=manager,
            )
            assert done["num_added"] == CHUNKS


async def test_record_manager_works_when_awaited(
    in_memory: InMemoryVectorStore, encoder: Encoder
) -> None:
    manager = InMemoryRecordManager("texts")

    async def load() -> AsyncIterator[Document]:
        for document in documents():
            yield document

    counts = []
    for _ in range(2):
        done = await aindex_documents(
            in_memory, load(), splitter=paragraphs(), record_manager=manager, batch_size=2
        )
        counts.append((done["num_added"], done["num_skipped"]))
    assert counts == [(CHUNKS, 0), (0, CHUNKS)]
    check_late(held(in_memory), sources(), encoder)


def test_what_is_indexed_already_is_not_encoded_again(checkpoint: Any) -> None:
    manager = InMemoryRecordManager("texts")
    with Encoder.load(checkpoint, dtype="float32") as own:
        own.fingerprint("retrieval.passage", DIM)
        store = InMemoryVectorStore(TaskvecEmbeddings(embedder=own, dim=DIM))
        index_documents(store, documents(), splitter=paragraphs(), record_manager=manager)
    # A closed encoder encodes nothing any more.
    done = index_documents(store, documents(), splitter=paragraphs(), record_manager=manager)
    assert done["num_skipped"] == CHUNKS


def test_a_record_manager_in_a_database_serves_another_run(
    in_memory: InMemoryVectorStore, tmp_path: Path
) -> None:
    for expected in ({"num_added": CHUNKS}, {"num_skipped": CHUNKS}):
        manager = SQLRecordManager("texts", db_url=f"sqlite:///{tmp_path / 'records'}")
        manager.create_schema()
        done = index_documents(
            in_memory, documents(), splitter=paragraphs(), record_manager=manager
        )
        manager.engine.dispose()
        assert {key: count for key, count in done.items() if count} == expected


@pytest.mark.parametrize("metadata", [{}, {"source": None}, {"source": ""}])
def test_documents_without_a_source_do_not_clean_up_each_other(
    in_memory: InMemoryVectorStore, metadata: dict[str, Any]
) -> None:
    manager = InMemoryRecordManager("texts")
    for text in ("open the file", "close the file"):
        made = [Document(text, metadata=metadata)]
        index_documents(in_memory, made, splitter=paragraphs(), record_manager=manager)
    assert len(in_memory.store) == 2


@pytest.mark.parametrize(("late", "anew"), [(True, 2), (False, 1)])
def test_a_change_beside_a_chunk_counts_where_its_vector_knows_of_it(
    in_memory: InMemoryVectorStore, encoder: Encoder, late: bool, anew: int
) -> None:
    manager = InMemoryRecordManager("texts")
    for added, end in ((2, "close the file"), (anew, "close the path")):
        text = f"open the file\n\n{end}"
        done = index_documents(
            in_memory,
            [Document(text, id="7", metadata={"source": "0.txt"})],
            splitter=paragraphs(),
            late_chunking=late,
            record_manager=manager,
        )
        assert done["num_added"] == added
        assert len(in_memory.store) == 2
    if late:
        check_late(held(in_memory), {"0.txt": text}, encoder)


def test_full_cleanup_removes_documents_that_are_gone(in_memory: InMemoryVectorStore) -> None:
    manager = InMemoryRecordManager("texts")
    options: dict[str, Any] = {"splitter": paragraphs(), "record_manager": manager}
    index_documents(in_memory, documents(), **options)
    index_documents(in_memory, documents()[:1], **options)
    assert len(in_memory.store) == CHUNKS
    index_documents(in_memory, documents()[:1], cleanup="full", **options)
    assert {chunk.metadata["source"] for chunk, _ in held(in_memory).values()} == {"0.txt"}


def test_ids_are_the_same_each_time_and_rows_are_replaced(in_memory: InMemoryVectorStore) -> None:
    first = index_documents(in_memory, documents(), splitter=paragraphs())
    again = index_documents(in_memory, documents(), splitter=paragraphs())
    assert first == again
    assert len(set(first)) == len(in_memory.store) == CHUNKS
    assert [str(uuid.UUID(key)) for key in first] == first


def test_a_changed_document_of_a_given_id_replaces_its_chunks(
    in_memory: InMemoryVectorStore, encoder: Encoder
) -> None:
    for text in ("open the file\n\nclose the file", "open the path\n\nclose the path"):
        made = [Document(text, metadata={"source": "0.txt"})]
        index_documents(in_memory, made, splitter=paragraphs(), ids=["first"])
    check_late(held(in_memory), {"0.txt": text}, encoder)
    assert len(in_memory.store) == 2
    assert {c.metadata["document_id"] for c, _ in held(in_memory).values()} == {"first"}


def test_a_documents_own_id_and_metadata_go_with_its_chunks(in_memory: InMemoryVectorStore) -> None:
    made = [Document("open the file\n\nclose it", id="7", metadata={"page": 3})]
    index_documents(in_memory, made, splitter=paragraphs())
    for chunk, _ in held(in_memory).values():
        assert chunk.metadata["page"] == 3
        assert chunk.metadata["source"] == chunk.metadata["document_id"] == "7"
    assert made[0].metadata == {"page": 3}


def test_a_document_that_comes_twice_is_indexed_once(in_memory: InMemoryVectorStore) -> None:
    ids = index_documents(in_memory, documents() + documents(), splitter=paragraphs())
    assert len(ids) == CHUNKS


def test_two_documents_of_one_id_are_refused(in_memory: InMemoryVectorStore) -> None:
    made = [Document("a b", id="7"), Document("c d", id="7")]
    with pytest.raises(InputError, match=r"documents\[0\] and documents\[1\] have the same id '7'"):
        index_documents(in_memory, made, splitter=paragraphs())


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (["text"], {}, r"documents\[0\] is str"),
        (
            paragraphs(add_start_index=True).split_documents(documents()),
            {},
            r"documents\[0\] has 'start_index'.*give whole documents",
        ),
        ([Document("a b")], {"cleanup": "full"}, "cleanup='full' without a record manager"),
        ([Document("a b")], {"cleanup": "ful"}, "cleanup='ful' without a record manager"),
        (
            [Document("a b")],
            {"splitter": MarkdownHeaderTextSplitter([("#", "title")])},
            "splitter is MarkdownHeaderTextSplitter: expected a TextSplitter.*Header splitters",
        ),
        (Document("text"), {}, "documents is Document"),
        ("text", {}, "documents is str"),
        (5, {}, "documents is int"),
        ([Document("a b", metadata={"end_index": 3})], {}, r"documents\[0\] has 'end_index'"),
        ([Document("a b", metadata={"x": object()})], {}, r"documents\[0\] has metadata"),
        ([Document("a b")], {"ids": ["1", "2"]}, "2 ids for 1 documents"),
        (iter([Document("a b")]), {"ids": ["1", "2"]}, "2 ids for 1 documents"),
        ([Document("a b")], {"ids": "1"}, "ids is str"),
        ([Document("a b")], {"ids": [7]}, "id 7"),
        ([Document("a b")], {"batch_size": 0}, "batch_size is 0"),
        ([Document("a b")], {"splitter": str.split}, "splitter is method_descriptor"),
    ],
)
async def test_wrong_arguments_are_refused_by_name(
    in_memory: InMemoryVectorStore, made: Any, options: dict[str, Any], message: str
) -> None:
    options = {"splitter": paragraphs()} | options
    with pytest.raises(InputError, match=message):
        index_documents(in_memory, made, **options)
    if not isinstance(made, Iterator):
        with pytest.raises(InputError, match=message):
            await aindex_documents(in_memory, made, **options)
    assert in_memory.store == {}


def test_a_store_that_cannot_delete_needs_no_cleanup(embeddings: TaskvecEmbeddings) -> None:
    class Keeping(VectorStore):
        def __init__(self) -> None:
            self.inner = InMemoryVectorStore(embeddings)

        @property
        def embeddings(self) -> TaskvecEmbeddings:
            return embeddings

        def add_texts(self, texts: Any, metadatas: Any = None, **options: Any) -> list[str]:
            return self.inner.add_texts(texts, metadatas, **options)

        def similarity_search(self, query: str, k: int = 4, **_: Any) -> list[Document]:
            return self.inner.similarity_search(query, k)

        @classmethod
        def from_texts(cls, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    manager = InMemoryRecordManager("texts")
    options: dict[str, Any] = {"splitter": paragraphs(), "record_manager": manager}
    with pytest.raises(StoreError, match="Keeping cannot delete"):
        index_documents(Keeping(), documents(), **options)
    done = index_documents(Keeping(), documents(), cleanup=None, **options)
    assert done["num_added"] == CHUNKS


class Bare(BaseDocumentTransformer):
    """Drops its documents' metadata."""

    def transform_documents(self, documents: Any, **_: Any) -> list[Document]:
        return [Document(part) for d in documents for part in d.page_content.split("\n\n")]


class Interning(BaseDocumentTransformer):
    """Gives equal chunks as one string object."""

    def transform_documents(self, documents: Any, **_: Any) -> list[Document]:
        parts = [sys.intern(part) for d in documents for part in d.page_content.split("\n\n")]
        return [Document(part) for part in parts]


def test_equal_chunks_that_are_one_string_keep_their_own_vectors(
    embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    for store in (InMemoryVectorStore(embeddings), FromAnotherThread(embeddings)):
        texts = [text.replace("\n\na\n", "\n") for text in TEXTS]
        index_documents(store, documents(texts), splitter=Interning())
        check_late(held(store), sources(texts), encoder)


def test_metadata_stays_with_a_splitter_that_drops_it(
    in_memory: InMemoryVectorStore, encoder: Encoder
) -> None:
    index_documents(in_memory, documents(), splitter=Bare())
    check_late(held(in_memory), sources(), encoder)


class Prefixing(BaseDocumentTransformer):
    def transform_documents(self, documents: Any, **_: Any) -> list[Document]:
        return [Document(f"title: {d.page_content}", metadata=d.metadata) for d in documents]


def test_a_splitter_that_adds_text_is_refused_by_document(in_memory: InMemoryVectorStore) -> None:
    with pytest.raises(
        InputError,
        match=r"documents\[0\]: chunk 0, 'title: .* is no part.*, or late_chunking=False",
    ):
        index_documents(in_memory, documents(), splitter=Prefixing())


def test_progress_is_shown_on_demand(
    in_memory: InMemoryVectorStore, capsys: pytest.CaptureFixture[str]
) -> None:
    index_documents(in_memory, documents(), splitter=paragraphs())
    assert capsys.readouterr().err == ""
    index_documents(in_memory, documents(), splitter=paragraphs(), show_progress=True)
    assert "4/4" in capsys.readouterr().err


def test_a_document_is_read_once_however_its_chunks_fall_into_batches(
    in_memory: InMemoryVectorStore, encoder: Encoder
) -> None:
    before = encoder.stats().requests
    text = "\n\n".join(f"file {i}" for i in range(20))
    index_documents(
        in_memory,
        [Document(text, metadata={"source": "0.txt"})],
        splitter=CharacterTextSplitter(separator="\n\n", chunk_size=7, chunk_overlap=0),
        record_manager=InMemoryRecordManager("texts"),
        batch_size=3,
    )
    assert encoder.stats().requests == before + 1
    assert len(in_memory.store) == 20
    check_late(held(in_memory), {"0.txt": text}, encoder)


def test_a_cancelled_call_does_not_write_ordinary_vectors_later(
    embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    go, done = threading.Event(), threading.Event()

    class Late(InMemoryVectorStore):
        def add_documents(self, documents: list[Document], ids: Any = None, **_: Any) -> list[str]:
            go.wait(10)
            try:
                return super().add_documents(documents, ids)
            finally:
                done.set()

        async def aadd_documents(
            self, documents: list[Document], ids: Any = None, **_: Any
        ) -> list[str]:
            return await VectorStore.aadd_documents(self, documents, ids=ids)

    store = Late(embeddings)

    async def cancel() -> None:
        task = asyncio.create_task(aindex_documents(store, documents(), splitter=paragraphs()))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await asyncio.to_thread(done.wait, 10)

    asyncio.run(cancel())
    check_late(held(store), sources(), encoder)


async def test_an_encoder_over_http_makes_the_same_vectors(encoder: Encoder) -> None:
    with serving(encoder) as server, RemoteEncoder(server.url) as remote:
        for work in (index_documents, aindex_documents):
            store = InMemoryVectorStore(TaskvecEmbeddings(embedder=remote, dim=DIM))
            done = work(store, documents(), splitter=paragraphs(), batch_size=3)
            ids = done if isinstance(done, list) else await done
            assert len(ids) == len(store.store) == CHUNKS
            check_late(held(store), sources(), encoder)
        await remote.aclose()


async def test_event_loop_runs_on_while_documents_are_indexed(
    in_memory: InMemoryVectorStore,
) -> None:
    longest, busy = 0.0, True

    async def watch() -> None:
        nonlocal longest
        while busy:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watching = asyncio.create_task(watch())
    texts = [f"{i} " + "open the file\n\nread the list\n\n" * 40 for i in range(40)]
    started = time.perf_counter()
    await aindex_documents(in_memory, documents(texts), splitter=paragraphs())
    took, busy = time.perf_counter() - started, False
    await watching
    assert longest < took / 4


def test_overlapping_chunks_have_their_own_spans(
    in_memory: InMemoryVectorStore, encoder: Encoder
) -> None:
    words = "open the file read the list close the queue parse json time and date "
    text = "".join(f"{i} {words}" for i in range(8))
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=20)
    index_documents(in_memory, documents([text]), splitter=splitter)
    check_late(held(in_memory), sources([text]), encoder)
    spans = sorted(
        (c.metadata["start_index"], c.metadata["end_index"]) for c, _ in held(in_memory).values()
    )
    assert any(after[0] < before[1] for before, after in pairwise(spans))
