"""One suite for every adapter, store and integration: each role its task, and the core's vectors.

A new one is a class like those beside this file, and one line in ADAPTERS; see `Adapter`.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from taskvec.core import Embedder, Encoder, shared_encoder
from taskvec.core.embedder import Array
from taskvec.core.errors import DimensionError, FingerprintError, TaskError
from tests.checkpoints import tiny_checkpoint
from tests.conformance.adapter import DOCUMENT, Adapter, Place
from tests.conformance.adapters import (
    LangChain,
    LangChainAsync,
    LangChainCached,
    LlamaIndex,
    LlamaIndexAsync,
    LlamaIndexCached,
    LlamaIndexOneByOne,
    LlamaIndexPipeline,
    Pgvector,
    PgvectorAsync,
    Qdrant,
    QdrantAsync,
    QdrantPoints,
)
from tests.conformance.workflows import (
    CommandLinePostgres,
    CommandLineQdrant,
    LangChainIndexed,
    LlamaIndexParsed,
    PostgresColumn,
    QdrantCollection,
)
from tests.remote_server import serving
from tests.sagemaker_runtime import ENDPOINT, endpoint, settings

ADAPTERS: list[type[Adapter]] = [
    LangChain,
    LangChainAsync,
    LangChainCached,
    LangChainIndexed,
    LlamaIndex,
    LlamaIndexAsync,
    LlamaIndexCached,
    LlamaIndexOneByOne,
    LlamaIndexParsed,
    LlamaIndexPipeline,
    Qdrant,
    QdrantAsync,
    QdrantPoints,
    QdrantCollection,
    Pgvector,
    PgvectorAsync,
    PostgresColumn,
    CommandLineQdrant,
    CommandLinePostgres,
]

TEXTS = ["read a json file", "the lock of a thread", "time and date"]
# What a text may be beside words, by what a store may refuse to take.
ODD = {
    "composed": "caf\u00e9 \u00c5ngstr\u00f6m",
    "decomposed": "cafe\u0301 A\u030angstro\u0308m",
    "emoji": "\U0001f469\u200d\U0001f680 open \U0001f44b\U0001f3fd",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 file",
    "empty": "",
    "blank": " \n",
    "nul": "nul \0 inside",
    "surrogate": "half \ud83d of a pair",
}
KINDS = {"empty": "blank"}  # an empty text is a blank one


def having(wanted: Callable[[type[Adapter]], object]) -> pytest.MarkDecorator:
    """The adapters that can do what a test is about."""
    return pytest.mark.parametrize("adapter", [made for made in ADAPTERS if wanted(made)])


every = having(lambda _: True)


@pytest.fixture(scope="module")
def database(server: str) -> Iterator[str]:
    """The DSN of a database for all of the suite; its adapters use tables of their own."""
    name = sql.Identifier("conformance")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
        own = server.replace("/postgres?", "/conformance?")
        with psycopg.connect(own, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        yield own
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture(scope="module")
def url_of() -> Iterator[Callable[[Embedder], str]]:
    """The URL of an encoder, which is served from when it is first asked for."""
    with ExitStack() as stack:
        urls: dict[int, str] = {}

        def served(embedder: Embedder) -> str:
            if id(embedder) not in urls:
                urls[id(embedder)] = stack.enter_context(serving(embedder)).url
            return urls[id(embedder)]

        yield served
        for url in urls.values():
            shared_encoder(url).loaded.close()


@pytest.fixture(scope="module")
def endpoint_settings(encoder: Encoder) -> Iterator[dict[str, str]]:
    """The environment in which an encoder is behind SageMaker's API."""
    with endpoint(encoder) as runtime:
        yield settings(runtime.url)
        shared_encoder(f"sagemaker://{ENDPOINT}").loaded.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    """A model of the same shape with other weights."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "other", seed=1)
    with Encoder.load(folder, dtype="float32") as loaded:
        yield loaded


@pytest.fixture
def place(tmp_path: Path, database: str, url_of: Callable[[Embedder], str]) -> Place:
    return Place(tmp_path, database, url_of)


def close(given: Any, expected: Array, tolerance: float = 1e-6) -> bool:
    array = np.asarray(given, dtype=np.float32)
    return array.shape == expected.shape and bool(np.abs(array - expected).max() <= tolerance)


def test_the_class_that_contributing_shows_is_one_of_these() -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert shown == inspect.getsource(Pgvector)


@every
def test_query_gets_the_query_task(adapter: Any, place: Place, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder}, place).query(TEXTS[0])
    assert close(made, encoder.encode(TEXTS[0], task="retrieval.query"))
    assert not close(made, encoder.encode(TEXTS[0], task="retrieval.passage"), 1e-2)


@every
def test_passages_get_the_passage_task(adapter: Any, place: Place, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder}, place).passages(TEXTS)
    assert close(made, encoder.encode(TEXTS, task="retrieval.passage"))
    assert not close(made, encoder.encode(TEXTS, task="retrieval.query"), 1e-2)


@every
def test_dim_arrives_in_both_roles(adapter: Any, place: Place, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder, "dim": 8}, place)
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="retrieval.query", dim=8))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="retrieval.passage", dim=8))


@having(lambda made: made.tasks)
def test_shorthand_task_serves_both_roles(adapter: Any, place: Place, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder, "task": "text-matching"}, place)
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="text-matching"))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="text-matching"))


@having(lambda made: made.tasks)
def test_each_role_takes_a_task_of_its_own(adapter: Any, place: Place, encoder: Encoder) -> None:
    options = {"query_task": "separation", "passage_task": "classification"}
    made = adapter({"embedder": encoder} | options, place)
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="separation"))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="classification"))


@having(lambda made: made.tasks)
def test_no_task_means_base_weights(adapter: Any, place: Place, encoder: Encoder) -> None:
    made = adapter({"embedder": encoder, "query_task": None, "passage_task": None}, place)
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0]))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS))


@having(lambda made: made.folders)
def test_model_name_finds_the_shared_encoder(
    adapter: Any, place: Place, encoder: Encoder, checkpoint: Path
) -> None:
    made = adapter({"model": str(checkpoint), "dtype": "float32"}, place)
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="retrieval.query"))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="retrieval.passage"))


@every
def test_model_may_be_a_servers_url(adapter: Any, place: Place, encoder: Encoder) -> None:
    made = adapter({"model": place.url_of(encoder), "dim": 16}, place)
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="retrieval.query", dim=16))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="retrieval.passage", dim=16))


@every
def test_model_may_be_a_sagemaker_endpoint(
    adapter: Any, place: Place, encoder: Encoder, endpoint_settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in endpoint_settings.items():
        monkeypatch.setenv(name, value)
    made = adapter({"model": f"sagemaker://{ENDPOINT}", "dim": 16}, place)
    assert close(made.query(TEXTS[0]), encoder.encode(TEXTS[0], task="retrieval.query", dim=16))
    assert close(made.passages(TEXTS), encoder.encode(TEXTS, task="retrieval.passage", dim=16))


@every
def test_no_passages_are_no_vectors(adapter: Any, place: Place, encoder: Encoder) -> None:
    assert adapter({"embedder": encoder}, place).passages([]) == []


@every
def test_a_vector_does_not_depend_on_its_batch(
    adapter: Any, place: Place, encoder: Encoder
) -> None:
    made = adapter({"embedder": encoder}, place)
    together = np.array(made.passages([*TEXTS, "x " * 100 + "x"]))[:1]
    assert close(adapter({"embedder": encoder}, place).passages(TEXTS[:1]), together, 1e-5)


@every
def test_texts_of_any_script_come_in_unchanged(
    adapter: Any, place: Place, encoder: Encoder
) -> None:
    texts = [text for kind, text in ODD.items() if KINDS.get(kind, kind) not in adapter.refuses]
    made = adapter({"embedder": encoder}, place)
    assert close(made.passages(texts), encoder.encode(texts, task="retrieval.passage"))
    for text in texts[:4]:
        assert close(made.query(text), encoder.encode(text, task="retrieval.query"))


@having(lambda made: made.tasks)
def test_unknown_task_is_refused_at_first_use(adapter: Any, place: Place, encoder: Encoder) -> None:
    with pytest.raises(TaskError, match="'retrieval'"):
        adapter({"embedder": encoder, "task": "retrieval"}, place).query(TEXTS[0])
    with pytest.raises(TaskError, match="'retrieval'"):
        adapter({"embedder": encoder, "task": "retrieval"}, place).passages(TEXTS)


@every
def test_unknown_dim_is_refused_at_first_use(adapter: Any, place: Place, encoder: Encoder) -> None:
    with pytest.raises(DimensionError, match="9"):
        adapter({"embedder": encoder, "dim": 9}, place).query(TEXTS[0])
    with pytest.raises(DimensionError, match="9"):
        adapter({"embedder": encoder, "dim": 9}, place).passages(TEXTS)


@having(lambda made: made.threads > 1)
def test_threads_of_both_roles_each_get_their_own_vectors(
    adapter: Any, place: Place, encoder: Encoder
) -> None:
    made = adapter({"embedder": encoder}, place)
    texts = [f"list {i} of the queue" for i in range(max(made.threads, 16))]

    def ask(i: int) -> Any:
        return made.query(texts[i]) if i % 2 else made.passages([texts[i]])[0]

    with ThreadPoolExecutor(made.threads) as pool:
        given = list(pool.map(ask, range(len(texts))))
    tasks = ["retrieval.query" if i % 2 else "retrieval.passage" for i in range(len(texts))]
    assert close(given, encoder.encode(texts, task=tasks), 1e-5)


@having(lambda made: hasattr(made, "chunked"))
def test_chunks_are_read_in_their_document(adapter: Any, place: Place, encoder: Encoder) -> None:
    spans, vectors = adapter({"embedder": encoder, "dim": 16}, place).chunked(DOCUMENT)
    assert [DOCUMENT[first:last].strip() for first, last in spans] == DOCUMENT.split("\n\n")
    assert close(vectors, encoder.encode_chunks(DOCUMENT, spans, dim=16))
    alone = [DOCUMENT[first:last] for first, last in spans]
    assert not close(vectors, encoder.encode(alone, task="retrieval.passage", dim=16), 1e-3)


@having(lambda made: hasattr(made, "asked_by"))
def test_kept_vectors_answer_no_other_model(
    adapter: Any, place: Place, encoder: Encoder, other: Encoder
) -> None:
    made = adapter({"embedder": encoder}, place)
    made.passages(TEXTS)
    made.asked_by(encoder)
    with pytest.raises(FingerprintError):
        made.asked_by(other)


@having(lambda made: made.new_cache)
def test_one_cache_serves_all_settings_and_models(
    adapter: Any, place: Place, encoder: Encoder, other: Encoder
) -> None:
    cache = adapter.new_cache()
    settings: list[tuple[Encoder, dict[str, Any]]] = [
        (encoder, {}),
        (encoder, {"dim": 8}),
        (encoder, {"task": "separation"}),
        (other, {}),
    ]
    kept = []
    for model, options in settings:
        made = adapter({"embedder": model, "cache": cache} | options, place)
        query, passage = (
            model.encode(
                TEXTS, task=options.get("task", f"retrieval.{role}"), dim=options.get("dim")
            )
            for role in ("query", "passage")
        )
        assert close(made.passages(TEXTS), passage)
        assert close(made.query(TEXTS[0]), query[0])  # the same text in the other role
        kept.append((made, passage))
    before = encoder.stats().texts + other.stats().texts
    for made, passage in kept:
        assert close(made.passages(TEXTS), passage)
    assert encoder.stats().texts + other.stats().texts == before
