"""The Linux man-pages, long texts, each under a free licence of its own. No run reads them."""

import gzip
import re
from pathlib import Path
from typing import NamedTuple

from taskvec.integrations.train.texts.archive import Archive, collapse
from taskvec.integrations.train.texts.sections import Section, whole

PACKAGES = ("manpages", "manpages-dev")
SECTION = re.compile(r'^\.SH "?(.*?)"?$', re.MULTILINE)
# Requests that set a part of the text; of all others nothing is read.
TEXT = re.compile(r"^\.(?:B|I|BR|RB|IR|RI|BI|IB|SM|SB|SS|TP|IP)\b ?(.*)$")
ESCAPES = (
    (r"\\f(?:\[\w*\]|\(\w\w|\w)", ""),
    (r"\\\((\w\w)|\\\[(\w+)\]", " "),
    (r"\\[-]", "-"),
    (r"\\e", r"\\\\"),
    (r"\\[&/,|^%:~]", ""),
    (r"\\\".*", ""),
)


class ManPage(NamedTuple):
    """A page: its section and name, the line that sums it up, and what follows the line."""

    key: str
    summary: str
    sections: tuple[Section, ...]

    @property
    def name(self) -> str:
        """Of what the page is about, such as "open"."""
        return self.key.rpartition("/")[2].rpartition(".")[0]

    @property
    def text(self) -> str:
        """All that follows the line."""
        return whole(self.sections)


def man_pages(archive: Archive) -> list[ManPage]:
    """All pages in English, each text once."""
    found: dict[str, ManPage] = {}
    for package in PACKAGES:
        for path in sorted(archive.package(package).glob("usr/share/man/man*/*.gz")):
            page = _page(path)
            if page is not None:
                found.setdefault(page.text, page)
    return list(found.values())


def _page(path: Path) -> ManPage | None:
    source = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    _, *parts = SECTION.split(source)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    _, dash, summary = _plain(sections.pop("NAME", "")).partition(" - ")
    told = tuple(Section(title.capitalize(), _plain(body)) for title, body in sections.items())
    key = f"{path.parent.name}/{path.stem}"
    return ManPage(key, summary, told) if dash and told else None


def _plain(source: str) -> str:
    lines = []
    for line in source.splitlines():
        request = TEXT.match(line)
        if request:
            lines.append(request[1].replace('"', ""))
        elif not line.startswith((".", "'")):
            lines.append(line)
    text = "\n".join(lines)
    for pattern, plain in ESCAPES:
        text = re.sub(pattern, plain, text)
    return collapse(text)
