"""LangChain's example selectors, semantic chunker and filters get one task for both roles."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from langchain_classic.retrievers.document_compressors import EmbeddingsFilter
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.example_selectors import (
    MaxMarginalRelevanceExampleSelector,
    SemanticSimilarityExampleSelector,
)
from langchain_core.vectorstores import InMemoryVectorStore

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.core import Encoder
from taskvec.integrations.langchain import index_documents
from tests.embedders import RecordingEmbedder

TASKS = ("text-matching", "separation", "classification")
EXAMPLES = [
    {"text": "open a file", "kind": "files"},
    {"text": "close the file", "kind": "files"},
    {"text": "parse time", "kind": "time"},
    {"text": "the date of the list", "kind": "time"},
]
STORY = (
    "Open the file.  Read the list of the file. Close the file.\n\nParse the time. Write the "
    "date.\nThe time of the date."
)


@pytest.fixture
def recorder(encoder: Encoder) -> RecordingEmbedder:
    return RecordingEmbedder(encoder)


def made(recorder: RecordingEmbedder, **options: Any) -> TaskvecEmbeddings:
    return TaskvecEmbeddings(embedder=recorder, **options)


each_task = pytest.mark.parametrize("task", TASKS)
each_selector = pytest.mark.parametrize(
    "selector", [SemanticSimilarityExampleSelector, MaxMarginalRelevanceExampleSelector]
)


def lanes(recorder: RecordingEmbedder) -> set[str]:
    return {call.lane or "bulk" for call in recorder.calls}


@each_task
@each_selector
def test_examples_and_what_is_asked_get_the_same_task(
    selector: Any, task: str, recorder: RecordingEmbedder
) -> None:
    examples = selector.from_examples(
        EXAMPLES[:3], made(recorder, task=task), InMemoryVectorStore, k=1, input_keys=["text"]
    )
    examples.add_example(EXAMPLES[3])
    for example in EXAMPLES:
        # One task for both roles: nothing is nearer to a text than the text itself.
        assert examples.select_examples({"text": example["text"]}) == [example]
    assert recorder.tasks_used == {task}
    assert lanes(recorder) == {"query", "bulk"}


@each_task
@each_selector
async def test_awaited_examples_get_the_same_task(
    selector: Any, task: str, recorder: RecordingEmbedder
) -> None:
    examples = await selector.afrom_examples(
        EXAMPLES[:3], made(recorder, task=task), InMemoryVectorStore, k=1, input_keys=["text"]
    )
    await examples.aadd_example(EXAMPLES[3])
    for example in EXAMPLES:
        assert await examples.aselect_examples({"text": example["text"]}) == [example]
    assert recorder.tasks_used == {task}
    assert lanes(recorder) == {"query", "bulk"}


def test_examples_get_the_tasks_of_a_search_where_none_is_named(
    recorder: RecordingEmbedder,
) -> None:
    selector = SemanticSimilarityExampleSelector.from_examples(
        EXAMPLES, made(recorder), InMemoryVectorStore, k=1, input_keys=["text"]
    )
    selector.select_examples({"text": "open"})
    assert [(call.task, call.lane or "bulk") for call in recorder.calls] == [
        ("retrieval.passage", "bulk"),
        ("retrieval.query", "query"),
    ]


@each_task
def test_both_roles_give_a_text_the_same_vector(task: str, recorder: RecordingEmbedder) -> None:
    embeddings = made(recorder, task=task)
    [passage], query = (
        embeddings.embed_documents(["open a file"]),
        embeddings.embed_query("open a file"),
    )
    assert passage == query
    assert [call.task for call in recorder.calls] == [task, task]


def chunker(embeddings: TaskvecEmbeddings, **options: Any) -> BaseDocumentTransformer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the package as a whole
        splitters = pytest.importorskip("langchain_experimental.text_splitter")
    splitter: BaseDocumentTransformer = splitters.SemanticChunker(
        embeddings, buffer_size=0, number_of_chunks=3, **options
    )
    return splitter


@each_task
def test_the_semantic_chunker_compares_sentences_under_its_task(
    task: str, recorder: RecordingEmbedder, encoder: Encoder
) -> None:
    [*chunks] = chunker(made(recorder, task=task)).transform_documents([Document(STORY)])
    assert len(chunks) > 1
    [call] = recorder.calls
    assert call.task == task
    assert call.texts == [part.strip() + "." for part in " ".join(STORY.split()).split(".")[:-1]]
    # It cuts where neighbours are furthest from each other.
    vectors = encoder.encode(call.texts, task=task)
    nearness = (vectors[:-1] * vectors[1:]).sum(axis=1)
    first = " ".join(call.texts[: int(nearness.argmin()) + 1])
    assert " ".join(chunk.page_content for chunk in chunks).startswith(first)
    assert any(first.endswith(chunk.page_content) for chunk in chunks)


@pytest.mark.parametrize("add_start_index", [False, True])
def test_semantic_chunks_are_indexed_late_under_the_tasks_of_a_search(
    add_start_index: bool, recorder: RecordingEmbedder, encoder: Encoder
) -> None:
    store = InMemoryVectorStore(made(recorder))
    splitter = chunker(made(recorder, task="separation"), add_start_index=add_start_index)
    index_documents(store, [Document(STORY, id="story")], splitter=splitter)
    assert [call.task for call in recorder.calls] == ["separation", "retrieval.passage"]
    rows = sorted(store.store.values(), key=lambda row: row["metadata"]["start_index"])
    assert len(rows) > 1
    # The chunker joins sentences by a single blank, and counts without the white space between.
    spans = [(row["metadata"]["start_index"], row["metadata"]["end_index"]) for row in rows]
    assert [STORY[start:end].split() for start, end in spans] == [r["text"].split() for r in rows]
    expected = encoder.encode_chunks(STORY, spans)
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-5)


def redundant(embeddings: TaskvecEmbeddings) -> Callable[[Sequence[Document]], Any]:
    transformers = pytest.importorskip("langchain_community.document_transformers")
    kept: Callable[[Sequence[Document]], Any] = transformers.EmbeddingsRedundantFilter(
        embeddings=embeddings, similarity_threshold=0.999
    ).transform_documents
    return kept


def relevant(embeddings: TaskvecEmbeddings) -> Callable[[Sequence[Document]], Any]:
    compressor = EmbeddingsFilter(embeddings=embeddings, k=2)
    return lambda documents: compressor.compress_documents(documents, "open a file")


@each_task
@pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")
@pytest.mark.parametrize("filtering", [redundant, relevant])
def test_filters_compare_texts_under_their_task(
    filtering: Any, task: str, recorder: RecordingEmbedder
) -> None:
    texts = ["open a file", "parse time", "open a file"]
    kept = filtering(made(recorder, task=task))([Document(text) for text in texts])
    expected = {redundant: ["open a file", "parse time"], relevant: ["open a file"] * 2}
    assert sorted(document.page_content for document in kept) == expected[filtering]
    assert recorder.tasks_used == {task}
