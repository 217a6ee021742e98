"""Where the chunks of a splitter stand in their document."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import compress

from taskvec.core.embedder import Span
from taskvec.core.errors import InputError


def find_spans(
    document: str, chunks: Sequence[str], hints: Sequence[int | None] | None = None
) -> list[Span]:
    """Each chunk's half-open range of characters in its document.

    chunks: in the document's order; they may overlap. None is of white space alone. Of several
    places a chunk takes the first one that lies further on than the chunk before it. White space
    that a splitter changed is no hindrance: the range then begins and ends at the letters.
    hints: where the splitter says that each chunk starts; one that is wrong is passed over.

    Raises InputError for a chunk that is no part of the document.
    """
    spans: list[Span] = []
    squeezed: _Squeezed | None = None
    before = (-1, 0)
    for number, chunk in enumerate(chunks):
        hint = hints[number] if hints else None
        if hint is not None and hint >= 0 and document.startswith(chunk, hint):
            start = hint
        else:
            start = _find(document, chunk, before)
        if start >= 0:
            before = (start, start + len(chunk))
        else:
            squeezed = squeezed or _Squeezed(document)
            before = squeezed.find(chunk, before, number)
        spans.append(before)
    return spans


class _Squeezed:
    """A document without its white space, and where each of its letters stands."""

    def __init__(self, document: str) -> None:
        letters = [not letter.isspace() for letter in document]
        self._text = "".join(compress(document, letters))
        self._places = list(compress(range(len(document)), letters))

    def find(self, chunk: str, before: Span, number: int) -> Span:
        letters = "".join(chunk.split())
        first, last = (self._at(place) for place in before)
        start = _find(self._text, letters, (first - 1 if before[0] < 0 else first, last))
        if start < 0:
            shown = repr(chunk if len(chunk) < 40 else f"{chunk[:40]}…")
            raise InputError(
                f"chunk {number}, {shown}, is no part of its document: use a splitter that only "
                "cuts, or late_chunking=False"
            )
        return self._places[start], self._places[start + len(letters) - 1] + 1

    def _at(self, place: int) -> int:
        """How many letters stand before a place."""
        return bisect_left(self._places, place)


def _find(document: str, chunk: str, before: Span) -> int:
    """The first place further on than the chunk before in both its ends, or else any; -1: none."""
    further = max(before[0] + 1, before[1] - len(chunk) + 1)
    start = document.find(chunk, further)
    return start if start >= 0 else document.find(chunk)
