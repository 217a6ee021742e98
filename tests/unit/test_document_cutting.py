"""Spans of chunks, and the sections in which a document is encoded."""

import itertools

import numpy as np
import pytest

from taskvec.core import Encoder
from taskvec.integrations.documents import cutting
from taskvec.integrations.documents.cutting import encode_spans, join, split_spans
from taskvec.integrations.documents.reading import read_document

TEXT = "\n\n".join(
    f"Paragraph {n} is about a list of {n} strings. It ends here." for n in range(40)
)


def test_spans_are_ordered_bounded_and_lose_no_word() -> None:
    document = read_document("a.txt", TEXT.encode())
    spans = split_spans(document, characters=150)
    assert all(end - start <= 150 for start, end in spans)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
    chunks = " ".join(document.text[start:end] for start, end in spans)
    assert chunks.split() == document.text.split()


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.replace("\n", " "), TEXT.replace(" ", "").replace("\n", "")]
)
def test_a_text_longer_than_a_block_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(cutting, "BLOCK_CHARACTERS", 200)
    document = read_document("a.txt", text.encode())
    spans = split_spans(document, characters=150)
    chunks = "".join(document.text[start:end] for start, end in spans)
    assert "".join(chunks.split()) == "".join(text.split())


def test_a_text_without_any_break_is_split_in_time() -> None:
    document = read_document("a.txt", b"x" * 500_000)
    assert len(split_spans(document, characters=800)) >= 625


def test_spans_count_characters_not_bytes() -> None:
    text = "日本語の文。\n\n" * 30
    document = read_document("a.txt", text.encode())
    spans = split_spans(document, characters=20)
    assert "".join(document.text[a:b].replace("\n", "") for a, b in spans) == "日本語の文。" * 30


def test_markdown_is_cut_at_headings() -> None:
    text = "# One\n\nfirst\n\n# Two\n\nsecond\n"
    document = read_document("a.md", text.encode())
    spans = split_spans(document, characters=18)
    assert [text[start:end] for start, end in spans] == ["# One\n\nfirst", "# Two\n\nsecond"]
    assert [document.place(start) for start, _ in spans] == [1, 5]


BODY = "The file is open. It is read to its end, and closed after that."


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.md", f"# Files\n\n{BODY}", [f"# Files\n\n{BODY}"]),
        ("a.md", f"# Files\n\n## Reading!\n\n{BODY}", [f"# Files\n\n## Reading!\n\n{BODY}"]),
        ("a.txt", f"Reading files\n\n{BODY}", [f"Reading files\n\n{BODY}"]),
        ("a.txt", f"It ends here.\n\n{BODY}", ["It ends here.", BODY]),
        ("a.txt", f"{BODY}\n\nIn the end", [BODY, "In the end"]),
    ],
)
def test_a_heading_is_no_chunk_of_its_own(name: str, text: str, expected: list[str]) -> None:
    document = read_document(name, text.encode())
    spans = split_spans(document, characters=len(BODY) + 4)
    assert [document.text[start:end] for start, end in spans] == expected


def test_short_lines_in_a_row_are_no_headings() -> None:
    document = read_document("a.txt", b"flour from rye\n\nsalt and water\n\nsome yeast")
    assert len(split_spans(document, characters=16)) == 3


def test_a_heading_does_not_lengthen_a_chunk_by_more_than_itself() -> None:
    document = read_document("a.md", f"# Files\n\n{BODY}".encode())
    assert len(split_spans(document, characters=len(BODY) + 2)) == 1
    assert len(split_spans(document, characters=len(BODY) + 1)) == 2


def test_ruled_lines_are_no_chunks() -> None:
    document = read_document("a.txt", b"Head of it\n==========\n\nBody of it\n\n" + b"-" * 40)
    spans = split_spans(document, characters=12)
    assert [document.text[start:end] for start, end in spans] == ["Head of it", "Body of it"]


@pytest.mark.parametrize("text", ["", " \n\n\t "])
def test_a_blank_document_has_no_chunks(text: str) -> None:
    assert split_spans(read_document("a.txt", text.encode()), characters=100) == []


def test_vectors_are_late_chunked(encoder: Encoder) -> None:
    document = read_document("a.txt", TEXT[:500].encode())
    spans = split_spans(document, characters=100)
    parts = list(encode_spans(encoder, document, spans, dim=16, context=1000))
    assert len(parts) == 1
    expected = encoder.encode_chunks(document.text[: spans[-1][1]], spans, dim=16)
    np.testing.assert_allclose(join(parts, dim=16), expected, atol=1e-5)
    alone = encoder.encode([document.text[a:b] for a, b in spans], task="retrieval.passage", dim=16)
    assert np.abs(parts[0] - alone).max() > 1e-3


@pytest.mark.parametrize("context", [1, 250, 400])
def test_a_long_document_is_encoded_in_sections(encoder: Encoder, context: int) -> None:
    document = read_document("a.txt", TEXT.encode())
    spans = split_spans(document, characters=100)
    parts = list(encode_spans(encoder, document, spans, dim=8, context=context))
    assert len(parts) >= len(TEXT) // max(context, 100)
    assert join(parts, dim=8).shape == (len(spans), 8)
    first = len(parts[0])
    start, end = spans[0][0], spans[first - 1][1]
    moved = [(a - start, b - start) for a, b in spans[:first]]
    alone = encoder.encode_chunks(document.text[start:end], moved, dim=8)
    np.testing.assert_allclose(parts[0], alone, atol=1e-5)


def test_no_sections_make_an_empty_array() -> None:
    assert join([], dim=8).shape == (0, 8)
