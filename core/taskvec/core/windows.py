"""Late chunking: which tokens belong to which span, and how a long document is read.

Source: arXiv:2409.04701.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from taskvec.core.embedder import Span
from taskvec.core.errors import InputError
from taskvec.core.tokenizer import Ids, Tokens

TokenRange = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """One forward pass over part of a document.

    ids: (T,). pieces: (start, end, slot) token ranges of the window and the span they add to.
    """

    ids: Ids
    pieces: tuple[tuple[int, int, int], ...]


def check_spans(spans: object, length: int) -> list[Span]:
    """Half-open, non-empty character ranges inside a text of `length`. Raises InputError."""
    if not isinstance(spans, Iterable):
        raise InputError(f"spans is {type(spans).__name__}: expected a list of (start, end)")
    checked = []
    for i, span in enumerate(spans):
        try:
            start, end = (operator.index(edge) for edge in span)
        except (TypeError, ValueError):
            raise InputError(f"spans[{i}] is {span!r}: expected (start, end)") from None
        # The whole of an empty text is the one span that may be empty.
        if not 0 <= start < end <= length and (start, end, length) != (0, 0, 0):
            raise InputError(
                f"spans[{i}] is {(start, end)!r}: expected 0 <= start < end <= {length}"
            )
        checked.append((start, end))
    return checked


def token_ranges(tokens: Tokens, spans: Sequence[Span], prompt: int) -> list[list[TokenRange]]:
    """Token ranges of each span; `prompt` is the prompt's length in characters.

    A token belongs to the span that holds its last character, so spans side by side share none.
    A span without a token of its own (white space) takes the one after it, or the last. The first
    span in the text also takes BOS and the prompt, the last one EOS; spans that share the first
    start or the last end share those too, whatever order they come in.
    """
    last, head = len(tokens.ids) - 1, tokens.head(prompt)
    edges = np.array(spans, dtype=np.int64).reshape(-1, 2) + prompt
    ranges = np.searchsorted(tokens.anchors[1:last], edges) + 1
    owned = [[_never_empty(int(a), int(b), head, last)] for a, b in ranges]
    first = min((start for start, _ in spans), default=0)
    final = max((end for _, end in spans), default=0)
    for i, (start, end) in enumerate(spans):
        if start == first:
            owned[i] = _joined((0, head), *owned[i])
        if end == final:
            owned[i] = _joined(*owned[i], (last, last + 1))
    return owned


def _never_empty(start: int, end: int, head: int, last: int) -> TokenRange:
    if start < end:
        return start, end
    if head == last:  # an empty text: BOS, prompt and EOS are all there is
        return 0, last + 1
    following = min(max(start, head), last - 1)
    return following, following + 1


def _joined(*ranges: TokenRange) -> list[TokenRange]:
    """Ranges in order, neighbours merged and empty ones dropped."""
    joined: list[TokenRange] = []
    for start, end in ranges:
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        elif start < end:
            joined.append((start, end))
    return joined


def windows(
    ids: Ids, owned: Sequence[Sequence[TokenRange]], *, head: int, max_tokens: int, overlap: int
) -> list[Window]:
    """Cut a document into windows of at most `max_tokens`, overlapping by `overlap` tokens.

    ids: (T,) of the whole document; owned: token ranges of each span in it. Every window carries
    the first `head` tokens (BOS and prompt) and EOS, as the model was trained; of an overlap,
    the first half is pooled from the earlier window and the rest from the later one, so that
    each token is read with context on both sides.
    """
    last = len(ids) - 1
    cuts = _cuts(last - head, max_tokens - head - 1, overlap)
    made = []
    for number, (start, end) in enumerate(cuts):
        # Token t of the document stands at t - shift in this window.
        left = head + (start if number == 0 else (start + cuts[number - 1][1]) // 2)
        right = head + (end if number == len(cuts) - 1 else (end + cuts[number + 1][0]) // 2)
        left = 0 if number == 0 else left
        right = last + 1 if number == len(cuts) - 1 else right
        body = ids[head + start : head + end]
        window = np.concatenate([ids[:head], body, ids[last:]])
        made.append(Window(window, _pieces(owned, left, right, start)))
    return [window for window in made if window.pieces]


def _pieces(
    owned: Sequence[Sequence[TokenRange]], left: int, right: int, shift: int
) -> tuple[tuple[int, int, int], ...]:
    """What a window that answers for the document's tokens [left, right) adds to each span."""
    pieces = []
    for slot, ranges in enumerate(owned):
        for start, end in ranges:
            a, b = max(start, left), min(end, right)
            if a < b:
                pieces.append((a - shift, b - shift, slot))
    return tuple(pieces)


def _cuts(length: int, room: int, overlap: int) -> list[TokenRange]:
    """Even ranges of at most `room` that cover `length` and overlap by `overlap` or a bit more."""
    if length <= room:
        return [(0, length)]
    overlap = min(overlap, room // 2)
    count = -(-(length - overlap) // (room - overlap))
    starts = [round(i * (length - room) / (count - 1)) for i in range(count)]
    return [(start, start + room) for start in starts]
