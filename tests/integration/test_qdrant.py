"""`models.Document` through ordinary Qdrant clients, call by call.

They use the local engine, or the server that TASKVEC_TEST_QDRANT_URL names, in collections of their
own.
"""

import asyncio
import gc
import inspect
import itertools
import multiprocessing
import os
import re
import socket
import sys
import threading
import tomllib
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.embed.embedder import Embedder as StockEmbedder
from qdrant_client.embed.model_embedder import ModelEmbedder
from qdrant_client.local.qdrant_local import QdrantLocal

from taskvec.adapters.qdrant import TESTED, enable_inference, points, query_vector
from taskvec.core import Encoder
from taskvec.core.errors import DimensionError, InputError, StoreError, TaskError
from tests.embedders import StubEmbedder, vector_of
from tests.matrix import VERSIONS

MODEL = "taskvec/starter"
SERVER = "TASKVEC_TEST_QDRANT_URL"
OURS = f"taskvec_test_{uuid.uuid4().hex}"  # on a server, others may test beside us
NAME, NAMED = f"{OURS}_texts", f"{OURS}_named"
TEXTS = ["open a file", "close the queue", "parse time", "lock the thread", "read json"]
ASKED = "open"
Documents = list[models.Document]


def document(text: str, **options: Any) -> models.Document:
    return models.Document(text=text, model=MODEL, options=options or None)


def opened(kind: type[Any] = QdrantClient) -> Any:
    """A client of the server that the environment names, or of the local engine."""
    url = os.environ.get(SERVER)
    if url is None:
        return kind(":memory:")
    try:
        # Whichever kind is asked for: this one can be asked without an event loop.
        QdrantClient(url=url, check_compatibility=False).get_collections()
    except Exception as error:
        raise RuntimeError(f"{SERVER}: no Qdrant answers at {url}: {error}") from error
    return kind(url=url)


@pytest.fixture
def qdrant() -> Iterator[QdrantClient]:
    """A client as it comes, with the empty collection NAME, and NAMED of two vectors."""
    client = opened()
    client.create_collection(NAME, vectors_config=params(32))
    client.create_collection(NAMED, vectors_config={"full": params(32), "small": params(8)})
    yield client
    for name in (NAME, NAMED):
        client.delete_collection(name)
    client.close()


@pytest.fixture
def client(qdrant: QdrantClient, encoder: Encoder) -> QdrantClient:
    """A client with inference."""
    enable_inference(qdrant, embedder=encoder)
    return qdrant


@pytest.fixture
async def aclient() -> AsyncIterator[AsyncQdrantClient]:
    """An async client as it comes, with the same collections, each of the stub's dims."""
    client = opened(AsyncQdrantClient)
    await client.create_collection(NAME, vectors_config=params(32))
    await client.create_collection(NAMED, vectors_config={"full": params(16), "small": params(8)})
    yield client
    for name in (NAME, NAMED):
        await client.delete_collection(name)
    await client.close()


@pytest.fixture
def filled(client: QdrantClient, encoder: Encoder) -> QdrantClient:
    vectors = encoder.encode(TEXTS, task="retrieval.passage").tolist()
    client.upsert(NAME, [models.PointStruct(id=i, vector=v) for i, v in enumerate(vectors)])
    return client


def params(size: int) -> models.VectorParams:
    return models.VectorParams(size=size, distance=models.Distance.DOT)


def stored(client: QdrantClient, ids: Any = (0, 1, 2, 3, 4)) -> Any:
    found = client.retrieve(NAME, list(ids), with_vectors=True)
    return np.array([point.vector for point in sorted(found, key=lambda point: point.id)])


def scores(encoder: Encoder, task: str = "retrieval.query", asked: str = ASKED) -> Any:
    """What each text must score: its passage vector's product with the query vector."""
    passages = encoder.encode(TEXTS, task="retrieval.passage")
    return pytest.approx(passages @ encoder.encode(asked, task=task), abs=1e-5)


def by_id(found: list[models.ScoredPoint]) -> list[float]:
    return [point.score for point in sorted(found, key=lambda point: point.id)]


WRITES: dict[str, Callable[[QdrantClient, Documents], Any]] = {
    "upsert": lambda client, documents: client.upsert(
        NAME, [models.PointStruct(id=i, vector=d) for i, d in enumerate(documents)]
    ),
    "upsert of a batch": lambda client, documents: client.upsert(
        NAME, models.Batch(ids=list(range(len(documents))), vectors=documents)
    ),
    "upload_points": lambda client, documents: client.upload_points(
        NAME, (models.PointStruct(id=i, vector=d) for i, d in enumerate(documents)), wait=True
    ),
    "upload_points without parallel": lambda client, documents: client.upload_points(
        NAME,
        [models.PointStruct(id=i, vector=d) for i, d in enumerate(documents)],
        parallel=None if isinstance(client._client, QdrantLocal) else 1,
        wait=True,
    ),
    "upload_collection": lambda client, documents: client.upload_collection(
        NAME, vectors=documents, ids=range(len(documents)), wait=True
    ),
    "batch_update_points": lambda client, documents: client.batch_update_points(
        NAME,
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
    filled.update_vectors(NAME, [models.PointVectors(id=1, vector=document("new text"))])
    expected = encoder.encode("new text", task="retrieval.passage")
    np.testing.assert_allclose(stored(filled, [1])[0], expected, atol=1e-6)


QUERIES: dict[str, Callable[[QdrantClient, Any], Any]] = {
    "query_points": lambda client, query: client.query_points(NAME, query).points,
    "nearest": lambda client, query: (
        client.query_points(NAME, models.NearestQuery(nearest=query)).points
    ),
    "inference object": lambda client, query: (
        client.query_points(
            NAME,
            models.InferenceObject(object=query.text, model=query.model, options=query.options),
        ).points
    ),
    "prefetch": lambda client, query: (
        client.query_points(NAME, query, prefetch=models.Prefetch(query=query, limit=9)).points
    ),
    "prefetch alone": lambda client, query: (
        client.query_points(
            NAME,
            models.FusionQuery(fusion=models.Fusion.DBSF),
            prefetch=[models.Prefetch(query=query, limit=9)],
        ).points
    ),
    "query_batch_points": lambda client, query: (
        client.query_batch_points(NAME, [models.QueryRequest(query=query, limit=9)])[0].points
    ),
    "query_points_groups": lambda client, query: [
        hit
        for group in client.query_points_groups(NAME, "group", query, limit=9).groups
        for hit in group.hits
    ],
}


@pytest.mark.parametrize("ask", QUERIES.values(), ids=QUERIES)
def test_queries_get_the_query_task(ask: Any, filled: QdrantClient, encoder: Encoder) -> None:
    for i in range(len(TEXTS)):
        filled.set_payload(NAME, {"group": i}, [i])
    found = ask(filled, document(ASKED))
    if ask is not QUERIES["prefetch alone"]:  # which replaces scores by fused ones
        assert by_id(found) == scores(encoder)
    products = encoder.encode(TEXTS, task="retrieval.passage") @ encoder.encode(
        ASKED, task="retrieval.query"
    )
    assert [hit.id for hit in found] == np.argsort(-products).tolist()


def test_recommend_examples_get_the_query_task(filled: QdrantClient, encoder: Encoder) -> None:
    found = filled.query_points(
        NAME,
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
    both = {"full": document("open a file"), "small": document("open a file", dim=8)}
    client.upsert(NAMED, [models.PointStruct(id=0, vector=both)])
    kept = client.retrieve(NAMED, [0], with_vectors=True)[0].vector
    for name, dim in (("full", 32), ("small", 8)):
        expected = encoder.encode("open a file", task="retrieval.passage", dim=dim)
        np.testing.assert_allclose(kept[name], expected, atol=1e-6)
    found = client.query_points(
        NAMED,
        document("open a file", task="text-matching"),
        using="full",
        prefetch=models.Prefetch(query=document("open a file", dim=8), using="small"),
    ).points
    expected = kept["full"] @ encoder.encode("open a file", task="text-matching")
    assert found[0].score == pytest.approx(expected, abs=1e-5)


def test_option_task_none_means_base_weights(filled: QdrantClient, encoder: Encoder) -> None:
    found = filled.query_points(NAME, document(ASKED, task=None)).points
    expected = encoder.encode(TEXTS, task="retrieval.passage") @ encoder.encode(ASKED)
    assert by_id(found) == pytest.approx(expected, abs=1e-5)


def test_documents_of_mixed_options_keep_their_order(
    client: QdrantClient, encoder: Encoder
) -> None:
    tasks = ["separation", "retrieval.query", "separation", "classification", "retrieval.query"]
    made = [document(text, task=task) for text, task in zip(TEXTS, tasks, strict=True)]
    client.upsert(NAME, [models.PointStruct(id=i, vector=d) for i, d in enumerate(made)])
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
        client.query_points(NAME, document(ASKED, **options))
    with pytest.raises(error, match=words):
        client.upsert(NAME, [models.PointStruct(id=0, vector=document(ASKED, **options))])


def test_a_refused_call_leaves_the_client_usable(filled: QdrantClient, encoder: Encoder) -> None:
    with pytest.raises(TaskError):
        filled.query_points(NAME, document(ASKED, task="none such"))
    assert by_id(filled.query_points(NAME, document(ASKED)).points) == scores(encoder)


def test_model_that_was_not_enabled_is_named(client: QdrantClient) -> None:
    with pytest.raises(InputError, match=r"taskvec/other.*taskvec/starter"):
        client.query_points(NAME, models.Document(text=ASKED, model="taskvec/other"))


def test_images_are_refused(client: QdrantClient) -> None:
    with pytest.raises(InputError, match="texts only"):
        client.query_points(NAME, models.Image(image="aGk=", model=MODEL))


def test_models_of_others_go_to_the_stock_embedder(client: QdrantClient) -> None:
    with pytest.raises(ValueError, match="among supported models"):
        client.query_points(NAME, models.Document(text=ASKED, model="BAAI/bge-small-en"))


def test_an_enabled_model_without_its_prefix_is_told_of(client: QdrantClient) -> None:
    with pytest.raises(InputError, match="taskvec's model is 'taskvec/starter'"):
        client.query_points(NAME, models.Document(text=ASKED, model="starter"))


@pytest.mark.skipif(
    "use_core_bm25" not in inspect.signature(StockEmbedder).parameters,
    reason="this version of qdrant-client lets no server make BM25 vectors",
)
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
    assert by_id(filled.query_points(NAME, second).points) == scores(encoder, "separation")
    assert by_id(filled.query_points(NAME, document(ASKED)).points) == scores(encoder)


def test_enabling_again_replaces_the_settings(filled: QdrantClient, encoder: Encoder) -> None:
    enable_inference(filled, embedder=encoder, task="separation")
    found = filled.query_points(NAME, document(ASKED)).points
    assert by_id(found) == scores(encoder, "separation")


def test_threads_of_one_client_do_not_mix_up_texts(filled: QdrantClient, encoder: Encoder) -> None:
    texts = [f"list {i} of the queue" for i in range(100)]

    def ask(text: str) -> list[float]:
        return by_id(filled.query_points(NAME, document(text)).points)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, texts))
    expected = encoder.encode(texts, task="retrieval.query")
    expected = expected @ encoder.encode(TEXTS, task="retrieval.passage").T
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_large_uploads_keep_texts_and_ids_together(client: QdrantClient, encoder: Encoder) -> None:
    texts = [f"list {i} of the queue" for i in range(300)]
    client.upload_points(
        NAME,
        (models.PointStruct(id=i, vector=document(t)) for i, t in enumerate(texts)),
        wait=True,
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


def without_inference_step() -> QdrantClient:
    client = QdrantClient(":memory:")
    del client._model_embedder
    return client


def with_another_inference_step() -> QdrantClient:
    client = QdrantClient(":memory:")
    vars(client)["_model_embedder"] = client._model_embedder.embedder
    return client


def without_the_state_of_a_step() -> QdrantClient:
    client = QdrantClient(":memory:")
    del client._model_embedder._embed_storage
    return client


def without_a_method_of_a_step() -> QdrantClient:
    class Moved(ModelEmbedder):
        _embed_accumulator: Any = None

    client = QdrantClient(":memory:")
    client._model_embedder.__class__ = Moved
    return client


def that_sends_texts_elsewhere() -> QdrantClient:
    class Moved(QdrantClient):
        _embed_models_strict = property(lambda self: getattr(self, "moved"))  # noqa: B009

    return Moved(":memory:")


@pytest.mark.parametrize(
    "made",
    [
        without_inference_step,
        with_another_inference_step,
        without_the_state_of_a_step,
        without_a_method_of_a_step,
        that_sends_texts_elsewhere,
    ],
)
def test_client_without_the_known_inference_step_is_refused(
    made: Callable[[], QdrantClient], encoder: Encoder
) -> None:
    client = made()
    before = dict(vars(client)), type(client)
    with pytest.raises(StoreError) as raised:
        enable_inference(client, embedder=encoder)
    assert (vars(client), type(client)) == before
    assert f"qdrant-client {version('qdrant-client')} " in str(raised.value)
    assert f"works with {TESTED}. Install one of these, or use query_vector" in str(raised.value)


def test_client_whose_step_is_in_another_module_is_refused_and_points_work(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client.embed.model_embedder", None)
    monkeypatch.delitem(sys.modules, "taskvec.adapters.qdrant_inference")
    with pytest.raises(StoreError, match=f"works with {TESTED}"):
        enable_inference(QdrantClient(":memory:"), embedder=encoder)
    assert len(points(TEXTS, embedder=encoder)) == len(TEXTS)


def test_the_matrix_is_what_is_said_to_be_tested() -> None:
    first, last = (re.match(r"\d+\.\d+", v)[0] for v in (VERSIONS[0], VERSIONS[-1]))
    assert f"{first} to {last}" == TESTED
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    assert f"qdrant-client>={VERSIONS[0]}" in extras["qdrant"]


def test_a_client_with_inference_goes_when_it_is_let_go(tmp_path: Path, encoder: Encoder) -> None:
    gc.disable()
    try:
        for _ in range(2):
            client = QdrantClient(path=str(tmp_path))  # locks its folder
            enable_inference(client, embedder=encoder)
            gone = weakref.ref(client)
            client.close()
            del client
            assert gone() is None
    finally:
        gc.enable()


def test_a_class_of_the_users_keeps_its_own_calls(encoder: Encoder) -> None:
    class Own(QdrantClient):
        def query_points(self, *arguments: Any, **options: Any) -> Any:
            return "own", super().query_points(*arguments, **options)

    client, plain = Own(":memory:"), QdrantClient(":memory:")
    enable_inference(client, embedder=encoder)
    client.create_collection(NAME, vectors_config=params(32))
    client.upsert(NAME, [models.PointStruct(id=0, vector=document(TEXTS[0]))])
    assert client.query_points(NAME, document(TEXTS[0]))[0] == "own"
    assert isinstance(client, Own)
    assert type(client).__name__ == "Own"
    with pytest.raises((ImportError, ValueError)):  # the class itself is as it was
        plain._embed_models([document(ASKED)]).__next__()


UPLOADS: dict[str, Callable[[Any, Documents, Any], Any]] = {
    "upload_points": lambda client, documents, parallel: client.upload_points(
        NAME,
        (models.PointStruct(id=i, vector=d) for i, d in enumerate(documents)),
        parallel=parallel,
    ),
    "upload_points with names": lambda client, documents, parallel: client.upload_points(
        NAME,
        [models.PointStruct(id=i, vector={"full": d}) for i, d in enumerate(documents)],
        parallel=parallel,
    ),
    "upload_collection": lambda client, documents, parallel: client.upload_collection(
        NAME, documents, parallel=parallel
    ),
    "upload_collection with names": lambda client, documents, parallel: client.upload_collection(
        NAME, ({"full": d} for d in documents), parallel=parallel
    ),
}


@pytest.mark.parametrize("parallel", [0, 2])
@pytest.mark.parametrize("kind", [QdrantClient, AsyncQdrantClient])
@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS)
def test_upload_by_processes_without_an_encoder_is_refused(
    upload: Any, kind: type[Any], parallel: int, encoder: Encoder
) -> None:
    for client in (kind(":memory:"), kind("http://127.0.0.1:1", check_compatibility=False)):
        enable_inference(client, embedder=encoder)
        with ran(encoder, texts=0), pytest.raises(InputError, match=rf"parallel={parallel} .*at 1"):
            upload(client, [document(text) for text in TEXTS], parallel)
        assert multiprocessing.active_children() == []


def test_later_texts_of_a_parallel_upload_are_refused_too(client: QdrantClient) -> None:
    made = [models.PointStruct(id=0, vector=[0.0] * 32)]
    given = client._embed_models_strict(
        itertools.chain(made, [models.PointStruct(id=1, vector=document(ASKED))]), parallel=2
    )
    with pytest.raises(InputError, match="parallel=2"):
        list(given)


def test_made_vectors_go_up_in_parallel(client: QdrantClient, encoder: Encoder) -> None:
    made = points(TEXTS, embedder=encoder, ids=range(len(TEXTS)))
    client.upload_points(NAME, made, parallel=2, wait=True)
    expected = encoder.encode(TEXTS, task="retrieval.passage")
    np.testing.assert_allclose(stored(client), expected, atol=1e-6)


@contextmanager
def ran(encoder: Encoder, *, texts: int, calls: int | None = None) -> Iterator[None]:
    """The block runs this many texts through the model, in so many calls of the encoder."""
    before = encoder.stats()
    yield
    after = encoder.stats()
    assert after.texts - before.texts == texts
    if calls is not None:
        assert after.requests - before.requests == calls


def test_vectors_of_one_text_take_one_pass(client: QdrantClient, encoder: Encoder) -> None:
    both = [{"full": document(text), "small": document(text, dim=8)} for text in TEXTS]
    with ran(encoder, texts=len(TEXTS), calls=1):
        client.upsert(NAMED, [models.PointStruct(id=i, vector=v) for i, v in enumerate(both)])
    for point in client.retrieve(NAMED, range(len(TEXTS)), with_vectors=True):
        for name, dim in (("full", 32), ("small", 8)):
            expected = encoder.encode(TEXTS[point.id], task="retrieval.passage", dim=dim)
            np.testing.assert_allclose(point.vector[name], expected, atol=1e-6)


def test_uploaded_vectors_of_one_text_take_one_pass(client: QdrantClient, encoder: Encoder) -> None:
    texts = [f"list {i} of the queue" for i in range(100)]
    both = ({"full": document(text), "small": document(text, dim=8)} for text in texts)
    with ran(encoder, texts=len(texts), calls=2):  # of 64 points each
        client.upload_collection(NAMED, both, ids=range(len(texts)), wait=True)
    kept = client.retrieve(NAMED, range(len(texts)), with_vectors=["small"])
    expected = encoder.encode(texts, task="retrieval.passage", dim=8)
    np.testing.assert_allclose([point.vector["small"] for point in kept], expected, atol=1e-5)


@pytest.mark.parametrize("dims", [(None, 8), (8, 16), (16, None, 8), (8, 8), (32, None)])
def test_a_cut_of_the_larger_vector_is_the_smaller_one(
    dims: tuple[int | None, ...], client: QdrantClient, encoder: Encoder
) -> None:
    asked = [models.PointStruct(id=i, vector=document(ASKED, dim=d)) for i, d in enumerate(dims)]
    with ran(encoder, texts=1, calls=1):
        made = list(client._embed_models(asked))
    for dim, point in zip(dims, made, strict=True):
        expected = encoder.encode(ASKED, task="retrieval.passage", dim=dim)
        np.testing.assert_allclose(point.vector, expected, atol=1e-6)


def test_vectors_of_two_tasks_stay_apart(client: QdrantClient, encoder: Encoder) -> None:
    both = {"full": document(ASKED), "small": document(ASKED, task="retrieval.query", dim=8)}
    with ran(encoder, texts=2, calls=1):
        client.upsert(NAMED, [models.PointStruct(id=0, vector=both)])
    kept = client.retrieve(NAMED, [0], with_vectors=True)[0].vector
    full = encoder.encode(ASKED, task="retrieval.passage")
    small = encoder.encode(ASKED, task="retrieval.query", dim=8)
    np.testing.assert_allclose(kept["full"], full, atol=1e-6)
    np.testing.assert_allclose(kept["small"], small, atol=1e-6)


def test_two_models_of_one_encoder_take_one_call(client: QdrantClient, encoder: Encoder) -> None:
    enable_inference(client, "short", embedder=encoder, dim=8)
    short = models.Document(text=ASKED, model="taskvec/short")
    with ran(encoder, texts=1, calls=1):
        client.upsert(
            NAMED, [models.PointStruct(id=0, vector={"full": document(ASKED), "small": short})]
        )


def test_query_and_prefetch_of_one_text_take_one_pass(
    client: QdrantClient, encoder: Encoder
) -> None:
    small = models.Prefetch(query=document(ASKED, dim=8), using="small")
    others = [models.Prefetch(query=document(t, dim=8), using="small") for t in TEXTS]
    request = models.QueryRequest(query=document(ASKED), using="full", prefetch=[small])
    with ran(encoder, texts=1, calls=1):
        client.query_points(NAMED, document(ASKED), using="full", prefetch=small)
    with ran(encoder, texts=1 + len(TEXTS), calls=1):
        client.query_points(NAMED, document(ASKED), using="full", prefetch=[small, *others])
    with ran(encoder, texts=1, calls=1):
        client.query_points_groups(
            NAMED, "group", query=document(ASKED), using="full", prefetch=small
        )
    with ran(encoder, texts=1, calls=1):
        client.query_batch_points(NAMED, [request, request])


def test_a_wrong_dim_beside_a_right_one_is_refused(client: QdrantClient) -> None:
    for wrong, error in ((9, DimensionError), (40, DimensionError), ("8", DimensionError)):
        both = {"full": document(ASKED), "small": document(ASKED, dim=wrong)}
        with pytest.raises(error, match=f"unknown dim {wrong!r}"):
            client.upsert(NAMED, [models.PointStruct(id=0, vector=both)])
    assert client.count(NAMED).count == 0


async def test_async_client_uses_both_tasks_in_every_call(
    aclient: AsyncQdrantClient, encoder: Encoder
) -> None:
    client = aclient
    enable_inference(client, embedder=encoder)
    await client.upsert(NAME, [models.PointStruct(id=0, vector=document(TEXTS[0]))])
    client.upload_points(NAME, [models.PointStruct(id=1, vector=document(TEXTS[1]))], wait=True)
    client.upload_collection(NAME, [document(TEXTS[2])], ids=[2], wait=True)
    await client.upsert(NAME, models.Batch(ids=[3, 4], vectors=[document("x"), document("y")]))
    await client.update_vectors(
        NAME, [models.PointVectors(id=i, vector=document(TEXTS[i])) for i in (3, 4)]
    )
    for i in range(len(TEXTS)):
        await client.set_payload(NAME, {"group": i}, [i])
    kept = await client.retrieve(NAME, list(range(len(TEXTS))), with_vectors=True)
    expected = encoder.encode(TEXTS, task="retrieval.passage")
    np.testing.assert_allclose([point.vector for point in kept], expected, atol=1e-6)

    query = document(ASKED)
    plain = await client.query_points(NAME, query)
    fetched = await client.query_points(NAME, query, prefetch=models.Prefetch(query=query))
    batch = await client.query_batch_points(NAME, [models.QueryRequest(query=query)])
    grouped = await client.query_points_groups(NAME, "group", query)
    groups = [hit for group in grouped.groups for hit in group.hits]
    for found in (plain.points, fetched.points, batch[0].points, groups):
        assert by_id(found) == scores(encoder)


async def test_async_calls_at_once_do_not_mix_up_texts(
    aclient: AsyncQdrantClient, encoder: Encoder
) -> None:
    client = aclient
    enable_inference(client, embedder=encoder)
    await client.upsert(NAME, points(TEXTS, embedder=encoder, ids=list(range(len(TEXTS)))))
    asked = [f"list {i}" for i in range(30)]
    answers = await asyncio.gather(*(client.query_points(NAME, document(text)) for text in asked))
    for text, answer in zip(asked, answers, strict=True):
        assert by_id(answer.points) == scores(encoder, asked=text)


def two(text: str) -> dict[str, models.Document]:
    return {"full": document(text, dim=16), "small": document(text, dim=8)}


AWAITED: dict[str, Callable[[AsyncQdrantClient], Any]] = {
    "upsert": lambda client: client.upsert(
        NAMED, [models.PointStruct(id=1, vector=two("read")), models.PointStruct(id=2, vector={})]
    ),
    "upsert of a batch": lambda client: client.upsert(
        NAMED,
        models.Batch(ids=[1], vectors={n: [d] for n, d in two("read").items()}),
    ),
    "update_vectors": lambda client: client.update_vectors(
        NAMED, points=[models.PointVectors(id=0, vector=two("read"))]
    ),
    "batch_update_points": lambda client: client.batch_update_points(
        NAMED,
        [
            models.UpsertOperation(
                upsert=models.PointsList(points=[models.PointStruct(id=1, vector=two("read"))])
            )
        ],
    ),
    "query_points": lambda client: client.query_points(
        NAMED,
        query=document("read", dim=16),
        using="full",
        prefetch=[models.Prefetch(query=document("read", dim=8), using="small")],
    ),
    "query_points_groups": lambda client: client.query_points_groups(
        NAMED,
        "group",
        document("read", dim=16),
        using="full",
        prefetch=models.Prefetch(query=document("read", dim=8), using="small"),
    ),
    "query_batch_points": lambda client: client.query_batch_points(
        NAMED,
        requests=[
            models.QueryRequest(
                query=document("read", dim=16),
                using="full",
                prefetch=models.Prefetch(query=document("read", dim=8), using="small"),
            )
        ],
    ),
}


@pytest.mark.parametrize("call", AWAITED.values(), ids=AWAITED)
async def test_awaited_calls_hold_up_no_other_task(call: Any, aclient: AsyncQdrantClient) -> None:
    let_go = threading.Event()

    def held(texts: list[str]) -> None:
        assert let_go.wait(5), "the event loop waits for the encoder"

    stub = StubEmbedder(held)
    enable_inference(aclient, embedder=stub)
    made = points([ASKED], embedder=StubEmbedder(), ids=[0])[0]
    full = vector_of(ASKED, dim=16).tolist()
    both = {"small": made.vector, "full": full}
    await aclient.upsert(NAMED, [models.PointStruct(id=0, vector=both)])
    running = asyncio.create_task(call(aclient))
    while not stub.calls and not running.done():  # noqa: ASYNC110 - what happens in a thread
        await asyncio.sleep(0.001)
    let_go.set()
    await running
    assert stub.calls == [["read"]]  # one call, and one pass for both dims


async def test_a_failed_await_is_raised_and_leaves_the_client_usable(
    aclient: AsyncQdrantClient, encoder: Encoder
) -> None:
    enable_inference(aclient, embedder=encoder)
    with pytest.raises(TaskError, match="none such"):
        await aclient.query_points(NAME, document(ASKED, task="none such"))
    with pytest.raises(TypeError, match="argument"):
        await aclient.query_points()
    assert (await aclient.query_points(NAME, document(ASKED))).points == []


def test_points_and_query_vector_fit_together(client: QdrantClient, encoder: Encoder) -> None:
    made = points(TEXTS, embedder=encoder)
    client.upsert(NAME, made)
    found = client.query_points(NAME, query_vector(ASKED, embedder=encoder)).points
    assert {hit.payload["text"] for hit in found} == set(TEXTS)
    for hit in found:
        a = encoder.encode(ASKED, task="retrieval.query")
        expected = a @ encoder.encode(hit.payload["text"], task="retrieval.passage")
        assert hit.score == pytest.approx(expected, abs=1e-5)


def test_second_upload_of_the_same_points_adds_none(client: QdrantClient, encoder: Encoder) -> None:
    for _ in range(2):
        client.upload_points(NAME, points(TEXTS, embedder=encoder), wait=True)
    assert client.count(NAME).count == len(TEXTS)


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


def test_the_server_of_the_environment_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv(SERVER, url)
        dialled: list[bytes] = []

        def answer() -> None:
            asked, _ = listener.accept()
            with asked:
                dialled.append(asked.recv(100))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(RuntimeError, match=f"no Qdrant answers at {url}"):
            opened()
        thread.join(5)
    assert dialled[0].startswith(b"GET /collections")
