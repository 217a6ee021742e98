"""GNOME's help, CC-BY-SA-3.0: pages of the same ids in every language. No training run reads it."""

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from taskvec.integrations.train.texts.archive import Archive, collapse
from taskvec.integrations.train.texts.sections import Section, whole

NAMES = {"en": "C"}
# About the page, not of it.
SKIPPED = {"info", "comment", "media"}


class HelpPage(NamedTuple):
    """A page: its id, the guide that lists it, its title, its sections."""

    key: str
    guide: str
    title: str
    sections: tuple[Section, ...]

    @property
    def text(self) -> str:
        """All that stands below the title."""
        return whole(self.sections)


def help_pages(archive: Archive, language: str) -> list[HelpPage]:
    """All pages of a language (apt's name, `zh_CN`) that have a title and text."""
    root = archive.package("gnome-user-docs") / "usr/share/help" / NAMES.get(language, language)
    found = [_page(path) for path in sorted(root.rglob("*.page"))]
    return [page for page in found if page.title and page.text]


def _page(path: Path) -> HelpPage:
    root = ElementTree.parse(path).getroot()  # noqa: S314 - a package that apt has verified
    links = [node for node in root.iter() if _name(node) == "link"]
    guides = [node.get("xref", "") for node in links if node.get("type") == "guide"]
    sections = [_section(root)]
    sections += [_section(node) for node in root.iter() if _name(node) == "section"]
    title = sections[0].title
    sections[0] = Section("", sections[0].text)
    key = f"{path.parent.name}/{path.stem}"
    guide = guides[0].split("#")[0] if guides else ""
    return HelpPage(key, guide, title, tuple(s for s in sections if s.text))


def _section(node: ElementTree.Element) -> Section:
    title = next((_text(child) for child in node if _name(child) == "title"), "")
    return Section(title, "\n".join(_paragraphs(node)))


def _paragraphs(node: ElementTree.Element) -> list[str]:
    """The texts below a node, but for its own title and what stands in sections of their own."""
    found = []
    for child in node:
        name = _name(child)
        if name == "p":
            found.append(_text(child))
        elif name not in SKIPPED and name not in ("section", "title"):
            found += _paragraphs(child)
    return [text for text in found if text]


def _name(node: ElementTree.Element) -> str:
    return re.sub(r"^\{.*\}", "", node.tag) if isinstance(node.tag, str) else ""


def _text(node: ElementTree.Element) -> str:
    return collapse("".join(node.itertext()))
