"""Documents out of bytes: text, encodings, HTML, PDF, and what is refused."""

from contextlib import suppress
from pathlib import Path

import pytest

from taskvec.integrations.documents import reading
from taskvec.integrations.documents.reading import UnreadableError, clean, read_bytes, read_document


def pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page."""
    count = len(pages)
    kids = " ".join(f"{3 + 2 * index} 0 R" for index in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
    ]
    font = f"{3 + 2 * count} 0 R"
    for index, page in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET"
        objects += [
            (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792]"
                f" /Contents {4 + 2 * index} 0 R /Resources << /Font << /F1 {font} >> >> >>"
            ),
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    body, offsets = "%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{item}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode("latin-1")


def test_a_text_knows_its_lines() -> None:
    document = read_document("a.txt", b"one\ntwo\r\n\nfour")
    assert document.text == "one\ntwo\n\nfour"
    places = [document.place(document.text.index(word)) for word in ("one", "two", "four")]
    assert places == [1, 2, 4]
    assert document.unit == "line"


@pytest.mark.parametrize(
    "data",
    [
        "größe 日本".encode(),
        "größe 日本".encode("utf-8-sig"),
        "größe 日本".encode("utf-16"),
        b"\xfe\xff" + "größe 日本".encode("utf-16-be"),
    ],
    ids=["utf-8", "utf-8-bom", "utf-16", "utf-16-be"],
)
def test_unicode_encodings_are_recognised(data: bytes) -> None:
    assert read_document("a.txt", data).text == "größe 日本"


def test_old_single_byte_text_is_read() -> None:
    assert read_document("a.txt", "größe".encode("cp1252")).text == "größe"


def test_a_stray_nul_does_not_make_a_text_binary_and_does_not_stay() -> None:
    assert read_document("a.txt", b"before\0after").text == "before\ufffdafter"


@pytest.mark.parametrize(
    "data", [b"\x7fELF\x02\x01\x01\0\0\0\0" * 40, bytes(range(256)) * 8, b"\0" * 1000]
)
def test_binary_data_is_refused_whatever_its_name(data: bytes) -> None:
    with pytest.raises(UnreadableError, match="binary"):
        read_document("a.txt", data)


def test_an_overlong_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(UnreadableError, match="larger than"):
        read_document("a.txt", b"x" * 11)


def test_of_an_overlong_file_no_more_is_read_than_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    (tmp_path / "a.txt").write_bytes(b"x" * 50)
    assert read_bytes(tmp_path / "a.txt") == b"x" * 11


def test_markdown_is_marked_as_such() -> None:
    assert read_document("a.MD", b"# Head").markdown
    assert not read_document("a.rst", b"Head\n====").markdown


def test_html_gives_its_visible_text_with_lines_of_the_source() -> None:
    page = b"""<html><head><title>Bread &amp; time</title><style>p {}</style></head>
<body><nav><a>Home</a></nav><h1>Baking</h1>
<p>Rye <b>bread</b>
needs time.</p>
<script>alert("no")</script>
<!-- nor this -->
<ul><li>flour</li><li>water &amp; salt</li></ul></body></html>"""
    document = read_document("page.html", page)
    assert document.text.split("\n\n") == [
        "Bread & time",
        "Baking",
        "Rye bread needs time.",
        "flour",
        "water & salt",
    ]
    assert document.place(document.text.index("Rye")) == 3
    assert document.place(document.text.index("water")) == 7


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<title>Rye</title><p>Bread</p>", "Rye\n\nBread"),
        ("<svg><title>Icon</title></svg><p>Bread</p>", "Bread"),
        ("<head><title></title></head><p>Bread</p>", "Bread"),
    ],
)
def test_an_html_title_comes_once_and_first(page: str, text: str) -> None:
    assert read_document("page.html", page.encode()).text == text


def test_html_follows_its_declared_encoding() -> None:
    page = '<meta charset="iso-8859-2"><p>Łódź</p>'.encode("iso-8859-2")
    assert read_document("page.htm", page).text == "Łódź"


@pytest.mark.parametrize("page", [b"", b"<p", b"<" * 500, b"<div>" * 3000 + b"deep"])
def test_odd_html_is_read_or_refused_but_never_crashes(page: bytes) -> None:
    with suppress(UnreadableError):
        read_document("page.html", page)


def test_pdf_gives_text_with_page_numbers() -> None:
    document = read_document("paper.pdf", pdf("First page", "Second page"))
    assert document.unit == "page"
    assert document.place(document.text.index("First")) == 1
    assert document.place(document.text.index("Second")) == 2


@pytest.mark.parametrize("data", [b"", b"no pdf", pdf("cut off")[:200], b"%PDF-1.4\n%%EOF"])
def test_a_broken_pdf_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableError, match="PDF"):
        read_document("paper.pdf", data)


def test_a_pdf_without_text_is_refused() -> None:
    with pytest.raises(UnreadableError, match="without text"):
        read_document("scan.pdf", pdf(""))


def test_clean_text_has_neither_nul_nor_lone_surrogates() -> None:
    assert clean("a\0b\ud800c") == "a\ufffdb\ufffdc"
    assert clean("\U0001f600") == "\U0001f600"
