"""Over HTTP: busy, failing and silent servers are asked again, and in the end told of."""

import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from tenacity import wait_none

from taskvec.core.errors import FingerprintError, StoreError
from taskvec.integrations.qdrant import (
    AsyncTaskvecCollection,
    Document,
    TaskvecCollection,
    retrying,
)
from tests.embedders import StubEmbedder
from tests.integration.test_qdrant_ingest import check, lines, numbered
from tests.qdrant_front import Fault, Front, front

FAULTS = {
    "429 with a time": Fault(429, {"Retry-After": "0"}),
    "429 with a date": Fault(429, {"Retry-After": "Thu, 26 Nov 2026 00:00:00 GMT"}),
    "429 alone": Fault(429),
    "500": Fault(500),
    "503": Fault(503),
    "503 after it was done": Fault(503, applied=True),
    "broken connection": Fault(),
    "broken connection after it was done": Fault(applied=True),
    "timeout": Fault(200, after_s=1.5),
    "timeout after it was done": Fault(200, after_s=1.5, applied=True),
}


@pytest.fixture
def served() -> Iterator[Front]:
    with front() as made:
        yield made


@pytest.fixture
def client(served: Front) -> Iterator[QdrantClient]:
    made = QdrantClient(served.url, timeout=1, check_compatibility=False)
    yield made
    made.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, but those that the server asks for."""
    monkeypatch.setattr(retrying, "_growing", wait_none())


@pytest.fixture
def collection(client: QdrantClient, hasty: None) -> TaskvecCollection:
    return TaskvecCollection.create(client, "docs", embedder=StubEmbedder())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_is_not_noticed(
    fault: Fault, collection: TaskvecCollection, served: Front
) -> None:
    served.faults += [fault] * (1 if fault.after_s else 3)
    documents = numbered(4)
    assert collection.ingest(documents, splitter=lines).written == 4
    assert not served.faults
    check(served.engine, "docs", documents)


async def test_the_awaited_twin_asks_again_too(served: Front, hasty: None) -> None:
    client = AsyncQdrantClient(served.url, timeout=1, check_compatibility=False)
    made = await AsyncTaskvecCollection.create(client, "docs", embedder=StubEmbedder())
    served.faults += [fault for fault in FAULTS.values() if not fault.after_s][:5]
    assert (await made.ingest(numbered(4), splitter=lines)).written == 4
    assert not served.faults
    check(served.engine, "docs", numbered(4))
    await client.close()


def test_what_the_server_asks_to_wait_is_waited(
    collection: TaskvecCollection, served: Front
) -> None:
    served.faults.append(Fault(429, {"Retry-After": "1"}))
    started = time.monotonic()
    collection.ingest(numbered(1), splitter=lines)
    assert 1 <= time.monotonic() - started < 5


def test_pauses_grow_and_differ() -> None:
    def pause(attempt: int, error: Exception) -> float:
        state = retrying.RetryCallState(retrying.asking(1), None, (), {})
        state.attempt_number = attempt
        state.set_exception((type(error), error, None))
        return retrying._pause_s(state)

    failure = ConnectionError()
    assert 0.5 <= pause(1, failure) <= 1
    assert 4 <= pause(4, failure) <= 4.5
    assert 20 <= pause(30, failure) <= 20.5
    assert len({pause(1, failure) for _ in range(5)}) == 5
    assert 30.5 <= pause(1, ResourceExhaustedResponse("", 30)) <= 31
    assert pause(1, ResourceExhaustedResponse("", 9_999)) <= 301


def test_a_fault_that_stays_is_told_after_as_many_attempts(
    client: QdrantClient, served: Front, hasty: None
) -> None:
    made = TaskvecCollection.create(client, "docs", embedder=StubEmbedder(), retries=2)
    made.ingest(numbered(2), splitter=lines)
    before = served.writes()
    served.faults += [Fault(503)] * 3
    with pytest.raises(StoreError, match="collection 'docs': Qdrant refused: 503"):
        made.ingest(numbered(6), splitter=lines)
    assert served.writes() - before == 3
    check(served.engine, "docs", numbered(2))
    assert made.ingest(numbered(6), splitter=lines).written == 4
    check(served.engine, "docs", numbered(6))


def test_a_refusal_is_told_at_once(collection: TaskvecCollection, served: Front) -> None:
    before = served.writes()
    served.faults.append(Fault(400))
    with pytest.raises(StoreError, match="Qdrant refused: 400"):
        collection.ingest(numbered(1), splitter=lines)
    assert served.writes() - before == 1


def test_a_server_that_is_gone_is_told_of(client: QdrantClient, served: Front) -> None:
    made = TaskvecCollection.create(client, "docs", embedder=StubEmbedder(), retries=0)
    served.faults.append(Fault())
    with pytest.raises(StoreError, match="collection 'docs': no usable answer from Qdrant: "):
        made.ingest(numbered(1), splitter=lines)
    nobody = QdrantClient("http://127.0.0.1:9", check_compatibility=False)
    with pytest.raises(StoreError, match="no usable answer from Qdrant: ConnectError"):
        TaskvecCollection.open(nobody, "docs", embedder=StubEmbedder(), retries=0)


@pytest.mark.parametrize(
    ("code", "passing"),
    [
        (grpc.StatusCode.UNAVAILABLE, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (grpc.StatusCode.INVALID_ARGUMENT, False),
    ],
)
def test_faults_over_grpc_are_judged_by_their_code(code: Any, passing: bool) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    assert retrying.may_pass(error) == passing
    with pytest.raises(StoreError, match=code.name), retrying.sentences("docs"):
        raise error


def test_an_answer_that_makes_no_sense_is_told_at_once(
    collection: TaskvecCollection, served: Front
) -> None:
    served.faults += [Fault(200, content="<html>"), Fault(503)]
    with pytest.raises(StoreError, match="no usable answer from Qdrant: JSONDecodeError"):
        collection.ingest(numbered(1), splitter=lines)
    assert len(served.faults) == 1


def test_a_server_gets_payload_indexes_once(client: QdrantClient, served: Front) -> None:
    for wanted in (
        {"year": "integer"},
        {"year": "integer", "lang": models.PayloadSchemaType.KEYWORD},
    ):
        TaskvecCollection.create(client, "docs", embedder=StubEmbedder(), payload_indexes=wanted)
    made = [path for _, path in served.requests if path.endswith("/index")]
    assert len(made) == 3
    assert set(served.indexes["docs"]) == {"document_id", "metadata.year", "metadata.lang"}


def test_a_collection_that_another_process_makes_first_is_opened(
    client: QdrantClient, served: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = threading.Event()
    exists = client.collection_exists

    def late(name: str) -> bool:
        if made.is_set():
            return exists(name)
        made.set()
        TaskvecCollection.create(client, name, embedder=StubEmbedder())
        return False

    monkeypatch.setattr(client, "collection_exists", late)
    collection = TaskvecCollection.create(client, "docs", embedder=StubEmbedder(), retries=0)
    assert collection.ingest(numbered(1), splitter=lines).written == 1


def test_a_server_that_keeps_no_metadata_keeps_settings_in_a_point(
    client: QdrantClient, served: Front
) -> None:
    served.keeps_metadata = False
    made = TaskvecCollection.create(client, "docs", embedder=StubEmbedder(), sparse="bm25")
    made.ingest(numbered(2), splitter=lines)
    assert served.engine.count("docs").count == 7
    opened = TaskvecCollection.open(client, "docs", embedder=StubEmbedder())
    for hybrid in (True, False):
        assert len(opened.search("line", hybrid=hybrid)) == 6
    again = TaskvecCollection.create(client, "docs", embedder=StubEmbedder(), sparse="bm25")
    assert again.ingest(numbered(2), splitter=lines).unchanged == 2
    with pytest.raises(FingerprintError, match="passage 'stub/"):
        TaskvecCollection.open(client, "docs", embedder=StubEmbedder(name="retrained"))


def test_documents_share_requests(collection: TaskvecCollection, served: Front) -> None:
    before = len(served.requests)
    collection.ingest(numbered(40), splitter=lines, batch_size=60)
    paths = [path.rpartition("docs/")[2] for _, path in served.requests[before:]]
    # What is there, the heads, the others, whose the heads are, and that all is complete; for 20
    # documents each time.
    assert paths == ["points", "points", "points", "points", "points/payload"] * 2


@pytest.mark.parametrize("hybrid", [True, False])
def test_searches_over_http_find_the_same(
    hybrid: bool, client: QdrantClient, served: Front
) -> None:
    made = TaskvecCollection.create(client, "docs", embedder=StubEmbedder(), sparse="bm25")
    documents = [Document(d.id, d.text, {"n": n}) for n, d in enumerate(numbered(5))]
    made.ingest(documents, splitter=lines)
    local = TaskvecCollection.open(served.engine, "docs", embedder=StubEmbedder())
    for options in ({}, {"filter": {"n": {"gte": 2}}}):
        hits = made.search("a line 1 of 3", 4, hybrid=hybrid, **options)
        assert hits == local.search("a line 1 of 3", 4, hybrid=hybrid, **options)
        assert len(hits) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.search("a line 1 of 3", 1, hybrid=hybrid, oversampling=3, explain=True).hits
