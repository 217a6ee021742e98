"""Where the chunks of a splitter stand in their document."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import compress

from taskvec.core.embedder import Span
from taskvec.core.errors import InputError

BEGINNING: Span = (-1, 0)


def find_spans(
    document: str, chunks: Sequence[str], hints: Sequence[int | None] | None = None
) -> list[Span]:
    """Each chunk's half-open range of characters in its document.

    chunks: in the document's order; they may overlap. None is of white space alone. Of several
        places a chunk takes the first that lies further on than the chunk before it, and rather
        one that leaves out no letter between them. White space that a splitter changed is no
        hindrance: the range then begins and ends at letters.
    hints: where the splitter says that each chunk starts. One that is wrong or no further on is
        passed over: after a chunk that they do not find, splitters name places further back.

    Raises InputError for a chunk that is no part of the document.
    """
    finder = _Finder(document)
    spans: list[Span] = []
    before = BEGINNING
    for number, chunk in enumerate(chunks):
        found = finder.find(chunk, before, hints[number] if hints else None)
        if found is None:
            shown = repr(chunk if len(chunk) < 40 else f"{chunk[:40]}…")
            raise InputError(
                f"chunk {number}, {shown}, is no part of its document: use a splitter that only "
                "cuts"
            )
        spans.append(found)
        before = found
    return spans


class _Finder:
    def __init__(self, document: str) -> None:
        self._document = document

    def find(self, chunk: str, before: Span, hint: int | None) -> Span | None:
        """The first candidate that follows the chunk before, or else the first one."""
        first = None
        for span in self._candidates(chunk, before, hint):
            if self._follows(span, before):
                return span
            first = first or span
        return first or self._anywhere(chunk)

    def _candidates(self, chunk: str, before: Span, hint: int | None) -> Iterator[Span]:
        further = _further(chunk, before)
        if hint is not None and hint >= further and self._document.startswith(chunk, hint):
            yield hint, hint + len(chunk)
        start = self._document.find(chunk, further)
        if start >= 0:
            yield start, start + len(chunk)
        letters = "".join(chunk.split())
        start = self._letters.find(letters, _further(letters, self._among_letters(before)))
        if start >= 0:
            yield self._whole(start, letters)

    def _anywhere(self, chunk: str) -> Span | None:
        """Where a splitter that goes back may have found it."""
        start = self._document.find(chunk)
        if start >= 0:
            return start, start + len(chunk)
        letters = "".join(chunk.split())
        start = self._letters.find(letters)
        return self._whole(start, letters) if start >= 0 else None

    def _follows(self, span: Span, before: Span) -> bool:
        return not self._document[before[1] : span[0]].strip()

    @cached_property
    def _letters(self) -> str:
        """The document without its white space."""
        return "".join(self._document.split())

    @cached_property
    def _places(self) -> list[int]:
        """Where each letter stands."""
        document = self._document
        return list(compress(range(len(document)), (not letter.isspace() for letter in document)))

    def _among_letters(self, span: Span) -> Span:
        if span == BEGINNING:
            return BEGINNING
        return bisect_left(self._places, span[0]), bisect_left(self._places, span[1])

    def _whole(self, start: int, letters: str) -> Span:
        return self._places[start], self._places[start + len(letters) - 1] + 1


def _further(chunk: str, before: Span) -> int:
    """The first start of a chunk that lies further on in both its ends than the one before."""
    return max(before[0] + 1, before[1] - len(chunk) + 1)
