"""Late-chunked nodes in LlamaIndex's stores, through its indexes and pipelines."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from langchain_text_splitters import CharacterTextSplitter
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import LangchainNodeParser, NodeParser
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from llama_index.vector_stores.postgres import PGVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient

from taskvec.core import Encoder
from taskvec.integrations.llama_index import LateChunkingNodeParser, TaskvecEmbedding
from tests.embedders import RecordingEmbedder

DIM = 16
FILES = "Open the file. Read the list.\n\nClose the file.\n\nRead the list."
QUEUE = "Lock the thread. Read the list.\n\nRead the list.\n\nClose the queue."
BLANK = " \n\n "
Held = dict[str, tuple[str, list[float]]]
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")


@dataclass
class Opened:
    """A store, and how to read all that it holds: of each id, its document's id and its vector."""

    store: BasePydanticVectorStore
    read: Callable[[], Held]


def qdrant(_: pytest.FixtureRequest) -> Opened:
    client = QdrantClient(":memory:")

    def read() -> Held:
        points: list[Any] = client.scroll("texts", limit=1000, with_vectors=True)[0]
        return {str(p.id): (p.payload["ref_doc_id"], p.vector) for p in points}

    return Opened(QdrantVectorStore("texts", client=client), read)


def postgres(request: pytest.FixtureRequest) -> Opened:
    dsn = request.getfixturevalue("dsn")
    store = PGVectorStore.from_params(
        connection_string=dsn.replace("://", "+psycopg://", 1),
        async_connection_string=dsn.replace("://", "+psycopg://", 1),
        table_name="texts",
        embed_dim=DIM,
    )
    query = "SELECT node_id, metadata_->>'ref_doc_id', embedding::real[] FROM data_texts"

    def read() -> Held:
        with psycopg.connect(dsn) as conn:
            rows = conn.execute(query).fetchall()
        assert len({node for node, _, _ in rows}) == len(rows)  # this store keeps what comes twice
        return {node: (source, vector) for node, source, vector in rows}

    return Opened(store, read)


@pytest.fixture(params=[qdrant, postgres], ids=lambda make: make.__name__)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    made = request.param(request)
    yield made
    if isinstance(made.store, PGVectorStore):
        asyncio.run(made.store.close())
    else:
        made.store.client.close()


@pytest.fixture
def recorder(encoder: Encoder) -> RecordingEmbedder:
    return RecordingEmbedder(encoder)


@pytest.fixture
def embedding(recorder: RecordingEmbedder) -> TaskvecEmbedding:
    return TaskvecEmbedding(embedder=recorder, dim=DIM)


@pytest.fixture
def parser(embedding: TaskvecEmbedding) -> LateChunkingNodeParser:
    return LateChunkingNodeParser(paragraphs(), embedding)


def paragraphs() -> LangchainNodeParser:
    return LangchainNodeParser(
        CharacterTextSplitter(separator="\n\n", chunk_size=15, chunk_overlap=0)
    )


def documents(*texts: str) -> list[Document]:
    return [Document(text=text, id_=f"{i}.md") for i, text in enumerate(texts)]


def check(held: Held, given: Sequence[Document], parser: NodeParser) -> None:
    """A store holds what its documents are cut into, and nothing else."""
    expected = {node.node_id: node for node in parser(given)}
    assert {key: source for key, (source, _) in held.items()} == {
        key: node.ref_doc_id for key, node in expected.items()
    }
    for key, (_, vector) in held.items():
        np.testing.assert_allclose(vector, expected[key].embedding, atol=1e-5)


def check_found(found: Any, held: Held, encoder: Encoder) -> None:
    """A search compares the query's own vector with all that are stored, and tells how near."""
    query = encoder.encode("open", task="retrieval.query", dim=DIM)
    scores = {key: float(np.asarray(vector) @ query) for key, (_, vector) in held.items()}
    assert {hit.node_id: hit.score for hit in found} == pytest.approx(scores, abs=1e-5)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_an_index_follows_its_documents(
    opened: Opened, embedding: TaskvecEmbedding, parser: NodeParser, recorder: RecordingEmbedder
) -> None:
    index = VectorStoreIndex.from_documents(
        documents(FILES),
        transformations=[parser],
        embed_model=embedding,
        storage_context=StorageContext.from_defaults(vector_store=opened.store),
    )
    given = documents(FILES, QUEUE)
    index.insert(given[1])
    # Each document was read once, as a whole, and no node alone.
    assert [len(call.texts) for call in recorder.calls] == [3, 3]
    check(opened.read(), given, parser)
    changed = documents(FILES, FILES)
    index.update_ref_doc(changed[1])
    check(opened.read(), changed, parser)
    index.delete_ref_doc("0.md")
    check(opened.read(), changed[1:], parser)


def test_the_index_and_one_made_of_the_store_find_what_is_stored(
    opened: Opened, embedding: TaskvecEmbedding, parser: NodeParser, encoder: Encoder
) -> None:
    given = documents(FILES, QUEUE)
    context = StorageContext.from_defaults(vector_store=opened.store)
    index = VectorStoreIndex.from_documents(
        given, transformations=[parser], embed_model=embedding, storage_context=context
    )
    again = VectorStoreIndex.from_vector_store(opened.store, embed_model=embedding)
    for searched in (index, again):
        found = searched.as_retriever(similarity_top_k=20).retrieve("open")
        check_found(found, opened.read(), encoder)
        assert {hit.text for hit in found} == {node.text for node in parser(given)}


@pytest.mark.parametrize("followed_by_embedding", [False, True])
def test_a_pipeline_brings_a_store_up_to_date(
    followed_by_embedding: bool, opened: Opened, embedding: TaskvecEmbedding, parser: NodeParser
) -> None:
    pipeline = IngestionPipeline(
        transformations=[parser, embedding] if followed_by_embedding else [parser],
        vector_store=opened.store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    given = documents(FILES, QUEUE, BLANK)
    pipeline.run(documents=given)
    check(opened.read(), given, parser)
    assert pipeline.run(documents=documents(FILES, QUEUE, BLANK)) == []
    # A word at the end moves all vectors of its document.
    changed = documents(FILES, QUEUE + " now", BLANK)
    again = pipeline.run(documents=changed)
    assert {node.ref_doc_id for node in again} == {"1.md"}
    assert len(again) == 3
    check(opened.read(), changed, parser)
    pipeline.run(documents=changed[:1])
    check(opened.read(), changed[:1], parser)


def test_a_pipeline_that_was_stopped_before_it_wrote_goes_on_from_its_cache(
    opened: Opened, parser: NodeParser, recorder: RecordingEmbedder, tmp_path: Path
) -> None:
    given = documents(FILES, QUEUE)
    stopped = IngestionPipeline(transformations=[parser])
    stopped.run(documents=given)
    stopped.persist(str(tmp_path))
    recorder.calls.clear()
    pipeline = IngestionPipeline(
        transformations=[parser], vector_store=opened.store, docstore=SimpleDocumentStore()
    )
    pipeline.load(str(tmp_path))
    pipeline.run(documents=given)
    assert recorder.calls == []
    check(opened.read(), given, parser)


@pytest.mark.timeout(120)  # a pool whose workers cannot start waits for ever
def test_a_pipelines_workers_fill_a_store_and_its_documents_are_known(
    checkpoint: Path, parser: NodeParser
) -> None:
    by_name = TaskvecEmbedding(model_name=str(checkpoint), dtype="float32", dim=DIM)
    # Postgres has no part in what is new here, which is the workers.
    client = QdrantClient(":memory:")
    pipeline = IngestionPipeline(
        transformations=[LateChunkingNodeParser(paragraphs(), by_name)],
        vector_store=QdrantVectorStore("texts", client=client),
        docstore=SimpleDocumentStore(),
    )
    given = documents(FILES, QUEUE)
    nodes = pipeline.run(documents=given, num_workers=2)
    assert [node.node_id for node in nodes] == [node.node_id for node in parser(given)]
    points: list[Any] = client.scroll("texts", limit=100, with_vectors=True)[0]
    check({str(p.id): (p.payload["ref_doc_id"], p.vector) for p in points}, given, parser)
    assert pipeline.run(documents=given) == []


@pytest.fixture
async def awaited_store(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param is qdrant:
        client = AsyncQdrantClient(":memory:")
        yield QdrantVectorStore("texts", aclient=client)
        await client.close()
    else:
        store = postgres(request).store
        yield store
        await store.close()


@pytest.mark.parametrize(
    "awaited_store", [qdrant, postgres], ids=lambda make: make.__name__, indirect=True
)
async def test_an_awaited_pipeline_and_retriever_do_the_same(
    awaited_store: Any, embedding: TaskvecEmbedding, parser: NodeParser, encoder: Encoder
) -> None:
    pipeline = IngestionPipeline(transformations=[parser, embedding], vector_store=awaited_store)
    given = documents(FILES, QUEUE)
    nodes = await pipeline.arun(documents=given)
    held = {node.node_id: (node.ref_doc_id or "", node.embedding or []) for node in nodes}
    check(held, given, parser)
    index = VectorStoreIndex.from_vector_store(awaited_store, embed_model=embedding)
    found = await index.as_retriever(similarity_top_k=20).aretrieve("open")
    check_found(found, held, encoder)
