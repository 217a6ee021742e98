"""Spans to tokens to windows: nothing lost, nothing counted twice."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taskvec.core.tokenizer import Tokens
from taskvec.core.windows import token_ranges, windows


@st.composite
def documents(draw: st.DrawFn) -> tuple[Tokens, int, int]:
    """Tokens of a text whose pieces are 1 to 6 characters, its prompt's and its own length."""
    prompt = sum(draw(st.lists(st.integers(1, 6), max_size=6)))
    pieces = draw(st.lists(st.integers(1, 6), min_size=1, max_size=60))
    ends = np.cumsum(([prompt] if prompt else []) + pieces)
    anchors = [0, *(int(end) - 1 for end in ends), int(ends[-1]) - 1]
    ids = np.arange(len(anchors), dtype=np.int32)
    return Tokens(ids, np.array(anchors, dtype=np.int32)), prompt, sum(pieces)


@given(document=documents(), data=st.data())
def test_spans_side_by_side_share_out_all_tokens(
    document: tuple[Tokens, int, int], data: st.DataObject
) -> None:
    tokens, prompt, length = document
    inner = data.draw(st.sets(st.integers(1, max(1, length - 1)), max_size=6)) if length > 1 else []
    edges = [0, *sorted(inner), length]
    spans = list(pairwise(edges))
    owned = token_ranges(tokens, spans, prompt)
    holders = np.zeros(len(tokens.ids), dtype=int)
    for (start, end), ranges in zip(spans, owned, strict=True):
        inside = (tokens.anchors >= prompt + start) & (tokens.anchors < prompt + end)
        if inside[1:-1].any():
            for a, b in ranges:
                holders[a:b] += 1
        elif start == 0:  # a span inside one token borrows it, beside what is the first span's own
            holders[: tokens.head(prompt)] += 1
    assert (holders[1:-1] == 1).all()


@given(
    length=st.integers(1, 400),
    head=st.integers(1, 9),
    room=st.integers(1, 50),
    overlap=st.integers(0, 30),
)
def test_windows_read_every_token_once_and_stay_within_the_context(
    length: int, head: int, room: int, overlap: int
) -> None:
    ids = np.arange(head + length + 1, dtype=np.int32)
    whole = [[(0, len(ids))]]
    made = windows(ids, whole, head=head, max_tokens=head + room + 1, overlap=overlap)
    read: list[int] = []
    for window in made:
        assert len(window.ids) <= head + room + 1
        assert list(window.ids[:head]) == list(range(head))
        assert window.ids[-1] == ids[-1]
        for start, end, slot in window.pieces:
            assert slot == 0
            read.extend(window.ids[start:end])
    assert sorted(read) == list(ids)


@given(
    length=st.integers(60, 400),
    room=st.integers(20, 50),
    overlap=st.integers(2, 10),
    data=st.data(),
)
def test_a_pooled_token_has_context_on_both_sides(
    length: int, room: int, overlap: int, data: st.DataObject
) -> None:
    ids = np.arange(length + 2, dtype=np.int32)
    token = data.draw(st.integers(1, length))
    made = windows(ids, [[(token, token + 1)]], head=1, max_tokens=room + 2, overlap=overlap)
    [window] = made
    [(start, end, _)] = window.pieces
    assert list(window.ids[start:end]) == [token]
    side = overlap // 2
    assert start - 1 >= min(side, token - 1)
    assert len(window.ids) - 1 - end >= min(side, length - token)
