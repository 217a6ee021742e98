"""What LlamaIndex's handlers hear of an embedding: events, spans and callbacks."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from langchain_text_splitters import CharacterTextSplitter
from llama_index.core import Document
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    EventPayload,
    LlamaDebugHandler,
    TokenCountingHandler,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import (
    EmbeddingEndEvent,
    EmbeddingStartEvent,
)
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.node_parser import LangchainNodeParser
from llama_index.core.rate_limiter import BaseRateLimiter
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import Field

from taskvec.core import Encoder
from taskvec.core.errors import InputError
from taskvec.integrations.llama_index import LateChunkingNodeParser, TaskvecEmbedding
from tests.embedders import RecordingEmbedder

DIM = 16
TEXTS = ["open a file", "close the queue", "parse time"]
DOCUMENT, SPANS = "open a file. close it.", [(0, 12), (13, 22)]
CHUNKS = ["open a file.", "close it."]


class Events(BaseEventHandler):
    """Keeps the events of embeddings."""

    starts: list[Any] = Field(default_factory=list)
    ends: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **_: Any) -> None:
        if isinstance(event, EmbeddingStartEvent):
            self.starts.append(event)
        elif isinstance(event, EmbeddingEndEvent):
            self.ends.append(event)


class Spans(SimpleSpanHandler):
    """Keeps all spans that ended, by their id."""

    def named(self, name: str) -> list[SimpleSpan]:
        return [s for s in self.completed_spans if s.id_.partition("-")[0].endswith(f".{name}")]

    def path(self, span_id: str | None) -> list[str]:
        """The names of a span and of those that it is in."""
        by_id = {span.id_: span for span in self.completed_spans}
        names = []
        while span_id:
            names.append(span_id.partition("-")[0])
            span_id = by_id[span_id].parent_id
        return names


@pytest.fixture
def heard() -> Iterator[tuple[Events, Spans]]:
    root, events, spans = get_dispatcher(), Events(), Spans()
    root.add_event_handler(events)
    root.add_span_handler(spans)
    yield events, spans
    root.event_handlers.remove(events)
    root.span_handlers.remove(spans)


@pytest.fixture
def debug() -> LlamaDebugHandler:
    return LlamaDebugHandler(print_trace_on_end=False)


@pytest.fixture
def recorder(encoder: Encoder) -> RecordingEmbedder:
    return RecordingEmbedder(encoder)


@pytest.fixture
def embedding(recorder: RecordingEmbedder, debug: LlamaDebugHandler) -> TaskvecEmbedding:
    return TaskvecEmbedding(
        embedder=recorder, dim=DIM, embed_batch_size=2, callback_manager=CallbackManager([debug])
    )


Made = list[list[float]]


async def query(embedding: TaskvecEmbedding) -> Made:
    return [embedding.get_query_embedding(TEXTS[0])]


async def aquery(embedding: TaskvecEmbedding) -> Made:
    return [await embedding.aget_query_embedding(TEXTS[0])]


async def text(embedding: TaskvecEmbedding) -> Made:
    return [embedding.get_text_embedding(TEXTS[0])]


async def atext(embedding: TaskvecEmbedding) -> Made:
    return [await embedding.aget_text_embedding(TEXTS[0])]


async def batch(embedding: TaskvecEmbedding) -> Made:
    return embedding.get_text_embedding_batch(TEXTS)


async def abatch(embedding: TaskvecEmbedding) -> Made:
    return await embedding.aget_text_embedding_batch(TEXTS)


async def chunks(embedding: TaskvecEmbedding) -> Made:
    return embedding.get_chunk_embeddings(DOCUMENT, SPANS)


async def achunks(embedding: TaskvecEmbedding) -> Made:
    return await embedding.aget_chunk_embeddings(DOCUMENT, SPANS)


CALLS = [
    (query, "get_query_embedding", [TEXTS[:1]]),
    (aquery, "aget_query_embedding", [TEXTS[:1]]),
    (text, "get_text_embedding", [TEXTS[:1]]),
    (atext, "aget_text_embedding", [TEXTS[:1]]),
    (batch, "get_text_embedding_batch", [TEXTS[:2], TEXTS[2:]]),
    (abatch, "aget_text_embedding_batch", [TEXTS[:2], TEXTS[2:]]),
    (chunks, "get_chunk_embeddings", [CHUNKS]),
    (achunks, "aget_chunk_embeddings", [CHUNKS]),
]
each_call = pytest.mark.parametrize(("call", "name", "parts"), CALLS, ids=[c[1] for c in CALLS])


@each_call
async def test_every_call_is_one_span_and_every_batch_has_its_events(
    call: Callable[..., Any],
    name: str,
    parts: list[list[str]],
    heard: tuple[Events, Spans],
    embedding: TaskvecEmbedding,
) -> None:
    events, spans = heard
    made = await call(embedding)
    assert len(spans.named(name)) == 1
    assert [event.model_dict for event in events.starts] == [embedding.to_payload()] * len(parts)
    events.ends.sort(key=lambda event: event.chunks)  # the awaited ones end in any order
    assert [event.chunks for event in events.ends] == parts
    assert [row for event in events.ends for row in event.embeddings] == made
    for event in [*events.starts, *events.ends]:
        assert f"TaskvecEmbedding.{name}" in spans.path(event.span_id)


@each_call
async def test_callbacks_get_the_texts_and_their_vectors(
    call: Callable[..., Any],
    name: str,
    parts: list[list[str]],
    debug: LlamaDebugHandler,
    embedding: TaskvecEmbedding,
) -> None:
    made = await call(embedding)
    pairs = debug.get_event_pairs(CBEventType.EMBEDDING)
    assert [start.payload for start, _ in pairs] == [
        {EventPayload.SERIALIZED: embedding.to_payload()}
    ] * len(parts)
    ends = sorted((end.payload for _, end in pairs), key=lambda told: told[EventPayload.CHUNKS])
    assert [end[EventPayload.CHUNKS] for end in ends] == parts
    told = [row for end in ends for row in end[EventPayload.EMBEDDINGS]]
    np.testing.assert_array_equal(told, made)


@each_call
async def test_no_batch_that_is_encoded_is_larger_than_was_asked_for(
    call: Callable[..., Any],
    name: str,
    parts: list[list[str]],
    recorder: RecordingEmbedder,
    embedding: TaskvecEmbedding,
) -> None:
    await call(embedding)
    assert [c.texts for c in recorder.calls] == parts
    assert recorder.tasks_used == {"retrieval.query" if "query" in name else "retrieval.passage"}


@pytest.mark.parametrize("awaited", [False, True])
async def test_nodes_are_embedded_in_one_span(
    awaited: bool, heard: tuple[Events, Spans], embedding: TaskvecEmbedding
) -> None:
    events, spans = heard
    nodes = [TextNode(text=text) for text in TEXTS]
    if awaited:
        await embedding.acall(nodes)
        # LlamaIndex itself puts no span around `acall`.
        assert len(spans.named("aget_text_embedding_batch")) == 1
    else:
        embedding(nodes)
        assert len(spans.named("__call__")) == len(spans.named("get_text_embedding_batch")) == 1
    assert len(events.ends) == 2


async def test_a_cached_text_is_told_of_and_not_encoded(
    heard: tuple[Events, Spans], recorder: RecordingEmbedder, embedding: TaskvecEmbedding
) -> None:
    events, _ = heard
    embedding.embeddings_cache = SimpleKVStore()
    for _ in range(2):
        await batch(embedding)
        await abatch(embedding)
    assert [call.texts for call in recorder.calls] == [TEXTS[:2], TEXTS[2:]]
    assert sorted(event.chunks for event in events.ends) == [TEXTS[:2]] * 4 + [TEXTS[2:]] * 4


def test_the_payload_tells_the_tasks_and_no_password() -> None:
    remote = TaskvecEmbedding(model_name="https://ada:secret@host/v1?key=hidden", task="separation")
    told = remote.to_payload()
    assert told == {
        "class_name": "TaskvecEmbedding",
        "model_name": "https://host/v1",
        "embed_batch_size": 256,
        "dim": None,
        "query_task": "separation",
        "passage_task": "separation",
    }
    assert TaskvecEmbedding(model_name="/some/folder").to_payload()["model_name"] == "/some/folder"


def test_the_payload_names_an_injected_encoder_by_its_class(encoder: Encoder) -> None:
    assert TaskvecEmbedding(embedder=encoder).to_payload()["model_name"] == "Encoder"


@pytest.mark.parametrize("awaited", [False, True])
async def test_what_fails_is_told_of_as_failed(
    awaited: bool, heard: tuple[Events, Spans], debug: LlamaDebugHandler, embedding: Any
) -> None:
    events, _ = heard
    call = embedding.aget_chunk_embeddings if awaited else embedding.get_chunk_embeddings
    with pytest.raises(InputError) as caught:
        assert await call("open", [(0, 9)])
    [(_, end)] = debug.get_event_pairs(CBEventType.EMBEDDING)
    assert end.payload == {EventPayload.EXCEPTION: caught.value}
    assert len(events.starts) == 1
    assert events.ends == []


class Counting(BaseRateLimiter):
    """Lets everything through, and counts it."""

    def __init__(self) -> None:
        self.acquired = 0

    def acquire(self, num_tokens: int = 0) -> None:
        self.acquired += 1

    async def async_acquire(self, num_tokens: int = 0) -> None:
        self.acquired += 1


@each_call
async def test_a_rate_limiter_is_asked_before_every_batch(
    call: Callable[..., Any], name: str, parts: list[list[str]], embedding: TaskvecEmbedding
) -> None:
    limiter = Counting()
    await call(embedding.model_copy(update={"rate_limiter": limiter}))
    assert limiter.acquired == len(parts)


@pytest.mark.parametrize(("workers", "most"), [(None, 6), (1, 1), (2, 2)])
async def test_workers_bound_the_batches_under_way(
    workers: int | None, most: int, encoder: Encoder
) -> None:
    class Slow(RecordingEmbedder):
        now = peak = 0

        async def aencode(self, texts: Any, **options: Any) -> Any:
            self.now += 1
            self.peak = max(self.peak, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().aencode(texts, **options)

    slow = Slow(encoder)
    embedding = TaskvecEmbedding(embedder=slow, embed_batch_size=1, num_workers=workers)
    made = await embedding.aget_text_embedding_batch(TEXTS * 2)
    assert slow.peak == most
    expected = encoder.encode(TEXTS * 2, task="retrieval.passage")
    np.testing.assert_allclose(made, expected, atol=1e-5)


async def test_an_awaited_batch_shows_a_bar_where_it_is_asked_for(
    embedding: TaskvecEmbedding, capsys: pytest.CaptureFixture[str]
) -> None:
    for show in (False, True):
        await embedding.aget_text_embedding_batch(TEXTS, show_progress=show)
        assert ("Generating embeddings: 100%" in capsys.readouterr().err) == show


def parser(embedding: TaskvecEmbedding) -> LateChunkingNodeParser:
    cut = CharacterTextSplitter(separator="\n\n", chunk_size=15, chunk_overlap=0)
    return LateChunkingNodeParser(LangchainNodeParser(cut), embedding)


PARTS = [["open a file", "read the list"], ["close the queue", "lock the thread", "parse time"]]


def documents() -> list[Document]:
    return [Document(text="\n\n".join(parts), id_=str(i)) for i, parts in enumerate(PARTS)]


@pytest.mark.parametrize("awaited", [False, True])
async def test_late_chunking_tells_of_every_document_in_a_span_of_its_own(
    awaited: bool, heard: tuple[Events, Spans], embedding: TaskvecEmbedding
) -> None:
    events, spans = heard
    late = parser(embedding)
    nodes = await late.acall(documents()) if awaited else late(documents())
    assert sorted(event.chunks for event in events.ends) == sorted(PARTS)
    vectors = {node.text: node.embedding for node in nodes}
    for event in events.ends:
        assert [vectors[chunk] for chunk in event.chunks] == event.embeddings
        prefix = "a" if awaited else ""
        path = spans.path(event.span_id)
        assert path[0] == f"TaskvecEmbedding.{prefix}get_chunk_embeddings"
        # LlamaIndex itself puts no span around a parser's awaited calls.
        assert awaited or path[1:] == [
            "LateChunkingNodeParser._parse_nodes",
            "LateChunkingNodeParser.__call__",
        ]


@pytest.mark.parametrize("awaited", [False, True])
async def test_late_chunking_tells_of_embedding_inside_of_parsing(
    awaited: bool, debug: LlamaDebugHandler, embedding: TaskvecEmbedding
) -> None:
    late = parser(embedding)
    late.callback_manager = embedding.callback_manager
    nodes = await late.acall(documents()) if awaited else late(documents())
    [(start, end)] = debug.get_event_pairs(CBEventType.NODE_PARSING)
    assert end.payload == {EventPayload.NODES: nodes}
    pairs = debug.get_event_pairs(CBEventType.EMBEDDING)
    assert len(pairs) == len(PARTS)
    embedded = {begun.id_ for begun, _ in pairs}
    assert embedded <= set(embedding.callback_manager.trace_map[start.id_])


def test_a_token_counter_counts_late_chunks(encoder: Encoder) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    embedding = TaskvecEmbedding(embedder=encoder, callback_manager=CallbackManager([counter]))
    parser(embedding)(documents())
    assert counter.total_embedding_token_count == sum(len(p.split()) for ps in PARTS for p in ps)
