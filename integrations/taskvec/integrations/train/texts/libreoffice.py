"""LibreOffice's help, MPL-2.0: pages whose paragraphs carry the same ids in every language."""

import html
import re
from pathlib import Path
from typing import NamedTuple

from taskvec.integrations.train.texts.archive import Archive, collapse

# A heading or paragraph of the text proper; menus and navigation carry other ids.
BLOCK = re.compile(r"<(h[1-6]|p)\b[^>]*?\bid=\"(\w+)\"[^>]*>(.*?)</\1>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
PACKAGES = {"en": "en-us", "zh_CN": "zh-cn", "pt_BR": "pt-br"}


class Paragraph(NamedTuple):
    """A paragraph, with the heading that it stands under; key: the same in every language."""

    key: str
    heading: str
    text: str


class Page(NamedTuple):
    """A help page: its path below the language's texts, and its paragraphs in order."""

    path: str
    title: str
    paragraphs: tuple[Paragraph, ...]


def pages(archive: Archive, language: str) -> list[Page]:
    """All help pages of a language (apt's name, `zh_CN`) that hold a paragraph."""
    root = archive.package(f"libreoffice-help-{PACKAGES.get(language, language)}")
    (texts,) = root.glob("usr/share/libreoffice/help/*/text")
    found = [_page(path, texts) for path in sorted(texts.rglob("*.html"))]
    return [page for page in found if page.paragraphs]


def _page(path: Path, root: Path) -> Page:
    name = path.relative_to(root).as_posix()
    title = heading = ""
    paragraphs = []
    for tag, key, inner in BLOCK.findall(path.read_text(encoding="utf-8")):
        text = collapse(html.unescape(TAG.sub("", inner)))
        if tag != "p":
            heading = text
            title = title or text
        elif text:
            paragraphs.append(Paragraph(f"{name}#{key}", heading, text))
    return Page(name, title, tuple(paragraphs))
