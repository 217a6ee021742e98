"""LangChain's own suites, its stores and its caches, over the adapter."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from langchain_classic.storage import LocalFileStore
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_postgres import Column, PGEngine, PGVectorStore
from langchain_qdrant import QdrantVectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError
from qdrant_client import QdrantClient, models

from taskvec.adapters.langchain import TaskvecEmbeddings, cached
from taskvec.core import Encoder
from taskvec.core.errors import InputError

DIM = 16
TEXTS = ["open a file", "close the queue", "parse time"]


@pytest.fixture
def embeddings(encoder: Encoder) -> TaskvecEmbeddings:
    return TaskvecEmbeddings(embedder=encoder, dim=DIM)


@pytest.fixture
def symmetric(encoder: Encoder) -> TaskvecEmbeddings:
    """For suites that expect a text to be nearest to itself, which random LoRAs do not grant."""
    return TaskvecEmbeddings(embedder=encoder, dim=DIM, task="text-matching")


@pytest.fixture
def engine(dsn: str) -> Iterator[PGEngine]:
    url = dsn.replace("postgresql://", "postgresql+psycopg://")
    opened = PGEngine.from_connection_string(url)
    opened.init_vectorstore_table("texts", DIM, id_column=Column("langchain_id", "VARCHAR"))
    yield opened
    asyncio.run_coroutine_threadsafe(opened.close(), opened._default_loop).result()


@pytest.fixture
def qdrant_store(embeddings: TaskvecEmbeddings) -> QdrantVectorStore:
    client = QdrantClient(":memory:")
    params = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    client.create_collection("texts", vectors_config=params)
    return QdrantVectorStore(client, "texts", embedding=embeddings)


@pytest.fixture
def postgres_store(embeddings: TaskvecEmbeddings, engine: PGEngine) -> PGVectorStore:
    return PGVectorStore.create_sync(engine, embeddings, "texts")


class TestUnitSuite(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return TaskvecEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "starter", "dim": 64}


class TestIntegrationSuite(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return TaskvecEmbeddings

    @pytest.fixture
    def model(self, checkpoint: Path) -> Embeddings:
        return TaskvecEmbeddings(model=str(checkpoint), dtype="float32")


class TestPostgresStoreSuite(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, symmetric: TaskvecEmbeddings, engine: PGEngine) -> VectorStore:
        return PGVectorStore.create_sync(engine, symmetric, "texts")

    @property
    def has_get_by_ids(self) -> bool:
        return True


def similarity(encoder: Encoder, query: str, passage: str) -> float:
    a = encoder.encode(query, task="retrieval.query", dim=DIM)
    return float(a @ encoder.encode(passage, task="retrieval.passage", dim=DIM))


def test_qdrant_store_compares_query_vectors_with_passage_vectors(
    qdrant_store: QdrantVectorStore, encoder: Encoder
) -> None:
    qdrant_store.add_texts(TEXTS)
    found = qdrant_store.similarity_search_with_score("open", k=3)
    assert {document.page_content for document, _ in found} == set(TEXTS)
    for document, score in found:
        assert score == pytest.approx(similarity(encoder, "open", document.page_content), abs=1e-5)


def test_postgres_store_compares_query_vectors_with_passage_vectors(
    postgres_store: PGVectorStore, encoder: Encoder
) -> None:
    postgres_store.add_texts(TEXTS)
    found = postgres_store.similarity_search_with_score("open", k=3)
    assert {document.page_content for document, _ in found} == set(TEXTS)
    for document, distance in found:
        expected = 1 - similarity(encoder, "open", document.page_content)
        assert distance == pytest.approx(expected, abs=1e-5)


def test_postgres_store_holds_the_passage_vectors(
    postgres_store: PGVectorStore, encoder: Encoder, conn: psycopg.Connection
) -> None:
    postgres_store.add_texts(TEXTS)
    stored = conn.execute("SELECT content, embedding::real[] FROM texts").fetchall()
    for text, vector in stored:
        expected = encoder.encode(text, task="retrieval.passage", dim=DIM)
        np.testing.assert_allclose(vector, expected, atol=1e-6)


async def test_async_retriever_uses_both_tasks(encoder: Encoder) -> None:
    store = InMemoryVectorStore(TaskvecEmbeddings(embedder=encoder, dim=DIM))
    await store.aadd_documents([Document(page_content=text) for text in TEXTS])
    found = await store.asimilarity_search_with_score("open", k=1)
    document, score = found[0]
    assert score == pytest.approx(similarity(encoder, "open", document.page_content), abs=1e-5)


def test_vectors_are_plain_floats(embeddings: TaskvecEmbeddings) -> None:
    assert {type(value) for value in embeddings.embed_query("a")} == {float}
    assert {type(value) for row in embeddings.embed_documents(TEXTS) for value in row} == {float}


def test_construction_loads_nothing() -> None:
    made = TaskvecEmbeddings(model="/no/such/folder", dim=64)
    assert made.model_name == "/no/such/folder"


def test_settings_survive_a_round_trip() -> None:
    made = TaskvecEmbeddings(model="some", dim=64, task="text-matching", device="cpu")
    assert TaskvecEmbeddings(**made.model_dump()) == made
    assert TaskvecEmbeddings(**made.model_dump(by_alias=True)) == made


def test_injected_encoder_is_not_part_of_the_settings(encoder: Encoder) -> None:
    made = TaskvecEmbeddings(embedder=encoder)
    assert "embedder" not in made.model_dump()
    assert "embedder" not in repr(made)


@pytest.mark.parametrize(
    "options", [{"dim": 0}, {"dim": -8}, {"dim": "64"}, {"dim": True}, {"model": 3}, {"dims": 64}]
)
def test_wrong_options_are_refused_at_construction(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TaskvecEmbeddings(**options)


def test_cache_namespace_differs_by_role_and_dim(encoder: Encoder) -> None:
    small, full = (TaskvecEmbeddings(embedder=encoder, dim=dim) for dim in (8, None))
    names = [made.cache_namespace(role) for made in (small, full) for role in ("query", "passage")]
    assert len(set(names)) == 4
    with pytest.raises(InputError, match="document"):
        small.cache_namespace("document")  # type: ignore[arg-type]


def test_cache_namespace_is_one_for_a_symmetric_task(encoder: Encoder) -> None:
    made = TaskvecEmbeddings(embedder=encoder, task="text-matching")
    assert made.cache_namespace("query") == made.cache_namespace("passage")


def test_cached_vectors_are_those_of_the_role_and_dim(encoder: Encoder) -> None:
    store = InMemoryByteStore()
    for dim in (8, 16, 8):  # the last one reads what the first one wrote
        plain = TaskvecEmbeddings(embedder=encoder, dim=dim)
        kept = cached(plain, store)
        for _ in range(2):
            assert kept.embed_query("open a file") == plain.embed_query("open a file")
            assert kept.embed_documents(TEXTS) == plain.embed_documents(TEXTS)
    assert len(list(store.yield_keys())) == 2 * (1 + len(TEXTS))


def test_wrong_arguments_of_a_cache_are_refused_at_once(embeddings: TaskvecEmbeddings) -> None:
    store = InMemoryByteStore()
    for given, kept, message in (
        (embeddings, "vectors", "store is str: expected a byte store"),
        ("starter", store, "embeddings is str: expected TaskvecEmbeddings"),
        (DeterministicFakeEmbedding(size=DIM), store, "embeddings is DeterministicFakeEmbedding:"),
        (cached(embeddings, store), store, "CacheBackedEmbeddings, which is cached already"),
    ):
        with pytest.raises(InputError, match=message):
            cached(given, kept)
    with pytest.raises(InputError, match="batch_size is 0"):
        cached(embeddings, store, batch_size=0)


async def test_async_cached_vectors_are_those_of_the_role(
    embeddings: TaskvecEmbeddings,
) -> None:
    store = InMemoryByteStore()
    kept = cached(embeddings, store)
    for _ in range(2):
        assert await kept.aembed_query("open a file") == embeddings.embed_query("open a file")
        assert await kept.aembed_documents(TEXTS) == embeddings.embed_documents(TEXTS)
        assert await kept.aembed_documents([]) == []
    assert len(list(store.yield_keys())) == 1 + len(TEXTS)


def test_cached_vectors_are_read_and_not_made_again(
    checkpoint: Path, tmp_path: Path, embeddings: TaskvecEmbeddings
) -> None:
    with Encoder.load(checkpoint, dtype="float32") as own:
        own.fingerprint(task=None)
        kept = cached(TaskvecEmbeddings(embedder=own, dim=DIM), LocalFileStore(tmp_path))
        query, documents = kept.embed_query("open"), kept.embed_documents(TEXTS)
    # A closed encoder encodes nothing any more.
    assert kept.embed_query("open") == query == embeddings.embed_query("open")
    assert kept.embed_documents(TEXTS) == documents


def test_a_changed_lora_does_not_meet_old_cached_vectors(checkpoint: Path, tmp_path: Path) -> None:
    from tests.checkpoints import tiny_checkpoint

    store = InMemoryByteStore()
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    for folder in (checkpoint, other):
        plain = TaskvecEmbeddings(model=str(folder), dtype="float32")
        assert cached(plain, store).embed_query("open") == plain.embed_query("open")


async def test_event_loop_runs_on_while_texts_are_encoded(embeddings: TaskvecEmbeddings) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(embeddings.aembed_documents(TEXTS * 20) for _ in range(8)))
    ticking.cancel()
    assert ticks > 8


async def test_async_calls_make_no_thread_each(embeddings: TaskvecEmbeddings) -> None:
    await embeddings.aembed_query("warm")
    before = threading.active_count()
    calls = asyncio.gather(*(embeddings.aembed_query(f"list {i}") for i in range(64)))
    await asyncio.sleep(0)
    during = threading.active_count()
    await calls
    assert during <= before + 1


def test_cached_tasks_and_dims_share_a_store_and_no_entry(encoder: Encoder) -> None:
    store = InMemoryByteStore()
    settings: list[dict[str, Any]] = [
        {"task": "separation"},
        {"task": "classification"},
        {"passage_task": None, "query_task": None},
        {"dim": 8},
        {},
    ]
    for _ in range(2):  # the second time reads
        for options in settings:
            plain = TaskvecEmbeddings(embedder=encoder, **options)
            kept = cached(plain, store)
            assert kept.embed_documents(TEXTS) == plain.embed_documents(TEXTS)
            assert kept.embed_query(TEXTS[0]) == plain.embed_query(TEXTS[0])
    # A symmetric task has one entry for both roles of a text, others have two.
    assert len(list(store.yield_keys())) == 3 * len(TEXTS) + 2 * (len(TEXTS) + 1)


async def test_what_was_cached_in_one_way_is_read_in_the_other(
    checkpoint: Path, embeddings: TaskvecEmbeddings
) -> None:
    store = InMemoryByteStore()
    with Encoder.load(checkpoint, dtype="float32") as own:
        kept = cached(TaskvecEmbeddings(embedder=own, dim=DIM), store)
        query, documents = kept.embed_query("open"), await kept.aembed_documents(TEXTS)
    # A closed encoder encodes nothing any more.
    assert await kept.aembed_query("open") == query == embeddings.embed_query("open")
    assert kept.embed_documents(TEXTS) == documents == embeddings.embed_documents(TEXTS)


@pytest.mark.parametrize("cut", [0, 3, 4, 4 * DIM - 4])
async def test_an_entry_that_was_cut_short_is_made_again(
    embeddings: TaskvecEmbeddings, cut: int
) -> None:
    store = InMemoryByteStore()
    kept = cached(embeddings, store)
    expected = kept.embed_documents(TEXTS)
    for key in list(store.yield_keys()):
        [value] = store.mget([key])
        store.mset([(key, (value or b"")[:cut])])
    assert kept.embed_documents(TEXTS) == expected
    assert {len(value or b"") for value in store.mget(list(store.yield_keys()))} == {4 * DIM}


def test_threads_share_a_cache_without_mixing_roles(
    embeddings: TaskvecEmbeddings, tmp_path: Path
) -> None:
    kept = cached(embeddings, LocalFileStore(tmp_path))
    wanted = {
        "query": [embeddings.embed_query(text) for text in TEXTS],
        "passage": embeddings.embed_documents(TEXTS),
    }

    def work(number: int) -> bool:
        # Texts of several threads may share a batch, which moves the last digits.
        if number % 2:
            return np.allclose(kept.embed_documents(TEXTS), wanted["passage"], atol=1e-5)
        queries = [kept.embed_query(text) for text in TEXTS]
        return np.allclose(queries, wanted["query"], atol=1e-5)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(64)))


def test_late_chunks_are_embedded_in_their_document(
    embeddings: TaskvecEmbeddings, encoder: Encoder
) -> None:
    document, spans = "open the file. close it.", [(0, 14), (15, 24)]
    expected = encoder.encode_chunks(document, spans, dim=DIM)
    found = embeddings.embed_chunks(document, spans)
    np.testing.assert_array_equal(np.asarray(found, dtype=np.float32), expected)
    assert asyncio.run(embeddings.aembed_chunks(document, spans)) == found
    with pytest.raises(InputError):
        embeddings.embed_chunks(document, [(0, 99)])
