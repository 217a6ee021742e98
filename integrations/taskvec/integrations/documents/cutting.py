"""Cuts a document into chunks of whole sentences and paragraphs, as spans of characters."""

import re
import string
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from taskvec.core.embedder import Array, Embedder, Span
from taskvec.core.source import STARTER
from taskvec.integrations.documents.reading import Document
from taskvec.integrations.extras import needs_extra

# Stored with every file's digest: raise it when the same file would be cut or read otherwise.
CHUNKING_VERSION = 2
# Splitting takes time that grows with the square of the length: longer texts are split in blocks.
BLOCK_CHARACTERS = 65_536
MARKDOWN_HEADING = re.compile(r"#{1,6}\s")
# A line without a sentence's end that is shorter than this is taken for a heading.
MAX_TITLE = 60
SENTENCE_ENDS = tuple(".!?;,…。\uff01\uff1f")
MERE_MARKS = string.punctuation + string.whitespace
# How much of a document is encoded at once, so that its chunks know their surroundings. A small
# model gets worse at more than it was trained on; others use their long context.
CONTEXTS = {STARTER: 1_800}
LONG_CONTEXT = 16_000


class Splitter(Protocol):
    """What semantic_text_splitter's splitters have in common."""

    def chunk_indices(self, text: str) -> list[tuple[int, str]]:
        """Each chunk's offset in characters, and its text."""


def split_spans(document: Document, *, characters: int) -> list[Span]:
    """Spans of chunks of at most this many characters, in order, without overlap.

    A chunk of nothing but marks, such as a ruled line, is left out. A heading that stands alone is
    joined with the chunk after it, which may get longer by that heading.
    """
    splitter = _splitter(characters, markdown=document.markdown)
    spans = [
        (start + offset, start + offset + len(text))
        for start, end in _blocks(document.text)
        for offset, text in splitter.chunk_indices(document.text[start:end])
        if text.strip(MERE_MARKS)
    ]
    return _join_headings(document, spans, characters)


def context_of(model: str) -> int:
    """How many characters of a document a model reads at once, where nothing else is said."""
    return CONTEXTS.get(model, LONG_CONTEXT)


def encode_spans(
    embedder: Embedder,
    document: Document,
    spans: Sequence[Span],
    *,
    dim: int,
    context: int,
    task: str | None = "retrieval.passage",
) -> Iterator[Array]:
    """Late-chunked vectors of a document's spans, (K, dim) a section.

    context: the longest section in characters; one chunk that is longer is a section of its own.
    """
    for section, moved in sections(document.text, spans, context):
        yield embedder.encode_chunks(section, moved, task=task, dim=dim)


def sections(text: str, spans: Sequence[Span], context: int) -> Iterator[tuple[str, list[Span]]]:
    """What is encoded at once: a part of a text, and where spans, which may overlap, stand in it.

    context: see `encode_spans`.
    """
    for group in _groups(spans, context):
        start, end = min(first for first, _ in group), max(last for _, last in group)
        yield text[start:end], [(first - start, last - start) for first, last in group]


def join(parts: Sequence[Array], *, dim: int) -> Array:
    """One (K, dim) array of all sections' vectors."""
    return np.concatenate([np.zeros((0, dim), dtype=np.float32), *parts])


def _join_headings(document: Document, spans: Sequence[Span], characters: int) -> list[Span]:
    joined: list[Span] = []
    # From the end, so that a heading over a heading reaches the text below both.
    room = characters
    for start, end in reversed(spans):
        longer = room + end - start
        if (
            joined
            and joined[-1][1] - start <= longer
            and _heads(document, (start, end), joined[-1])
        ):
            joined[-1], room = (start, joined[-1][1]), longer
        else:
            joined.append((start, end))
            room = characters
    return joined[::-1]


def _heads(document: Document, span: Span, after: Span) -> bool:
    """Whether a chunk is nothing but the heading of the one after it."""
    text, following = (document.text[start:end].strip() for start, end in (span, after))
    if document.markdown and all(MARKDOWN_HEADING.match(line) for line in text.split("\n") if line):
        return True
    begins_line = span[0] == 0 or document.text[span[0] - 1] == "\n"
    is_line = begins_line and document.text[span[1]] == "\n"
    # Of several short lines in a row, such as a list's, none is a heading.
    return is_line and _is_title(text) and not _is_title(following)


def _is_title(text: str) -> bool:
    return "\n" not in text and len(text) < MAX_TITLE and not text.endswith(SENTENCE_ENDS)


def _splitter(characters: int, *, markdown: bool) -> Splitter:
    with needs_extra("indexing files", "cli"):
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
    return MarkdownSplitter(characters) if markdown else TextSplitter(characters)


def _blocks(text: str) -> Iterator[Span]:
    """Ranges that end at a blank line, a line's end or a space, where there is one."""
    start = 0
    while start < len(text):
        end = min(start + BLOCK_CHARACTERS, len(text))
        if end < len(text):
            cuts = (text.rfind(mark, start + 1, end) for mark in ("\n\n", "\n", " "))
            end = next((cut for cut in cuts if cut > 0), end)
        yield start, end
        start = end


def _groups(spans: Sequence[Span], context: int) -> Iterator[list[Span]]:
    group: list[Span] = []
    for span in spans:
        if group and span[1] - group[0][0] > context:
            yield group
            group = []
        group.append(span)
    if group:
        yield group
