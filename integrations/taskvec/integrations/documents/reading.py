"""Reads a file's bytes as a document: its text, and where in the file each part stands."""

import codecs
import io
import logging
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from taskvec.core.errors import InputError
from taskvec.integrations.extras import needs_extra

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString

BLOCK_TAGS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div",
    "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4",
    "h5", "h6", "header", "hr", "html", "li", "main", "nav", "ol", "p", "pre", "section",
    "summary", "table", "tbody", "td", "tfoot", "th", "thead", "title", "tr", "ul",
})  # fmt: skip
SILENT_TAGS = frozenset({"script", "style", "template", "noscript", "svg", "head", "nav"})
# A text may hold a stray control character; a binary format is full of them.
MOST_CONTROL_SHARE = 0.02
TEXT_CONTROLS = frozenset("\t\n\r\f\v\b\x1b")
MAX_BYTES = 64 * 1024 * 1024


class UnreadableError(InputError):
    """A file whose bytes are not a text that can be indexed."""


@dataclass(frozen=True)
class Document:
    """A file's text.

    marks: offsets in the text, ascending, and the line or page of the file that starts there.
    unit: "line" or "page". markdown: whether the text is Markdown.
    """

    text: str
    marks: tuple[tuple[int, int], ...]
    unit: str = "line"
    markdown: bool = False

    def place(self, offset: int) -> int:
        """The line or page of the file that the character at this offset stands on."""
        position = bisect_right(self.marks, (offset, 1 << 60)) - 1
        return self.marks[max(position, 0)][1] if self.marks else 1


def read_bytes(path: Path) -> bytes:
    """A file's bytes, of an overlong file just enough for `read_document` to refuse it."""
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def read_document(name: str, data: bytes) -> Document:
    """The document that a file's bytes hold; its name's suffix says which reader serves.

    Raises UnreadableError for binary, broken, encrypted and overlong files.
    """
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"larger than {MAX_BYTES // 1024**2} MiB")
    suffix = Path(name).suffix.lower()
    return READERS.get(suffix, _read_text)(data)


def clean(text: str) -> str:
    """Text that every database takes: no NUL, no lone surrogate, the length kept."""
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return paired.replace("\0", "\ufffd")


def _read_text(data: bytes) -> Document:
    text = clean(_decode(data).replace("\r\n", "\n"))
    return Document(text, _line_marks(text))


def _read_markdown(data: bytes) -> Document:
    plain = _read_text(data)
    return Document(plain.text, plain.marks, markdown=True)


def _line_marks(text: str) -> tuple[tuple[int, int], ...]:
    starts = [0, *(offset + 1 for offset, letter in enumerate(text) if letter == "\n")]
    return tuple((start, number) for number, start in enumerate(starts, 1))


def _decode(data: bytes) -> str:
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Old single-byte text has no NULs; without that check any binary file would pass.
        text = data.decode("cp1252", "replace")
        if "\0" in text:
            raise UnreadableError("binary, not a text") from None
    if _control_share(text) > MOST_CONTROL_SHARE:
        raise UnreadableError("binary, not a text")
    return text


def _control_share(text: str) -> float:
    sample = text[:65_536]
    controls = sum(letter < " " and letter not in TEXT_CONTROLS for letter in sample)
    # One stray control character in a short text is no sign of a binary file.
    return max(controls - 1, 0) / max(len(sample), 1)


def _read_html(data: bytes) -> Document:
    with needs_extra("reading HTML", "cli"):
        from bs4 import BeautifulSoup
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            soup = BeautifulSoup(data, "html.parser")
        except (RecursionError, ValueError, AssertionError) as error:
            raise UnreadableError(f"broken HTML: {error}") from error
    return _flatten(soup)


def _flatten(soup: "BeautifulSoup") -> Document:
    """The visible text, a line per block, with the source line of each piece."""
    pieces: list[str] = []
    marks: list[tuple[int, int]] = []
    length, last_block = 0, -1
    for string, block, line in _strings(soup):
        words = clean(" ".join(string.split()))
        if not words:
            continue
        joint = "" if not pieces else " " if block == last_block else "\n\n"
        marks.append((length + len(joint), line))
        pieces.append(joint + words)
        length, last_block = length + len(pieces[-1]), block
    return Document("".join(pieces), tuple(marks))


def _strings(soup: "BeautifulSoup") -> Iterator[tuple["NavigableString", int, int]]:
    """The title, then each visible string, with its block's identity and line in the source."""
    title = next((tag for tag in soup.find_all("title") if not tag.find_parent("svg")), None)
    if title is not None:
        for string in title.find_all(string=True):
            yield string, id(title), title.sourceline or 1
    for string in soup.find_all(string=True):
        parents = list(string.parents)
        names = [parent.name for parent in parents]
        if (
            type(string).__name__ != "NavigableString"
            or SILENT_TAGS.intersection(names)
            or any(parent is title for parent in parents)
        ):
            continue
        block = next((id(parent) for parent in parents if parent.name in BLOCK_TAGS), 0)
        yield string, block, next((p.sourceline for p in parents if p.sourceline), 1)


def _read_pdf(data: bytes) -> Document:
    with needs_extra("reading PDF", "cli"):
        from pypdf import PdfReader
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        pages = [page.extract_text() for page in PdfReader(io.BytesIO(data)).pages]
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UnreadableError(f"broken or encrypted PDF: {reason}") from error
    if not any(page.strip() for page in pages):
        raise UnreadableError("a PDF without text, such as a scan")
    return _bind(pages)


def _bind(pages: list[str]) -> Document:
    parts = [clean(page) + "\n\n" for page in pages]
    starts = accumulate((len(part) for part in parts), initial=0)
    marks = tuple(zip(starts, range(1, len(parts) + 1), strict=False))
    return Document("".join(parts), marks, unit="page")


READERS: dict[str, Callable[[bytes], Document]] = {
    ".htm": _read_html,
    ".html": _read_html,
    ".xhtml": _read_html,
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".pdf": _read_pdf,
}
