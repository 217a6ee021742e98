"""Where a document's chunks are: as the client says, or found here."""

import re
from collections.abc import Iterator, Sequence

from taskvec.core.embedder import Span
from taskvec.core.errors import InputError
from taskvec.core.windows import check_spans
from taskvec.integrations.documents.cutting import split_spans
from taskvec.integrations.documents.reading import Document
from taskvec.integrations.server.requests import DocumentInput, Split
from taskvec.integrations.spans import find_spans

# The end of a sentence: its marks and what closes after them, before white space, or before
# anything in scripts that write none; or a blank line.
CLOSING = "\"'\u201d\u2019\u00bb)\\]\u300d\u300f\uff09"
# A token is pooled once for each span that holds it. Few characters cost next to nothing.
COVER = 16
FREE_CHARACTERS = 1 << 20
SENTENCE_END = re.compile(
    rf"[.!?\u2026]+[{CLOSING}]*(?=\s)|[\u3002\uff01\uff1f\uff61]+[{CLOSING}]*|\n\s*\n"
)


def spans_of(document: DocumentInput, split: Split, place: str) -> list[Span]:
    """The spans of a document's chunks. Raises InputError naming `place` for one that is none."""
    try:
        if document.spans is not None:
            return check_spans(document.spans, len(document.text))
        if document.chunks is not None:
            return find_spans(document.text, _none_blank(document.chunks))
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    if split.by == "sentence":
        return list(_sentences(document.text, split.characters))
    return _by_size(document.text, split.characters)


def check_cover(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> None:
    """Raises InputError where spans overlap so much that pooling takes longer than the model."""
    covered = sum(end - start for own in spans for start, end in own)
    length = sum(map(len, texts))
    if covered > max(COVER * length, FREE_CHARACTERS):
        raise InputError(
            f"the spans have {covered} characters in all, and the texts {length}: overlap may make "
            f"it {COVER} times as many, or {FREE_CHARACTERS}; send several requests"
        )


def _none_blank(chunks: Sequence[str]) -> Sequence[str]:
    for number, chunk in enumerate(chunks):
        if not chunk.strip():
            raise InputError(f"chunk {number} is blank: leave it out")
    return chunks


def _by_size(text: str, characters: int) -> list[Span]:
    return split_spans(Document(text, marks=()), characters=characters)


def _sentences(text: str, characters: int) -> Iterator[Span]:
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        sentence = text[start:end]
        first = start + len(sentence) - len(sentence.lstrip())
        last = first + len(sentence.strip())
        if last - first > characters:
            yield from ((first + a, first + b) for a, b in _by_size(text[first:last], characters))
        elif first < last:
            yield first, last
