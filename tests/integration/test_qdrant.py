"""`models.Document` through ordinary Qdrant clients in local mode, call by call."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.embed.model_embedder import ModelEmbedder

from taskvec.adapters.qdrant import enable_inference, points, query_vector
from taskvec.core import Encoder
from taskvec.core.errors import DimensionError, InputError, StoreError, TaskError

MODEL = "taskvec/starter"
TEXTS = ["open a file", "close the queue", "parse time", "lock the thread", "read json"]
ASKED = "open"
Documents = list[models.Document]


def document(text: str, **options: Any) -> models.Document:
    return models.Document(text=text, model=MODEL, options=options or None)


@pytest.fixture
def client(encoder: Encoder) -> QdrantClient:
    """A client with inference, and a collection "texts" that stores vectors as they come."""
    made = QdrantClient(":memory:")
    made.create_collection("texts", vectors_config=params(32))
    enable_inference(made, embedder=encoder)
    return made


@pytest.fixture
def filled(client: QdrantClient, encoder: Encoder) -> QdrantClient:
    vectors = encoder.encode(TEXTS, task="retrieval.passage").tolist()
    client.upsert("texts", [models.PointStruct(id=i, vector=v) for i, v in enumerate(vectors)])
    return client


def params(size: int) -> models.VectorParams:
    return models.VectorParams(size=size, distance=models.Distance.DOT)


def stored(client: QdrantClient, ids: Any = (0, 1, 2, 3, 4)) -> Any:
    found = client.retrieve("texts", list(ids), with_vectors=True)
    return np.array([point.vector for point in sorted(found, key=lambda point: point.id)])


def scores(encoder: Encoder, task: str = "retrieval.query", asked: str = ASKED) -> Any:
    """What each text must score: its passage vector's product with the query vector."""
    passages = encoder.encode(TEXTS, task="retrieval.passage")
    return pytest.approx(passages @ encoder.encode(asked, task=task), abs=1e-5)


def by_id(found: list[models.ScoredPoint]) -> list[float]:
    return [point.score for point in sorted(found, key=lambda point: point.id)]


WRITES: dict[str, Callable[[QdrantClient, Documents], Any]] = {
    "upsert": lambda client, documents: client.upsert(
        "texts", [models.PointStruct(id=i, vector=d) for i, d in enumerate(documents)]
    ),
    "upsert of a batch": lambda client, documents: client.upsert(
        "texts", models.Batch(ids=list(range(len(documents))), vectors=documents)
    ),
    "upload_points": lambda client, documents: client.upload_points(
        "texts", (models.PointStruct(id=i, vector=d) for i, d in enumerate(documents))
    ),
    "upload_points in parallel": lambda client, documents: client.upload_points(
        "texts", [models.PointStruct(id=i, vector=d) for i, d in enumerate(documents)], parallel=2
    ),
    "upload_collection": lambda client, documents: client.upload_collection(
        "texts", vectors=documents, ids=range(len(documents))
    ),
    "batch_update_points": lambda client, documents: client.batch_update_points(
        "texts",
        [
            models.UpsertOperation(
                upsert=models.PointsList(
                    points=[models.PointStruct(id=i, vector=d) for i, d in enumerate(documents)]
                )
            )
        ],
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_written_documents_get_the_passage_task(
    write: Any, client: QdrantClient, encoder: Encoder
) -> None:
    write(client, [document(text) for text in TEXTS])
    expected = encoder.encode(TEXTS, task="retrieval.passage")
    np.testing.assert_allclose(stored(client), expected, atol=1e-6)


def test_updated_vectors_get_the_passage_task(filled: QdrantClient, encoder: Encoder) -> None:
    filled.update_vectors("texts", [models.PointVectors(id=1, vector=document("new text"))])
    expected = encoder.encode("new text", task="retrieval.passage")
    np.testing.assert_allclose(stored(filled, [1])[0], expected, atol=1e-6)


QUERIES: dict[str, Callable[[QdrantClient, Any], Any]] = {
    "query_points": lambda client, query: client.query_points("texts", query).points,
    "nearest": lambda client, query: (
        client.query_points("texts", models.NearestQuery(nearest=query)).points
    ),
    "inference object": lambda client, query: (
        client.query_points(
            "texts",
            models.InferenceObject(object=query.text, model=query.model, options=query.options),
        ).points
    ),
    "prefetch": lambda client, query: (
        client.query_points("texts", query, prefetch=models.Prefetch(query=query, limit=9)).points
    ),
    "prefetch alone": lambda client, query: (
        client.query_points(
            "texts",
            models.FusionQuery(fusion=models.Fusion.DBSF),
            prefetch=[models.Prefetch(query=query, limit=9)],
        ).points
    ),
    "query_batch_points": lambda client, query: (
        client.query_batch_points("texts", [models.QueryRequest(query=query, limit=9)])[0].points
    ),
    "query_points_groups": lambda client, query: [
        hit
        for group in client.query_points_groups("texts", "group", query, limit=9).groups
        for hit in group.hits
    ],
}


@pytest.mark.parametrize("ask", QUERIES.values(), ids=QUERIES)
def test_queries_get_the_query_task(ask: Any, filled: QdrantClient, encoder: Encoder) -> None:
    for i in range(len(TEXTS)):
        filled.set_payload("texts", {"group": i}, [i])
    found = ask(filled, document(ASKED))
    if ask is not QUERIES["prefetch alone"]:  # which replaces scores by fused ones
        assert by_id(found) == scores(encoder)
    products = encoder.encode(TEXTS, task="retrieval.passage") @ encoder.encode(
        ASKED, task="retrieval.query"
    )
    assert [hit.id for hit in found] == np.argsort(-products).tolist()


def test_recommend_examples_get_the_query_task(filled: QdrantClient, encoder: Encoder) -> None:
    found = filled.query_points(
        "texts",
        models.RecommendQuery(
            recommend=models.RecommendInput(
                positive=[document(ASKED), document("read")], negative=[document("time")]
            )
        ),
    ).points
    good, fine, bad = encoder.encode([ASKED, "read", "time"], task="retrieval.query")
    mean = (good + fine) / 2
    target = mean + mean - bad
    passages = encoder.encode(TEXTS, task="retrieval.passage")
    assert by_id(found) == pytest.approx(passages @ target, abs=1e-5)


def test_options_name_the_task_and_dim(client: QdrantClient, encoder: Encoder) -> None:
    client.create_collection("named", vectors_config={"full": params(32), "small": params(8)})
    both = {"full": document("open a file"), "small": document("open a file", dim=8)}
    client.upsert("named", [models.PointStruct(id=0, vector=both)])
    kept = client.retrieve("named", [0], with_vectors=True)[0].vector
    for name, dim in (("full", 32), ("small", 8)):
        expected = encoder.encode("open a file", task="retrieval.passage", dim=dim)
        np.testing.assert_allclose(kept[name], expected, atol=1e-6)
    found = client.query_points(
        "named",
        document("open a file", task="text-matching"),
        using="full",
        prefetch=models.Prefetch(query=document("open a file", dim=8), using="small"),
    ).points
    expected = kept["full"] @ encoder.encode("open a file", task="text-matching")
    assert found[0].score == pytest.approx(expected, abs=1e-5)


def test_option_task_none_means_base_weights(filled: QdrantClient, encoder: Encoder) -> None:
    found = filled.query_points("texts", document(ASKED, task=None)).points
    expected = encoder.encode(TEXTS, task="retrieval.passage") @ encoder.encode(ASKED)
    assert by_id(found) == pytest.approx(expected, abs=1e-5)


def test_documents_of_mixed_options_keep_their_order(
    client: QdrantClient, encoder: Encoder
) -> None:
    tasks = ["separation", "retrieval.query", "separation", "classification", "retrieval.query"]
    made = [document(text, task=task) for text, task in zip(TEXTS, tasks, strict=True)]
    client.upsert("texts", [models.PointStruct(id=i, vector=d) for i, d in enumerate(made)])
    np.testing.assert_allclose(stored(client), encoder.encode(TEXTS, task=tasks), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dims": 8}, InputError, "dims"),
        ({"task": "retrieval"}, TaskError, "retrieval"),
        ({"dim": 9}, DimensionError, "9"),
    ],
)
def test_wrong_options_are_refused(
    client: QdrantClient, options: dict[str, Any], error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        client.query_points("texts", document(ASKED, **options))
    with pytest.raises(error, match=words):
        client.upsert("texts", [models.PointStruct(id=0, vector=document(ASKED, **options))])


def test_a_refused_call_leaves_the_client_usable(filled: QdrantClient, encoder: Encoder) -> None:
    with pytest.raises(TaskError):
        filled.query_points("texts", document(ASKED, task="none such"))
    assert by_id(filled.query_points("texts", document(ASKED)).points) == scores(encoder)


def test_model_that_was_not_enabled_is_named(client: QdrantClient) -> None:
    with pytest.raises(InputError, match=r"taskvec/other.*taskvec/starter"):
        client.query_points("texts", models.Document(text=ASKED, model="taskvec/other"))


def test_images_are_refused(client: QdrantClient) -> None:
    with pytest.raises(InputError, match="texts only"):
        client.query_points("texts", models.Image(image="aGk=", model=MODEL))


def test_models_of_others_go_to_the_stock_embedder(client: QdrantClient) -> None:
    with pytest.raises(ValueError, match="among supported models"):
        client.query_points("texts", models.Document(text=ASKED, model="BAAI/bge-small-en"))


def test_bm25_still_goes_to_the_server_as_text(encoder: Encoder) -> None:
    client = QdrantClient("http://localhost:1", check_compatibility=False)
    enable_inference(client, embedder=encoder)
    bm25 = models.Document(text=ASKED, model="Qdrant/bm25")
    given = models.PointStruct(id=0, vector={"sparse": bm25, "dense": document(ASKED)})
    (sent,) = client._embed_models([given])
    assert (sent.vector["sparse"].text, sent.vector["sparse"].model) == (ASKED, "Qdrant/bm25")
    expected = encoder.encode(ASKED, task="retrieval.passage")
    np.testing.assert_allclose(sent.vector["dense"], expected, atol=1e-6)


def test_two_models_serve_one_client(filled: QdrantClient, encoder: Encoder) -> None:
    enable_inference(filled, "second", embedder=encoder, task="separation")
    second = models.Document(text=ASKED, model="taskvec/second")
    assert by_id(filled.query_points("texts", second).points) == scores(encoder, "separation")
    assert by_id(filled.query_points("texts", document(ASKED)).points) == scores(encoder)


def test_enabling_again_replaces_the_settings(filled: QdrantClient, encoder: Encoder) -> None:
    enable_inference(filled, embedder=encoder, task="separation")
    found = filled.query_points("texts", document(ASKED)).points
    assert by_id(found) == scores(encoder, "separation")


def test_threads_of_one_client_do_not_mix_up_texts(filled: QdrantClient, encoder: Encoder) -> None:
    texts = [f"list {i} of the queue" for i in range(100)]

    def ask(text: str) -> list[float]:
        return by_id(filled.query_points("texts", document(text)).points)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, texts))
    expected = encoder.encode(texts, task="retrieval.query")
    expected = expected @ encoder.encode(TEXTS, task="retrieval.passage").T
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_large_uploads_keep_texts_and_ids_together(client: QdrantClient, encoder: Encoder) -> None:
    texts = [f"list {i} of the queue" for i in range(300)]
    client.upload_points(
        "texts", (models.PointStruct(id=i, vector=document(t)) for i, t in enumerate(texts))
    )
    expected = encoder.encode(texts, task="retrieval.passage")
    np.testing.assert_allclose(stored(client, range(300)), expected, atol=1e-5)


def test_inference_batch_size_of_the_user_is_kept(encoder: Encoder) -> None:
    client = QdrantClient(":memory:", local_inference_batch_size=3)
    enable_inference(client, embedder=encoder)
    assert client.local_inference_batch_size == 3


def test_cloud_inference_is_refused(encoder: Encoder) -> None:
    client = QdrantClient("http://localhost:1", cloud_inference=True, check_compatibility=False)
    with pytest.raises(InputError, match="cloud_inference"):
        enable_inference(client, embedder=encoder)


def test_client_without_the_known_inference_step_is_refused(encoder: Encoder) -> None:
    client = QdrantClient(":memory:")
    del client._model_embedder
    with pytest.raises(StoreError, match="qdrant-client"):
        enable_inference(client, embedder=encoder)
    client._model_embedder = ModelEmbedder()
    del client._model_embedder._embed_storage
    with pytest.raises(StoreError, match="qdrant-client"):
        enable_inference(client, embedder=encoder)


async def test_async_client_uses_both_tasks_in_every_call(encoder: Encoder) -> None:
    client = AsyncQdrantClient(":memory:")
    enable_inference(client, embedder=encoder)
    await client.create_collection("texts", vectors_config=params(32))
    await client.upsert("texts", [models.PointStruct(id=0, vector=document(TEXTS[0]))])
    client.upload_points("texts", [models.PointStruct(id=1, vector=document(TEXTS[1]))])
    client.upload_collection("texts", [document(TEXTS[2])], ids=[2])
    await client.upsert("texts", models.Batch(ids=[3, 4], vectors=[document("x"), document("y")]))
    await client.update_vectors(
        "texts", [models.PointVectors(id=i, vector=document(TEXTS[i])) for i in (3, 4)]
    )
    for i in range(len(TEXTS)):
        await client.set_payload("texts", {"group": i}, [i])
    kept = await client.retrieve("texts", list(range(len(TEXTS))), with_vectors=True)
    expected = encoder.encode(TEXTS, task="retrieval.passage")
    np.testing.assert_allclose([point.vector for point in kept], expected, atol=1e-6)

    query = document(ASKED)
    plain = await client.query_points("texts", query)
    fetched = await client.query_points("texts", query, prefetch=models.Prefetch(query=query))
    batch = await client.query_batch_points("texts", [models.QueryRequest(query=query)])
    grouped = await client.query_points_groups("texts", "group", query)
    groups = [hit for group in grouped.groups for hit in group.hits]
    for found in (plain.points, fetched.points, batch[0].points, groups):
        assert by_id(found) == scores(encoder)


async def test_async_calls_at_once_do_not_mix_up_texts(encoder: Encoder) -> None:
    client = AsyncQdrantClient(":memory:")
    enable_inference(client, embedder=encoder)
    await client.create_collection("texts", vectors_config=params(32))
    await client.upsert("texts", points(TEXTS, embedder=encoder, ids=list(range(len(TEXTS)))))
    asked = [f"list {i}" for i in range(30)]
    answers = await asyncio.gather(
        *(client.query_points("texts", document(text)) for text in asked)
    )
    for text, answer in zip(asked, answers, strict=True):
        assert by_id(answer.points) == scores(encoder, asked=text)


def test_points_and_query_vector_fit_together(client: QdrantClient, encoder: Encoder) -> None:
    made = points(TEXTS, embedder=encoder)
    client.upsert("texts", made)
    found = client.query_points("texts", query_vector(ASKED, embedder=encoder)).points
    assert {hit.payload["text"] for hit in found} == set(TEXTS)
    for hit in found:
        a = encoder.encode(ASKED, task="retrieval.query")
        expected = a @ encoder.encode(hit.payload["text"], task="retrieval.passage")
        assert hit.score == pytest.approx(expected, abs=1e-5)


def test_second_upload_of_the_same_points_adds_none(client: QdrantClient, encoder: Encoder) -> None:
    for _ in range(2):
        client.upload_points("texts", points(TEXTS, embedder=encoder))
    assert client.count("texts").count == len(TEXTS)


def test_same_words_of_two_documents_are_two_points(encoder: Encoder) -> None:
    payloads = [{"source": "a"}, {"source": "b"}, {"source": "a"}]
    first, second, again = points(["same"] * 3, embedder=encoder, payloads=payloads)
    assert first.id != second.id
    assert first.id == again.id
    assert second.payload == {"source": "b"}


def test_points_take_ids_payloads_and_a_vector_name(encoder: Encoder) -> None:
    made = points(["a", "b"], embedder=encoder, dim=8, ids=[7, 8], using="d8")
    assert [point.id for point in made] == [7, 8]
    expected = encoder.encode(["a", "b"], task="retrieval.passage", dim=8)
    np.testing.assert_allclose([point.vector["d8"] for point in made], expected, atol=1e-6)


def test_points_take_late_chunked_vectors(encoder: Encoder) -> None:
    text = "open the file and read the list"
    spans = [(0, 13), (13, len(text))]
    vectors = encoder.encode_chunks(text, spans)
    made = points([text[a:b] for a, b in spans], vectors=vectors, model="/no/such/model")
    np.testing.assert_allclose([point.vector for point in made], vectors, atol=1e-7)


@pytest.mark.parametrize("option", ["ids", "payloads", "vectors"])
def test_points_refuse_lists_of_another_length(encoder: Encoder, option: str) -> None:
    with pytest.raises(InputError, match=f"1 {option} for 2 texts"):
        points(["a", "b"], embedder=encoder, **{option: [{}]})


def test_points_of_lone_surrogates_have_ids(encoder: Encoder) -> None:
    made = points(["\ud800"], embedder=encoder, payloads=[{}])
    assert made == points(["\ud800"], embedder=encoder, payloads=[{}])
