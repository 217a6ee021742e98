"""Documents are written once, replaced whole, resumed after a kill, and deleted whole."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from taskvec.core.errors import InputError
from taskvec.integrations.documents.reading import Document as FileDocument
from taskvec.integrations.qdrant import (
    AsyncTaskvecCollection,
    Document,
    Ingested,
    TaskvecCollection,
    encoding,
    ingesting,
)
from taskvec.integrations.qdrant.creating import SETTINGS_POINT
from taskvec.integrations.qdrant.documents import Cutter
from taskvec.integrations.qdrant.ingesting import point_id
from tests.embedders import StubEmbedder, vector_of
from tests.qdrant_clients import URL, Clients, aclients, clients

ROOT = Path(__file__).parents[2]


@pytest.fixture
def qdrant() -> Iterator[Clients[QdrantClient]]:
    with clients() as made:
        yield made


@pytest.fixture
def stub() -> StubEmbedder:
    return StubEmbedder()


@pytest.fixture
def collection(qdrant: Clients[QdrantClient], stub: StubEmbedder) -> TaskvecCollection:
    return TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=stub, sparse="bm25")


def lines(text: str) -> list[str]:
    return text.split("\n")


def numbered(count: int, version: str = "a", each: int = 3) -> list[Document]:
    """Documents of `each` lines."""
    return [
        Document(f"d{i}", "\n".join(f"{version} line {line} of {i}" for line in range(each)))
        for i in range(count)
    ]


def payloads(client: QdrantClient, name: str) -> dict[tuple[str, int], Any]:
    records, _ = client.scroll(name, limit=10_000, with_vectors=True)
    found = {}
    for record in records:
        if record.id == SETTINGS_POINT:  # with a client before 1.16
            continue
        place = (record.payload["document_id"], record.payload["chunk"])
        assert record.id == point_id(*place)
        assert place not in found
        found[place] = record
    return found


def check(client: QdrantClient, name: str, documents: list[Document]) -> None:
    """Every chunk of the documents is there once, with its own vectors, and nothing else."""
    found = payloads(client, name)
    wanted = {(d.id, i): line for d in documents for i, line in enumerate(lines(d.text))}
    assert {place: record.payload["text"] for place, record in found.items()} == wanted
    for place, text in wanted.items():
        for dim in (8, 16):
            np.testing.assert_allclose(
                found[place].vector[f"d{dim}"], vector_of(text, dim=dim), atol=1e-5
            )
    heads = [record.payload["taskvec"] for (_, i), record in found.items() if i == 0]
    assert all(head["complete"] for head in heads)


def test_documents_are_written_and_found(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    documents = numbered(7)
    assert collection.ingest(documents, splitter=lines, batch_size=5) == Ingested(7, 0, 21, 0)
    check(qdrant.client, collection.name, documents)


def test_what_is_there_is_neither_encoded_nor_written(
    collection: TaskvecCollection, stub: StubEmbedder
) -> None:
    documents = numbered(7)
    collection.ingest(documents, splitter=lines)
    stub.calls.clear()
    assert collection.ingest(documents, splitter=lines, batch_size=2) == Ingested(0, 7, 0, 0)
    assert not stub.calls


def test_a_changed_document_takes_the_place_of_its_old_self(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient], stub: StubEmbedder
) -> None:
    old = numbered(4, each=5)
    collection.ingest(old, splitter=lines)
    new = [*old[:2], *numbered(4, "b", each=2)[2:3], *numbered(4, "c", each=9)[3:]]
    stub.calls.clear()
    assert collection.ingest(new, splitter=lines) == Ingested(2, 2, 11, 3)
    check(qdrant.client, collection.name, new)
    assert len(stub.encoded) == 11
    # And on, so that what was left over is known to be gone.
    assert collection.ingest(old, splitter=lines) == Ingested(2, 2, 10, 4)
    check(qdrant.client, collection.name, old)
    shorter = numbered(4, "d", each=4)
    assert collection.ingest(shorter, splitter=lines) == Ingested(4, 0, 16, 4)
    check(qdrant.client, collection.name, shorter)


def test_other_metadata_or_another_splitter_is_a_change(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    document = Document("a", "one\ntwo", {"n": 1})
    collection.ingest([document], splitter=lines)
    assert collection.ingest([Document("a", "one\ntwo", {"n": 2})], splitter=lines).written == 1
    assert {
        r.payload["metadata"]["n"] for r in payloads(qdrant.client, collection.name).values()
    } == {2}
    assert collection.ingest([Document("a", "one\ntwo", {"n": 2})]) == Ingested(1, 0, 1, 1)


def test_an_emptied_document_is_removed(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    collection.ingest(numbered(2), splitter=lines)
    assert collection.ingest([Document("d0", " \n ")], splitter=lines) == Ingested(1, 0, 0, 3)
    check(qdrant.client, collection.name, numbered(2)[1:])
    assert collection.ingest([Document("d0", "")], splitter=lines) == Ingested(0, 1, 0, 0)


def test_deleting_removes_all_chunks_of_the_named_documents_alone(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    documents = numbered(5, each=4)
    collection.ingest(documents, splitter=lines)
    assert collection.delete(["d1", "d3", "d1", "nothing"]) == 2
    check(qdrant.client, collection.name, [documents[i] for i in (0, 2, 4)])
    assert collection.delete([]) == 0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("d1", "ids is str: expected a list"),
        ([3], r"ids\[0\] has the id 3: expected"),
        ([""], "expected"),
        (["\ud800"], "expected"),
    ],
)
def test_deleting_takes_ids_alone(ids: Any, message: str, collection: TaskvecCollection) -> None:
    with pytest.raises(InputError, match=message):
        collection.delete(ids)


def test_a_large_document_is_written_in_several_requests(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    documents = [*numbered(1, each=400), *numbered(3)[1:]]
    collection.ingest(documents, splitter=lines, batch_size=10)
    check(qdrant.client, collection.name, documents)


def test_documents_are_read_no_further_than_the_batch(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    def failing() -> Iterator[Document]:
        yield from numbered(4)
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        collection.ingest(failing(), splitter=lines, batch_size=6)
    check(qdrant.client, collection.name, numbered(4))


def test_the_same_document_twice_is_one(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    documents = numbered(2)
    assert collection.ingest([*documents, *documents], splitter=lines).unchanged == 2
    check(qdrant.client, collection.name, documents)


def test_two_documents_of_one_id_are_refused(collection: TaskvecCollection) -> None:
    with pytest.raises(InputError, match=r"documents\[0\] and documents\[1\] have the same id"):
        collection.ingest([Document("a", "x"), Document("a", "y")])


def test_given_spans_are_the_chunks(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    text = "one two three"
    collection.ingest(
        [Document("given", text, spans=[(0, 7), (4, 13)]), Document("split", text)],
        splitter=lambda text: [(8, 13)],
    )
    texts = {
        place: r.payload["text"] for place, r in payloads(qdrant.client, collection.name).items()
    }
    assert texts == {("given", 0): "one two", ("given", 1): "two three", ("split", 0): "three"}


def test_by_default_a_text_is_cut_at_its_paragraphs(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    text = "The first paragraph is here.\n\nThe second paragraph is here."
    collection.ingest([Document("a", text)], chunk_characters=40)
    found = payloads(qdrant.client, collection.name)
    assert [found["a", i].payload["text"].strip() for i in range(2)] == text.split("\n\n")


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no list": ("text", {}, r"documents is str: expected a list of taskvec\.\S+Document"),
    "one": (Document("a", "x"), {}, r"documents is taskvec\.\S+\.Document: expected a list"),
    "no document": ([{"id": "a"}], {}, r"documents\[0\] is dict: expected a taskvec\.\S+Document"),
    "of a file": (
        [FileDocument("x", marks=())],
        {},
        r"is taskvec\.integrations\.documents\.\S+: expected a taskvec\.integrations\.qdrant",
    ),
    "id": ([Document("", "x")], {}, r"documents\[0\] has the id ''"),
    "number": ([Document(7, "x")], {}, r"documents\[0\] has the id 7: expected a str"),
    "surrogate": ([Document("\ud800", "x")], {}, "has the id"),
    "text": ([Document("a", b"x")], {}, r"documents\[0\] has a bytes as its text"),
    "metadata": ([Document("a", "x", [1])], {}, "has list as metadata: expected a mapping"),
    "object": ([Document("a", "x", {"n": object()})], {}, "has metadata that are no JSON"),
    "infinite": ([Document("a", "x", {"n": float("inf")})], {}, "has metadata that are no JSON"),
    "span": ([Document("a", "x", spans=[(0, 2)])], {}, r"span 0 is \(0, 2\): expected"),
    "empty span": ([Document("a", "x", spans=[(1, 1)])], {}, "0 <= start < end <= 1"),
    "no span": ([Document("a", "x", spans=[3])], {}, "span 0 is 3"),
    "splitter": ([], {"splitter": "\n"}, "splitter is str: expected a function"),
    "foreign": (
        [Document("a", "x")],
        {"splitter": lambda _: ["y"]},
        r"documents\[0\]: chunk 0, 'y', is no part of its document",
    ),
    "mixed": (
        [Document("a", "xy")],
        {"splitter": lambda _: ["x", (1, 2)]},
        "gave both chunks and spans",
    ),
    "characters": ([], {"chunk_characters": 0}, "chunk_characters is 0"),
    "two ways": ([], {"splitter": lines, "chunk_characters": 600}, "give one of them"),
    "batch": ([], {"batch_size": 0}, "batch_size is 0"),
    "no batch": ([], {"batch_size": None}, "batch_size is None"),
}  # fmt: skip


@pytest.mark.parametrize(("documents", "options", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_stored_is_refused(
    documents: Any, options: dict[str, Any], message: str, collection: TaskvecCollection
) -> None:
    with pytest.raises(InputError, match=message):
        collection.ingest(documents, **options)


def test_texts_that_no_database_takes_are_stored_readably(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    collection.ingest([Document("a", "nul \0 and half \ud800 pair")])
    (record,) = payloads(qdrant.client, collection.name).values()
    assert record.payload["text"] == "nul \ufffd and half \ufffd pair"


def test_metadata_may_hold_dates_and_uuids(collection: TaskvecCollection) -> None:
    metadata = {"day": date(2024, 5, 1), "key": UUID(int=1), "deep": {"list": [1, None, 2.5]}}
    documents = [Document("a", "x", metadata)]
    collection.ingest(documents)
    assert collection.search("x")[0].metadata == {
        "day": "2024-05-01",
        "key": str(UUID(int=1)),
        "deep": {"list": [1, None, 2.5]},
    }
    assert collection.ingest(documents).unchanged == 1


SETS = """
import json
from taskvec.adapters.qdrant import points
from taskvec.integrations.qdrant.documents import Cutter, Document
tags = set("abcdefgh")
cut = Cutter(None).cut(0, Document("a", "x", {"tags": tags, "deep": [{"er": frozenset(tags)}]}))
[point] = points(["x"], vectors=[[1.0]], payloads=[{"tags": tags}])
print(json.dumps([cut.digest, cut.metadata, point.id]))
"""


def test_sets_in_metadata_are_no_change_in_another_process() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", SETS],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert b'"tags": ["a", "b", "c", "d", "e", "f", "g", "h"]' in told.pop()


def test_nothing_is_lost_when_the_encoder_fails(
    qdrant: Clients[QdrantClient], collection: TaskvecCollection
) -> None:
    def broken(texts: list[str]) -> None:
        if any("of 4" in text for text in texts):
            raise RuntimeError("out of memory")

    documents = numbered(6)
    failing = TaskvecCollection.open(
        qdrant.client, collection.name, embedder=StubEmbedder(before=broken)
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.ingest(documents, splitter=lines, batch_size=3)
    check(qdrant.client, collection.name, documents[:4])
    assert collection.ingest(documents, splitter=lines) == Ingested(2, 4, 6, 0)
    check(qdrant.client, collection.name, documents)


def again(qdrant: Clients[QdrantClient], collection: TaskvecCollection) -> TaskvecCollection:
    """Another object for the same collection and client."""
    return TaskvecCollection.open(qdrant.client, collection.name, embedder=StubEmbedder())


@pytest.mark.skipif(URL is not None, reason="a server takes several calls at once")
@pytest.mark.parametrize("shared", [True, False])
def test_threads_ask_the_local_engine_one_by_one(
    *,
    shared: bool,
    collection: TaskvecCollection,
    qdrant: Clients[QdrantClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It mixes up the points of calls that overlap."""
    inside, most = 0, 0

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.001)
            try:
                return method(*args, **kwargs)
            finally:
                inside -= 1

        return call

    for name in ("upsert", "retrieve", "set_payload", "query_points"):
        monkeypatch.setattr(qdrant.client, name, watched(getattr(qdrant.client, name)))

    def work(part: list[Document]) -> None:
        own = collection if shared else again(qdrant, collection)
        own.ingest(part, splitter=lines, batch_size=1)
        own.search("line", 1)

    documents = numbered(16)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [documents[i::4] for i in range(4)]))
    assert most == 1
    check(qdrant.client, collection.name, documents)


def test_progress_counts_documents(
    collection: TaskvecCollection, capsys: pytest.CaptureFixture[str]
) -> None:
    collection.ingest(numbered(4), splitter=lines, show_progress=True)
    assert "4/4" in capsys.readouterr().err
    collection.ingest(iter(numbered(4)), splitter=lines, show_progress=True)
    assert "4document" in capsys.readouterr().err
    collection.ingest(numbered(4), splitter=lines)
    assert not capsys.readouterr().err


async def test_the_awaited_twin_replaces_and_refuses_alike(stub: StubEmbedder) -> None:
    async with aclients() as made:
        name = made.name()
        collection = await AsyncTaskvecCollection.create(made.client, name, embedder=stub)

        async def failing() -> AsyncIterator[Document]:
            for document in numbered(3):
                yield document
            raise OSError("the source broke")

        with pytest.raises(OSError, match="the source broke"):
            await collection.ingest(failing(), splitter=lines, batch_size=3)
        assert await collection.ingest(numbered(4), splitter=lines) == Ingested(1, 3, 3, 0)
        changed = await collection.ingest(numbered(1, "b", each=1), splitter=lines)
        assert changed == Ingested(1, 0, 1, 2)
        with pytest.raises(InputError, match="documents is str"):
            await collection.ingest("text")
        ours = models.FieldCondition(key="chunk", range=models.Range(gte=0))
        assert (await made.client.count(name, models.Filter(must=[ours]))).count == 10


class Crowd(StubEmbedder):
    """Counts the sections that are encoded at once; those that hold "bad" fail."""

    inside = most = 0

    async def aencode_chunks(self, document: str, spans: Any, **options: Any) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.01)
        self.inside -= 1
        if "bad" in document:
            raise RuntimeError("out of memory")
        return self.encode_chunks(document, spans, task=options["task"], dim=options["dim"])


async def test_awaited_sections_neither_crowd_nor_outlive_a_failed_one() -> None:
    async with aclients() as made:
        crowd = Crowd()
        collection = await AsyncTaskvecCollection.create(
            made.client, made.name(), embedder=crowd, context=8
        )
        await collection.ingest(numbered(1, each=200), splitter=lines)
        assert 8 < crowd.most <= encoding.AWAITED
        crowd.calls.clear()
        with pytest.raises(RuntimeError, match="out of memory"):
            await collection.ingest(numbered(1, "bad", each=200), splitter=lines)
        await asyncio.sleep(0.05)
        assert not crowd.calls
        assert crowd.most <= encoding.AWAITED


async def test_points_are_made_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def watched(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return points_of(*args)

    points_of = ingesting._points
    monkeypatch.setattr(ingesting, "_points", watched)
    async with aclients() as made:
        collection = await AsyncTaskvecCollection.create(
            made.client, made.name(), embedder=StubEmbedder()
        )
        await collection.ingest(numbered(2), splitter=lines)
    assert threads
    assert threading.main_thread() not in threads


KILLED = """
import sys
import time
from qdrant_client import QdrantClient
from taskvec.integrations.qdrant import TaskvecCollection
from tests.embedders import StubEmbedder
from tests.integration.test_qdrant_ingest import lines, numbered
def pause(texts):
    time.sleep(0.02)
client = QdrantClient(path=sys.argv[1])
collection = TaskvecCollection.open(client, "docs", embedder=StubEmbedder(pause))
print("opened", flush=True)
collection.ingest(numbered(90, "b", each=4), splitter=lines, batch_size=12)
"""


@pytest.mark.parametrize("points", [1, 120])
def test_a_killed_run_loses_and_doubles_nothing(
    points: int, tmp_path: Path, stub: StubEmbedder
) -> None:
    """Half of the documents are there in an older and longer version."""
    folder = str(tmp_path / "qdrant")
    old, new = numbered(90, "a", each=6)[::2], numbered(90, "b", each=4)
    client = QdrantClient(path=folder)
    TaskvecCollection.create(client, "docs", embedder=stub).ingest(old, splitter=lines)
    client.close()
    storage = tmp_path / "qdrant" / "collection" / "docs" / "storage.sqlite"

    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, folder], cwd=ROOT, stdout=subprocess.PIPE, env=os.environ
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"opened\n"
    wait_for_growth(storage, points * 400)  # bytes, of which a point takes more
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    run.stdout.close()

    client = QdrantClient(path=folder)
    collection = TaskvecCollection.open(client, "docs", embedder=stub)
    done = collection.ingest(new, splitter=lines)
    assert done.written + done.unchanged == 90
    assert done.written > 0
    check(client, "docs", new)
    stub.calls.clear()
    assert collection.ingest(new, splitter=lines).unchanged == 90
    assert not stub.calls
    client.close()


def wait_for_growth(path: Path, size: int) -> None:
    wal, late = path.with_name(f"{path.name}-wal"), time.monotonic() + 60
    while not wal.exists() or wal.stat().st_size < size:
        assert time.monotonic() < late
        time.sleep(0.001)


def dying(method: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """The method, but the last of `left` calls of all that share it dies before it is made."""

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return method(*args, **kwargs)

    return call


@pytest.mark.parametrize("then", ["the same version", "the former one", "a shorter one"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("stop", range(1, 5))
def test_a_run_that_ends_before_any_of_its_writes_is_made_good(
    *,
    stop: int,
    known: bool,
    then: str,
    collection: TaskvecCollection,
    qdrant: Clients[QdrantClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every write of a replacement before which a process may die, and what may come next."""
    old, new, shorter = (
        numbered(3, version, each=each) for version, each in (("a", 5), ("b", 3), ("c", 1))
    )
    if known:
        collection.ingest(old, splitter=lines)
    left = [stop]
    died = False
    with monkeypatch.context() as patched:
        for name in ("upsert", "delete", "set_payload"):
            patched.setattr(qdrant.client, name, dying(getattr(qdrant.client, name), left))
        try:
            collection.ingest(new, splitter=lines)
        except KeyboardInterrupt:
            died = True
    assert died == (stop <= (4 if known else 3))
    documents = {"the same version": new, "the former one": old, "a shorter one": shorter}[then]
    collection.ingest(documents, splitter=lines)
    check(qdrant.client, collection.name, documents)


@pytest.mark.parametrize("emptied", [True, False])
@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("stop", range(1, 4))
def test_a_removal_that_ends_before_any_of_its_writes_is_made_good(
    *,
    stop: int,
    emptied: bool,
    resumed: bool,
    collection: TaskvecCollection,
    qdrant: Clients[QdrantClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same documents may come back, and must not be taken for complete."""
    documents = numbered(3, each=5)
    collection.ingest(documents, splitter=lines)
    left = [stop]

    def remove() -> None:
        if emptied:
            collection.ingest([Document("d0", ""), Document("d2", "")], splitter=lines)
        else:
            collection.delete(["d0", "d2"])

    with monkeypatch.context() as patched:
        for name in ("upsert", "delete", "set_payload"):
            patched.setattr(qdrant.client, name, dying(getattr(qdrant.client, name), left))
        with pytest.raises(KeyboardInterrupt):
            remove()
    if resumed:
        remove()
        check(qdrant.client, collection.name, documents[1:2])
    collection.ingest(documents, splitter=lines)
    check(qdrant.client, collection.name, documents)


@pytest.mark.parametrize("each", [2, 6])
@pytest.mark.parametrize("after", range(7))
def test_what_two_runs_wrote_at_once_is_written_again(
    after: int, each: int, collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    """A whole run of another version, after each step of a run; then that version once more."""
    collection.ingest(numbered(2, "a", each=3), splitter=lines)
    cutter = Cutter(lines)
    cuts = [cutter.cut(i, document) for i, document in enumerate(numbered(2, "b", each=4))]
    new = numbered(2, "c", each=each)
    task = "retrieval.passage"
    run = ingesting.ingesting(cuts, collection._settings, task, Ingested())
    step, left = next(run), after
    with suppress(StopIteration):
        while True:
            if left == 0:
                collection.ingest(new, splitter=lines)
            left -= 1
            step = run.send(step.do(collection._tools))
    assert left < 0
    collection.ingest(new, splitter=lines)
    check(qdrant.client, collection.name, new)


def test_points_of_users_own_are_left_alone(
    collection: TaskvecCollection, qdrant: Clients[QdrantClient]
) -> None:
    collection.ingest(numbered(2), splitter=lines)
    own = models.PointStruct(id=7, vector={"d16": [1.0] * 16}, payload={"mine": True})
    qdrant.client.upsert(collection.name, [own], wait=True)
    collection.ingest(numbered(2, "b", each=1), splitter=lines)
    collection.delete(["d0", "d1"])
    records, _ = qdrant.client.scroll(collection.name)
    assert {record.id for record in records} - {SETTINGS_POINT} == {7}
