"""Late-chunked nodes of LlamaIndex's splitters, in its pipelines, indexes and stores."""

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_text_splitters import CharacterTextSplitter, RecursiveCharacterTextSplitter
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import (
    HierarchicalNodeParser,
    LangchainNodeParser,
    MarkdownNodeParser,
    NodeParser,
    SemanticSplitterNodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    TextSplitter,
    TokenTextSplitter,
)
from llama_index.core.schema import BaseNode, MediaResource, MetadataMode, TextNode

from taskvec.core import Encoder
from taskvec.core.errors import InputError
from taskvec.integrations.llama_index import LateChunkingNodeParser, TaskvecEmbedding

DIM = 16
FILES = (
    "# File\n\nOpen the file. Read the list.\n\nClose the file. Read the list.\n\n"
    "# Time\n\nParse the date of the file. Read the list. Write the date."
)
QUEUE = "Lock the thread. Read the list.\n\nRead the list.\n\nClose the queue."
BLANK = " \n\n "


@pytest.fixture
def embedding(encoder: Encoder) -> TaskvecEmbedding:
    return TaskvecEmbedding(embedder=encoder, dim=DIM)


def documents(*texts: str, **options: Any) -> list[Document]:
    return [Document(text=text, id_=f"{i}.md", **options) for i, text in enumerate(texts)]


def paragraphs(**options: Any) -> LangchainNodeParser:
    cut = CharacterTextSplitter(separator="\n\n", chunk_size=15, chunk_overlap=0)
    return LangchainNodeParser(cut, **options)


def sentences(_: TaskvecEmbedding) -> NodeParser:
    return SentenceSplitter(chunk_size=9, chunk_overlap=3, tokenizer=str.split)


def tokens(_: TaskvecEmbedding) -> NodeParser:
    return TokenTextSplitter(chunk_size=9, chunk_overlap=2, tokenizer=str.split)


def windows(_: TaskvecEmbedding) -> NodeParser:
    return SentenceWindowNodeParser.from_defaults()


def markdown(_: TaskvecEmbedding) -> NodeParser:
    return MarkdownNodeParser()


def recursive(_: TaskvecEmbedding) -> NodeParser:
    return LangchainNodeParser(RecursiveCharacterTextSplitter(chunk_size=20, chunk_overlap=8))


def semantic(embedding: TaskvecEmbedding) -> NodeParser:
    return SemanticSplitterNodeParser.from_defaults(embedding, breakpoint_percentile_threshold=50)


def hierarchy(_: TaskvecEmbedding) -> NodeParser:
    levels = {
        str(size): SentenceSplitter(chunk_size=size, chunk_overlap=0, tokenizer=str.split)
        for size in (16, 8)
    }
    return HierarchicalNodeParser.from_defaults(
        node_parser_ids=list(levels), node_parser_map=levels
    )


SPLITTERS = [sentences, tokens, windows, markdown, recursive, semantic, hierarchy]


def check_late(
    nodes: Sequence[BaseNode], made_of: Sequence[Document], encoder: Encoder, dim: int = DIM
) -> None:
    """Every node's vector is that of its span in what LlamaIndex would embed of its document."""
    for document in made_of:
        own = [node for node in nodes if node.ref_doc_id == document.node_id]
        text, read = document.text, document.get_content(MetadataMode.EMBED)
        places = [(node.start_char_idx, node.end_char_idx) for node in own]
        assert [text[start:end].split() for start, end in places] == [n.text.split() for n in own]
        shift = read.index(text)
        spans = [(shift + start, shift + end) for start, end in places]
        expected = encoder.encode_chunks(read, spans, dim=dim)
        np.testing.assert_allclose([node.embedding for node in own], expected, atol=1e-5)


@pytest.mark.parametrize("made", SPLITTERS, ids=lambda made: made.__name__)
def test_nodes_of_every_splitter_have_late_chunked_vectors(
    made: Callable[[TaskvecEmbedding], NodeParser], embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    splitter = made(embedding)
    given = documents(FILES, QUEUE, metadata={"title": "of the queue"})
    nodes = LateChunkingNodeParser(splitter, embedding)(given)
    assert [node.text for node in nodes] == [
        node.text for document in given for node in splitter.get_nodes_from_documents([document])
    ]
    check_late(nodes, given, encoder)
    assert len({(node.ref_doc_id, node.start_char_idx, node.end_char_idx) for node in nodes}) > 2


@pytest.mark.parametrize("made", SPLITTERS, ids=lambda made: made.__name__)
async def test_awaited_nodes_are_the_same(
    made: Callable[[TaskvecEmbedding], NodeParser], embedding: TaskvecEmbedding
) -> None:
    parser = LateChunkingNodeParser(made(embedding), embedding)
    given = documents(*[FILES, QUEUE] * 6)  # more than are encoded at once
    awaited, called = await parser.acall(given), parser(given)
    assert [node.node_id for node in awaited] == [node.node_id for node in called]
    vectors = [[node.embedding for node in nodes] for nodes in (awaited, called)]
    np.testing.assert_allclose(*vectors, atol=1e-5)


async def test_no_other_task_waits_while_documents_are_cut(embedding: TaskvecEmbedding) -> None:
    class Slow(TextSplitter):
        def split_text(self, text: str) -> list[str]:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)
            return [text]

    loop = asyncio.get_running_loop()
    nodes = await LateChunkingNodeParser(Slow(), embedding).acall(documents(FILES))
    assert len(nodes) == 1


def test_equal_nodes_of_a_document_are_told_apart(embedding: TaskvecEmbedding) -> None:
    nodes = LateChunkingNodeParser(windows(embedding), embedding)(documents(FILES))
    equal = [node for node in nodes if node.text.strip() == "Read the list."]
    assert len({tuple(node.embedding) for node in equal}) == len(equal) == 3
    assert [node.start_char_idx for node in equal] == [
        place for place in range(len(FILES)) if FILES.startswith("Read the list.", place)
    ]


def test_the_nodes_of_a_hierarchy_stand_in_their_parents(embedding: TaskvecEmbedding) -> None:
    nodes = LateChunkingNodeParser(hierarchy(embedding), embedding)(documents(FILES))
    by_id = {node.node_id: node for node in nodes}
    children = [node for node in nodes if node.parent_node]
    assert children
    assert len(by_id) == len(nodes)
    for child in children:
        parent = by_id[child.parent_node.node_id if child.parent_node else ""]
        assert parent.start_char_idx <= child.start_char_idx
        assert child.end_char_idx <= parent.end_char_idx
        assert child.node_id in {info.node_id for info in parent.child_nodes or []}


def neighbours(nodes: Sequence[BaseNode]) -> list[tuple[str | None, str | None]]:
    texts = {node.node_id: node.get_content(MetadataMode.NONE) for node in nodes}
    return [
        (
            texts[node.prev_node.node_id] if node.prev_node else None,
            texts[node.next_node.node_id] if node.next_node else None,
        )
        for node in nodes
    ]


def test_the_nodes_of_parents_that_overlap_stand_each_in_its_own(
    embedding: TaskvecEmbedding,
) -> None:
    levels = {
        name: LangchainNodeParser(
            CharacterTextSplitter(separator=" ", chunk_size=size, chunk_overlap=overlap)
        )
        for name, size, overlap in (("large", 5, 1), ("small", 1, 0))
    }
    splitter = HierarchicalNodeParser.from_defaults(
        node_parser_ids=list(levels), node_parser_map=levels
    )
    given = documents("a b c d c")
    nodes = LateChunkingNodeParser(splitter, embedding)(given)
    assert [node.text for node in nodes] == ["a b c", "c d c", "a", "b", "c", "c", "d", "c"]
    assert [node.start_char_idx for node in nodes] == [0, 4, 0, 2, 4, 4, 6, 8]
    assert neighbours(nodes) == neighbours(splitter.get_nodes_from_documents(given))


TITLE = {"title": "time of the test", "path": "open"}


@pytest.mark.parametrize(
    ("mode", "read"),
    [
        (MetadataMode.EMBED, f"title: time of the test\n\n{QUEUE}"),
        (MetadataMode.LLM, f"path: open\n\n{QUEUE}"),
        (MetadataMode.ALL, f"title: time of the test\npath: open\n\n{QUEUE}"),
        (MetadataMode.NONE, QUEUE),
    ],
)
def test_metadata_of_the_mode_are_read_before_the_text(
    mode: MetadataMode, read: str, embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    given = documents(
        QUEUE,
        metadata=TITLE,
        excluded_embed_metadata_keys=["path"],
        excluded_llm_metadata_keys=["title"],
    )
    nodes = LateChunkingNodeParser(paragraphs(), embedding, metadata_mode=mode)(given)
    parts = ["Lock the thread. Read the list.", "Read the list.", "Close the queue."]
    starts = [0, QUEUE.index("\n\n") + 2, QUEUE.index("Close")]
    shift = len(read) - len(QUEUE)
    spans = [
        (shift + start, shift + start + len(part))
        for start, part in zip(starts, parts, strict=True)
    ]
    assert [node.text for node in nodes] == parts
    assert [node.start_char_idx for node in nodes] == starts
    expected = encoder.encode_chunks(read, spans, dim=DIM)
    np.testing.assert_allclose([node.embedding for node in nodes], expected, atol=1e-5)
    assert all(node.metadata == TITLE for node in nodes)


def test_metadata_stand_where_the_template_puts_them(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    given = documents(QUEUE, metadata=TITLE, text_template=" <{metadata_str}> {content}!\n")
    given[0].metadata_template = "{key}={value}"
    nodes = LateChunkingNodeParser(paragraphs(), embedding)(given)
    read = f"<title=time of the test\npath=open> {QUEUE}!"
    starts = [read.index("Lock"), read.index("\n\nRead") + 2, read.index("Close")]
    spans = [(start, start + len(node.text)) for start, node in zip(starts, nodes, strict=True)]
    expected = encoder.encode_chunks(read, spans, dim=DIM)
    np.testing.assert_allclose([node.embedding for node in nodes], expected, atol=1e-5)


def test_a_template_without_the_text_is_refused(embedding: TaskvecEmbedding) -> None:
    given = documents(QUEUE, metadata=TITLE, text_template="{metadata_str}")
    with pytest.raises(InputError, match=r"'0\.md' has the text_template '\{metadata_str\}'"):
        LateChunkingNodeParser(paragraphs(), embedding)(given)


class Squeezing(TextSplitter):
    """Rewrites white space."""

    def split_text(self, text: str) -> list[str]:
        return [" ".join(part.split()) for part in text.split(".") if part.strip()]


class Shouting(TextSplitter):
    """Rewrites letters."""

    def split_text(self, text: str) -> list[str]:
        return [text.upper()]


def test_nodes_whose_white_space_was_rewritten_are_aligned(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    given = documents("Open\n\tthe  file. Read the\nlist. Close the\t file. Read the\n\n list.")
    nodes = LateChunkingNodeParser(Squeezing(), embedding)(given)
    assert [node.text for node in nodes][::2] == ["Open the file", "Close the file"]
    check_late(nodes, given, encoder)
    text = given[0].text
    starts = [text.index("Open"), text.index("Read"), text.index("Close"), text.rindex("Read")]
    assert [node.start_char_idx for node in nodes] == starts


def test_nodes_that_are_no_part_of_their_document_are_refused(embedding: TaskvecEmbedding) -> None:
    parser = LateChunkingNodeParser(Shouting(), embedding)
    with pytest.raises(
        InputError, match=r"document '0\.md': chunk 0, 'OPEN', is no part"
    ) as caught:
        parser(documents("open"))
    assert "late_chunking" not in str(caught.value)


def test_documents_beyond_the_context_are_read_in_windows(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    given = documents("\n\n".join(f"{FILES} {i}" for i in range(60)), metadata=TITLE)
    assert encoder.count_tokens([given[0].text])[0] > encoder.max_tokens
    nodes = LateChunkingNodeParser(recursive(embedding), embedding)(given)
    assert nodes[-1].end_char_idx == len(given[0].text)
    check_late(nodes, given, encoder)


def test_ids_are_the_same_each_time_and_no_two_are_equal(embedding: TaskvecEmbedding) -> None:
    given = documents(FILES, FILES, QUEUE)
    runs = [
        [node.node_id for node in LateChunkingNodeParser(made(embedding), embedding)(given)]
        for made in (windows, windows, markdown)
    ]
    assert runs[0] == runs[1]
    assert len({*runs[0], *runs[2]}) == len(runs[0]) + len(runs[2])
    changed = documents(FILES.replace("Close", "Lock"), FILES, QUEUE)
    after = [
        node.node_id for node in LateChunkingNodeParser(windows(embedding), embedding)(changed)
    ]
    assert sum(new != old for new, old in zip(after, runs[0], strict=True)) == 1


async def test_a_bar_is_shown_where_it_is_asked_for(
    embedding: TaskvecEmbedding, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = LateChunkingNodeParser(paragraphs(), embedding)
    for show in (False, True):
        parser.get_nodes_from_documents(documents(FILES), show_progress=show)
        assert ("Late chunking: 100%" in capsys.readouterr().err) == show
        await parser.aget_nodes_from_documents(documents(FILES), show_progress=show)
        assert ("Late chunking: 100%" in capsys.readouterr().err) == show


def test_nodes_know_their_neighbours_and_source(embedding: TaskvecEmbedding) -> None:
    nodes = LateChunkingNodeParser(paragraphs(), embedding)(documents(FILES, QUEUE))
    for source in ("0.md", "1.md"):
        own = [node for node in nodes if node.ref_doc_id == source]
        ids = [node.node_id for node in own]
        assert [node.prev_node and node.prev_node.node_id for node in own] == [None, *ids[:-1]]
        assert [node.next_node and node.next_node.node_id for node in own] == [*ids[1:], None]


def test_a_splitters_own_ids_and_options_stay(embedding: TaskvecEmbedding) -> None:
    splitter = paragraphs(
        id_func=lambda i, document: f"{document.node_id}-{i}",
        include_metadata=False,
        include_prev_next_rel=False,
    )
    parser = LateChunkingNodeParser(splitter, embedding)
    nodes = parser(documents(QUEUE, metadata=TITLE))
    assert [node.node_id for node in nodes] == ["0.md-0", "0.md-1", "0.md-2"]
    assert not any(node.prev_node or node.next_node for node in nodes)
    assert not parser.include_prev_next_rel


def test_blank_nodes_are_left_out_and_their_neighbours_linked(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    lines = SentenceWindowNodeParser.from_defaults(sentence_splitter=str.splitlines)
    given = documents("\nopen\n\n \nread\nclose\n\n", BLANK)
    nodes = LateChunkingNodeParser(lines, embedding)(given)
    assert [node.text for node in nodes] == ["open", "read", "close"]
    ids = [node.node_id for node in nodes]
    assert [node.next_node and node.next_node.node_id for node in nodes] == [*ids[1:], None]
    assert [node.prev_node and node.prev_node.node_id for node in nodes] == [None, *ids[:-1]]
    check_late(nodes, given[:1], encoder)


def test_what_has_no_text_has_no_nodes(embedding: TaskvecEmbedding) -> None:
    parser = LateChunkingNodeParser(paragraphs(), embedding)
    image = Document(image_resource=MediaResource(url="http://localhost/a.png"))
    assert parser([*documents("", BLANK), image]) == []
    assert parser([]) == []


def test_one_document_is_cut_once_and_another_of_its_id_is_refused(
    embedding: TaskvecEmbedding,
) -> None:
    parser = LateChunkingNodeParser(paragraphs(), embedding)
    assert len(parser(documents(QUEUE) * 2)) == len(parser(documents(QUEUE)))
    with pytest.raises(InputError, match=r"two documents have the same id '0\.md'"):
        parser([*documents(QUEUE), *documents(FILES)])


def test_nodes_may_be_cut_again(embedding: TaskvecEmbedding, encoder: Encoder) -> None:
    given = documents(FILES)
    section = markdown(embedding).get_nodes_from_documents(given)[1]
    nodes = LateChunkingNodeParser(windows(embedding), embedding)([section])
    assert {node.ref_doc_id for node in nodes} == {"0.md"}
    read = section.get_content(MetadataMode.EMBED)
    shift = read.index(section.text)
    spans = [(shift + node.start_char_idx, shift + node.end_char_idx) for node in nodes]
    assert [read[start:end] for start, end in spans] == [node.text for node in nodes]
    expected = encoder.encode_chunks(read, spans, dim=DIM)
    np.testing.assert_allclose([node.embedding for node in nodes], expected, atol=1e-5)


@pytest.mark.parametrize("splitter", [None, CharacterTextSplitter()])
def test_what_is_no_node_parser_is_refused(splitter: Any, embedding: TaskvecEmbedding) -> None:
    with pytest.raises(InputError, match=f"splitter is {type(splitter).__name__}: expected one of"):
        LateChunkingNodeParser(splitter, embedding)


def test_another_embedding_is_refused() -> None:
    with pytest.raises(InputError, match="embedding is str: expected a TaskvecEmbedding"):
        LateChunkingNodeParser(paragraphs(), "starter")


def test_a_pipelines_cache_is_read_and_nothing_encoded_again(checkpoint: Path) -> None:
    with Encoder.load(checkpoint, dtype="float32") as own:
        parser = LateChunkingNodeParser(paragraphs(), TaskvecEmbedding(embedder=own, dim=DIM))
        pipeline = IngestionPipeline(transformations=[parser])
        first = pipeline.run(documents=documents(FILES))
    # A closed encoder encodes nothing any more.
    again = pipeline.run(documents=documents(FILES))
    assert [node.to_dict() for node in again] == [node.to_dict() for node in first]


def test_a_pipelines_cache_knows_every_setting(embedding: TaskvecEmbedding) -> None:
    smaller, larger = (
        SentenceSplitter(chunk_size=size, chunk_overlap=0, tokenizer=str.split) for size in (20, 24)
    )
    parsers = [
        LateChunkingNodeParser(smaller, embedding),
        LateChunkingNodeParser(smaller, embedding.model_copy(update={"dim": 8})),
        LateChunkingNodeParser(smaller, embedding.model_copy(update={"task": "separation"})),
        LateChunkingNodeParser(smaller, embedding, metadata_mode=MetadataMode.NONE),
        LateChunkingNodeParser(larger, embedding),
    ]
    cache = IngestionCache()
    runs = [
        IngestionPipeline(transformations=[parser], cache=cache).run(
            documents=documents(FILES, metadata=TITLE)
        )
        for parser in parsers
    ]
    assert len({tuple(nodes[0].embedding) for nodes in runs}) == len(parsers)


def test_the_cache_tells_injected_encoders_apart(encoder: Encoder, tmp_path: Path) -> None:
    from tests.checkpoints import tiny_checkpoint

    cache = IngestionCache()
    with Encoder.load(tiny_checkpoint(tmp_path / "other", seed=1), dtype="float32") as other:
        for own in (encoder, other):
            parser = LateChunkingNodeParser(paragraphs(), TaskvecEmbedding(embedder=own, dim=DIM))
            pipeline = IngestionPipeline(transformations=[parser], cache=cache)
            check_late(pipeline.run(documents=documents(FILES)), documents(FILES), own)


def test_a_pickled_copy_has_all_settings(checkpoint: Path) -> None:
    by_name = TaskvecEmbedding(model_name=str(checkpoint), dtype="float32", dim=DIM)
    splitter = paragraphs(include_prev_next_rel=False)
    parser = LateChunkingNodeParser(splitter, by_name, metadata_mode=MetadataMode.NONE)
    copy = pickle.loads(pickle.dumps(parser))  # noqa: S301
    assert copy.to_dict() == parser.to_dict()
    given = documents(QUEUE, metadata=TITLE)
    assert [node.to_dict() for node in copy(given)] == [node.to_dict() for node in parser(given)]


def test_an_injected_encoder_is_refused_by_pickle(embedding: TaskvecEmbedding) -> None:
    with pytest.raises(InputError, match="model_name"):
        pickle.dumps(LateChunkingNodeParser(paragraphs(), embedding))


def test_another_process_fetches_no_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    embedding = TaskvecEmbedding(model_name=str(checkpoint))
    kept = tmp_path / "parser"
    kept.write_bytes(pickle.dumps(LateChunkingNodeParser(SentenceSplitter(), embedding)))
    program = "import pickle, sys; splitter = pickle.load(open(sys.argv[1], 'rb')).splitter; "
    program += "print(splitter.class_name(), splitter.split_text('Open the file.'))"
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9"}
    variables = os.environ | closed | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    variables.pop("TIKTOKEN_CACHE_DIR", None)
    command = [sys.executable, "-c", program, kept]
    told = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert told.stdout == "SentenceSplitter ['Open the file.']\n", told.stderr


def test_a_parser_is_made_of_the_settings_that_it_tells(checkpoint: Path) -> None:
    embedding = TaskvecEmbedding(model_name=str(checkpoint), dtype="float32", dim=DIM)
    splitter = SentenceSplitter(chunk_size=20, chunk_overlap=0)
    parser = LateChunkingNodeParser(splitter, embedding, metadata_mode=MetadataMode.NONE)
    for copy in (
        LateChunkingNodeParser.from_dict(parser.to_dict()),
        LateChunkingNodeParser.from_json(parser.to_json()),
        LateChunkingNodeParser.from_dict({}, splitter=splitter, embedding=embedding).model_copy(
            update={"metadata_mode": MetadataMode.NONE}
        ),
    ):
        assert copy.to_dict() == parser.to_dict()
        given = documents(QUEUE)
        assert [node.to_dict() for node in copy(given)] == [
            node.to_dict() for node in parser(given)
        ]
    other = LateChunkingNodeParser(paragraphs(), embedding)
    with pytest.raises(InputError, match=r"'base_component' cannot be made.*splitter=…"):
        LateChunkingNodeParser.from_dict(other.to_dict())
    copy = LateChunkingNodeParser.from_dict(other.to_dict(), splitter=other.splitter)
    assert copy.to_dict() == other.to_dict()
    with pytest.raises(InputError, match="splitter is NoneType"):
        LateChunkingNodeParser.from_dict({})


def test_llama_indexes_own_words_make_the_same_parser(embedding: TaskvecEmbedding) -> None:
    plain = LateChunkingNodeParser(paragraphs(), embedding)
    for made in (
        LateChunkingNodeParser.from_defaults(paragraphs(), embedding),
        LateChunkingNodeParser.from_defaults(splitter=paragraphs(), embed_model=embedding),
        LateChunkingNodeParser(paragraphs(), embed_model=embedding),
    ):
        assert made.to_dict() == plain.to_dict()
    with pytest.raises(InputError, match="embedding and embed_model mean the same"):
        LateChunkingNodeParser(paragraphs(), embedding, embed_model=embedding)
    with pytest.raises(InputError, match="embedding is NoneType: expected a TaskvecEmbedding"):
        LateChunkingNodeParser(paragraphs())


def test_pieces_of_one_document_are_warned_of(embedding: TaskvecEmbedding) -> None:
    parser = LateChunkingNodeParser(paragraphs(), embedding)
    with pytest.warns(UserWarning, match="3 of 3 documents are pieces.*give whole documents"):
        IngestionPipeline(transformations=[paragraphs(), parser]).run(documents=documents(QUEUE))
    # One piece may be all that its document is, and repeats are none.
    piece = paragraphs().get_nodes_from_documents(documents(QUEUE))[0]
    assert len(parser([piece, piece])) == 1


def scores(nodes: Sequence[BaseNode], encoder: Encoder) -> dict[str, float]:
    query = encoder.encode("open", task="retrieval.query", dim=DIM)
    return {node.node_id: float(np.asarray(node.embedding) @ query) for node in nodes}


async def test_an_index_compares_query_vectors_with_late_chunked_ones(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    parser = LateChunkingNodeParser(paragraphs(), embedding)
    given = documents(FILES, QUEUE)
    expected = scores(parser(given), encoder)
    index = VectorStoreIndex.from_documents(given, transformations=[parser], embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=20)
    for found in (retriever.retrieve("open"), await retriever.aretrieve("open")):
        assert {hit.node_id: hit.score for hit in found} == pytest.approx(expected, abs=1e-5)


def test_a_single_node_has_the_vector_of_the_whole_text(embedding: TaskvecEmbedding) -> None:
    nodes = LateChunkingNodeParser(SentenceSplitter(), embedding)(documents("open the file"))
    assert nodes[0].embedding == pytest.approx(
        embedding.get_text_embedding("open the file"), abs=1e-6
    )


def test_a_preset_vector_of_a_document_is_replaced(
    embedding: TaskvecEmbedding, encoder: Encoder
) -> None:
    given = [TextNode(text=QUEUE, id_="0.md", embedding=[1.0] * DIM)]
    nodes = LateChunkingNodeParser(paragraphs(), embedding)(given)
    check_late(nodes, documents(QUEUE), encoder)
