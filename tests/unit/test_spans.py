"""Chunks of text are found again in their document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_text_splitters import RecursiveCharacterTextSplitter

from taskvec.core.errors import InputError
from taskvec.integrations.spans import find_spans


def test_chunks_are_found_in_order() -> None:
    assert find_spans("one two one", ["one", "two", "one"]) == [(0, 3), (4, 7), (8, 11)]


def test_a_chunk_is_not_found_inside_the_one_before_it() -> None:
    assert find_spans("say yes twice. yes", ["say yes twice.", "yes"]) == [(0, 14), (15, 18)]


def test_overlapping_chunks_are_found() -> None:
    assert find_spans("a b c d e", ["a b c", "c d", "d e"]) == [(0, 5), (4, 7), (6, 9)]


def test_changed_white_space_is_no_hindrance() -> None:
    document = "# Title\n\n  one\ttwo \n\nthree   one two"
    chunks = ["# Title", "one two\nthree", "one two"]
    assert find_spans(document, chunks) == [(0, 7), (11, 26), (29, 36)]


def test_white_space_around_a_chunk_may_be_its_own() -> None:
    assert find_spans("ab cd", ["\nab ", "  cd"]) == [(0, 2), (3, 5)]


def test_chunks_out_of_order_are_found() -> None:
    assert find_spans("one two", ["two", "one"]) == [(4, 7), (0, 3)]


def test_a_splitters_own_start_goes_before_a_search() -> None:
    assert find_spans("ha ha ha ha", ["ha ha", "ha ha"], [0, 6]) == [(0, 5), (6, 11)]
    assert find_spans("ha ho", ["ha", "ho"], [0, -1]) == [(0, 2), (3, 5)]
    assert find_spans("ha ho", ["ha", "ho"], [0, 2]) == [(0, 2), (3, 5)]


def test_a_start_from_further_back_is_passed_over() -> None:
    chunks = ["go on.", "stop here.", "go on."]
    assert find_spans("go on. stop  here. go on.", chunks, [0, -1, 0])[2] == (19, 25)


def test_changed_white_space_goes_before_an_equal_text_further_on() -> None:
    document = "say  it. go on. say it. stop."
    assert find_spans(document, ["say it.", "go on.", "say it."]) == [(0, 8), (9, 15), (16, 23)]


def test_letters_that_a_splitter_leaves_out_are_no_hindrance() -> None:
    assert find_spans("a1---b2---a1", ["a1", "b2", "a1"]) == [(0, 2), (5, 7), (10, 12)]


@pytest.mark.parametrize("chunk", ["One", "one two three", "twoone", "title: one"])
def test_what_is_no_part_of_the_document_is_refused(chunk: str) -> None:
    with pytest.raises(InputError, match=f"chunk 1, '{chunk}', is no part of its document"):
        find_spans("one two", ["one", chunk])


@given(st.text(alphabet="ab \n.", max_size=200), st.integers(0, 6))
def test_spans_of_a_recursive_splitter_hold_its_chunks(document: str, overlap: int) -> None:
    splitter = RecursiveCharacterTextSplitter(chunk_size=12, chunk_overlap=overlap)
    chunks = [chunk for chunk in splitter.split_text(document) if chunk.strip()]
    spans = find_spans(document, chunks)
    assert [document[start:end] for start, end in spans] == chunks


@given(st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=5), unique=True, min_size=1))
def test_spans_of_words_are_where_they_stand(words: list[str]) -> None:
    document = " ".join(words)
    starts = [sum(len(word) + 1 for word in words[:i]) for i in range(len(words))]
    expected = [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]
    assert find_spans(document, words) == expected
