"""LlamaIndex's index, pipeline and caches over the adapter."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from pydantic import ValidationError
from qdrant_client import QdrantClient

from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.core import Encoder
from taskvec.core.errors import InputError

TEXTS = ["open a file", "close the queue", "parse time", "lock the thread"]
PRESET = [1.0] + [0.0] * 15


@pytest.fixture
def embedding(encoder: Encoder) -> TaskvecEmbedding:
    return TaskvecEmbedding(embedder=encoder, dim=16)


@pytest.fixture
def by_name(checkpoint: Path) -> TaskvecEmbedding:
    return TaskvecEmbedding(model_name=str(checkpoint), dtype="float32", dim=16)


def passage(encoder: Encoder, text: str, dim: int = 16) -> Any:
    return pytest.approx(encoder.encode(text, task="retrieval.passage", dim=dim), abs=1e-6)


def query(encoder: Encoder, text: str, dim: int = 16) -> Any:
    return pytest.approx(encoder.encode(text, task="retrieval.query", dim=dim), abs=1e-6)


def similarity(encoder: Encoder, asked: str, stored: str) -> float:
    a = encoder.encode(asked, task="retrieval.query", dim=16)
    return float(a @ encoder.encode(stored, task="retrieval.passage", dim=16))


def test_index_compares_query_vectors_with_passage_vectors(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=embedding)
    found = index.as_retriever(similarity_top_k=4).retrieve("open")
    assert {hit.text for hit in found} == set(TEXTS)
    for hit in found:
        assert hit.score == pytest.approx(similarity(encoder, "open", hit.text), abs=1e-5)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
def test_index_on_qdrant_compares_query_vectors_with_passage_vectors(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    store = QdrantVectorStore("texts", client=QdrantClient(":memory:"))
    context = StorageContext.from_defaults(vector_store=store)
    nodes = [TextNode(text=text) for text in TEXTS]
    index = VectorStoreIndex(nodes, embed_model=embedding, storage_context=context)
    for hit in index.as_retriever(similarity_top_k=4).retrieve("open"):
        assert hit.score == pytest.approx(similarity(encoder, "open", hit.text), abs=1e-5)


async def test_async_retrieval_compares_query_vectors_with_passage_vectors(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    pipeline = IngestionPipeline(transformations=[embedding])
    nodes = await pipeline.arun(nodes=[TextNode(text=text) for text in TEXTS])
    index = VectorStoreIndex(list(nodes), embed_model=embedding)
    for hit in await index.as_retriever(similarity_top_k=4).aretrieve("open"):
        assert hit.score == pytest.approx(similarity(encoder, "open", hit.text), abs=1e-5)


def test_settings_take_it_as_the_default_model(
    embedding: TaskvecEmbedding, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_embed_model", None)
    Settings.embed_model = embedding
    index = VectorStoreIndex([TextNode(text="open a file")])
    stored = next(iter(index.vector_store.data.embedding_dict.values()))
    assert stored == passage(encoder, "open a file")


def test_preset_embedding_of_a_node_is_kept(embedding: TaskvecEmbedding, encoder: Encoder) -> None:
    nodes = [TextNode(text="late chunk", embedding=PRESET), TextNode(text="open a file")]
    given = embedding(nodes)
    assert given is nodes
    assert nodes[0].embedding == PRESET
    assert nodes[1].embedding == passage(encoder, "open a file")


async def test_preset_embedding_of_a_node_is_kept_in_async_calls(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    nodes = [TextNode(text="open a file"), TextNode(text="late chunk", embedding=PRESET)]
    await embedding.acall(nodes)
    assert nodes[0].embedding == passage(encoder, "open a file")
    assert nodes[1].embedding == PRESET


def test_pipeline_keeps_preset_embeddings(embedding: TaskvecEmbedding) -> None:
    pipeline = IngestionPipeline(transformations=[embedding])
    nodes = pipeline.run(nodes=[TextNode(text="late chunk", embedding=PRESET)])
    assert nodes[0].embedding == PRESET


def test_embeddings_cache_keeps_roles_tasks_and_dims_apart(encoder: Encoder) -> None:
    store = SimpleKVStore()
    for _ in range(2):
        for dim in (8, 16):
            made = TaskvecEmbedding(embedder=encoder, dim=dim, embeddings_cache=store)
            assert made.get_text_embedding("open") == passage(encoder, "open", dim)
            assert made.get_query_embedding("open") == query(encoder, "open", dim)
            assert made.get_text_embedding_batch(TEXTS)[0] == passage(encoder, TEXTS[0], dim)
        made = TaskvecEmbedding(embedder=encoder, dim=16, task="separation", embeddings_cache=store)
        expected = encoder.encode("open", task="separation", dim=16)
        assert made.get_text_embedding("open") == pytest.approx(expected, abs=1e-6)
        assert made.get_query_embedding("open") == pytest.approx(expected, abs=1e-6)
    assert len(store.get_all("embeddings")) == 2 * (2 + len(TEXTS)) + 1


async def test_embeddings_cache_keeps_roles_apart_in_async_calls(encoder: Encoder) -> None:
    store = SimpleKVStore()
    for _ in range(2):
        made = TaskvecEmbedding(embedder=encoder, dim=16, embeddings_cache=store)
        assert await made.aget_query_embedding("open") == query(encoder, "open")
        assert await made.aget_text_embedding("open") == passage(encoder, "open")
        batch = await made.aget_text_embedding_batch(["open", *TEXTS])
        assert batch[0] == passage(encoder, "open")
    assert len(store.get_all("embeddings")) == 2 + len(TEXTS)


def test_embeddings_cache_is_read_and_not_made_again(checkpoint: Path) -> None:
    store = SimpleKVStore()
    with Encoder.load(checkpoint, dtype="float32") as own:
        made = TaskvecEmbedding(embedder=own, embeddings_cache=store)
        asked, stored = made.get_query_embedding("open"), made.get_text_embedding_batch(TEXTS)
    # A closed encoder encodes nothing any more.
    assert made.get_query_embedding("open") == asked
    assert made.get_text_embedding_batch(TEXTS) == stored


def test_embeddings_cache_can_be_set_later(embedding: TaskvecEmbedding, encoder: Encoder) -> None:
    embedding.embeddings_cache = store = SimpleKVStore()
    assert embedding.get_text_embedding("open") == passage(encoder, "open")
    assert embedding.get_query_embedding("open") == query(encoder, "open")
    assert embedding.embeddings_cache is store


def test_pipeline_cache_misses_when_a_setting_changes(encoder: Encoder) -> None:
    cache = IngestionCache()
    nodes = [TextNode(text="open a file")]
    for options in ({"dim": 8}, {"dim": 16}, {"dim": 16, "task": "separation"}, {"dim": 8}):
        made = TaskvecEmbedding(embedder=encoder, **options)
        pipeline = IngestionPipeline(transformations=[made], cache=cache)
        got = pipeline.run(nodes=[node.model_copy() for node in nodes])[0].embedding
        task = options.get("task", "retrieval.passage")
        expected = encoder.encode("open a file", task=task, dim=options["dim"])
        assert got == pytest.approx(expected, abs=1e-6)


def test_pipeline_cache_tells_injected_encoders_apart(encoder: Encoder, tmp_path: Path) -> None:
    from tests.checkpoints import tiny_checkpoint

    cache = IngestionCache()
    with Encoder.load(tiny_checkpoint(tmp_path / "other", seed=1), dtype="float32") as other:
        for own in (encoder, other):
            made = TaskvecEmbedding(embedder=own)
            pipeline = IngestionPipeline(transformations=[made], cache=cache)
            got = pipeline.run(nodes=[TextNode(text="open a file")])[0].embedding
            assert got == passage(own, "open a file", 32)


@pytest.mark.timeout(120)  # a pool whose workers cannot start waits for ever
def test_pipeline_workers_load_the_model_for_themselves(
    by_name: TaskvecEmbedding, encoder: Encoder
) -> None:
    # No SentenceSplitter here: in a spawned worker it fetches its tokenizer from the network.
    pipeline = IngestionPipeline(transformations=[by_name])
    nodes = pipeline.run(documents=[Document(text=text) for text in TEXTS], num_workers=2)
    assert sorted(node.get_content() for node in nodes) == sorted(TEXTS)
    for node in nodes:
        assert node.embedding == passage(encoder, node.get_content(MetadataMode.EMBED))


def test_pickled_copy_makes_the_same_vectors(by_name: TaskvecEmbedding) -> None:
    copy = pickle.loads(pickle.dumps(by_name))  # noqa: S301
    assert copy.to_dict() == by_name.to_dict()
    assert copy.get_query_embedding("open") == by_name.get_query_embedding("open")


def test_injected_encoder_is_refused_by_pickle_and_stays_in_use(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    with pytest.raises(InputError, match="model_name"):
        pickle.dumps(embedding)
    assert embedding.get_query_embedding("open") == query(encoder, "open")


def test_settings_survive_a_round_trip() -> None:
    made = TaskvecEmbedding(model_name="some", dim=64, task="text-matching", device="cpu")
    copy = TaskvecEmbedding.from_dict(made.to_dict())
    assert copy.to_dict() == made.to_dict()
    assert TaskvecEmbedding.from_json(made.to_json()).to_dict() == made.to_dict()
    assert made.to_dict()["class_name"] == TaskvecEmbedding.class_name() == "TaskvecEmbedding"


def test_langchains_word_for_the_model_will_do() -> None:
    made = TaskvecEmbedding(model="some")
    assert made.to_dict() == TaskvecEmbedding(model_name="some").to_dict()


def test_construction_loads_nothing() -> None:
    assert TaskvecEmbedding(model_name="/no/such/folder").embed_batch_size == 256


@pytest.mark.parametrize("options", [{"dim": 0}, {"dim": "64"}, {"dim": True}, {"dims": 64}])
def test_wrong_options_are_refused_at_construction(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TaskvecEmbedding(**options)


def test_batches_of_any_size_give_the_same_vectors(encoder: Encoder) -> None:
    made = [TaskvecEmbedding(embedder=encoder, embed_batch_size=size) for size in (1, 3, 256)]
    one, three, all_ = (embedding.get_text_embedding_batch(TEXTS) for embedding in made)
    np.testing.assert_allclose(one, all_, atol=1e-6)
    np.testing.assert_allclose(three, all_, atol=1e-6)


async def test_spans_of_a_document_get_late_chunked_vectors(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    document, spans = "open a file. close the queue", [(0, 12), (13, 28)]
    expected = encoder.encode_chunks(document, spans, task="retrieval.passage", dim=16)
    np.testing.assert_allclose(embedding.get_chunk_embeddings(document, spans), expected, atol=1e-6)
    awaited = await embedding.aget_chunk_embeddings(document, spans)
    np.testing.assert_allclose(awaited, expected, atol=1e-6)
    other = TaskvecEmbedding(embedder=encoder, task="separation")
    expected = encoder.encode_chunks(document, spans, task="separation")
    np.testing.assert_allclose(other.get_chunk_embeddings(document, spans), expected, atol=1e-6)


def test_a_span_outside_the_document_is_refused(embedding: TaskvecEmbedding) -> None:
    with pytest.raises(InputError, match="span"):
        embedding.get_chunk_embeddings("open", [(0, 5)])
