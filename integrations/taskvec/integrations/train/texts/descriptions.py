"""Descriptions of Debian's packages and their translations, under each package's own licence."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from taskvec.integrations.train.texts.archive import Archive


class Description(NamedTuple):
    """A package's archive section, one-line title and long description in one language.

    key: the same for a description and its translations.
    """

    key: str
    name: str
    section: str
    title: str
    text: str


def descriptions(archive: Archive, language: str) -> list[Description]:
    """All packages described in a language (apt's name, `zh_CN`), each long text once."""
    sections = _sections(archive.lists)
    found: dict[str, Description] = {}
    suffix = language.replace("_", "%5f")
    for path in sorted(archive.lists.glob(f"*Translation-{suffix}")):
        for name, key, described in _stanzas(path, f"Description-{language}"):
            title, _, text = described.partition("\n")
            text = _unfold(text)
            if text and name in sections:
                item = Description(key, name, sections[name], title.strip(), text)
                found.setdefault(text, item)
    return list(found.values())


def _sections(lists: Path) -> dict[str, str]:
    sections: dict[str, str] = {}
    for path in sorted(lists.glob("*_Packages")):
        for stanza in path.read_text(encoding="utf-8").split("\n\n"):
            name = re.match(r"Package: (\S+)", stanza)
            section = re.search(r"^Section: (\S+)", stanza, re.MULTILINE)
            if name and section:
                sections.setdefault(name[1], section[1].split("/")[-1])
    return sections


def _stanzas(path: Path, field: str) -> Iterator[tuple[str, str, str]]:
    pattern = re.compile(rf"^{field}: (.*(?:\n[ \t].*)*)", re.MULTILINE)
    for stanza in path.read_text(encoding="utf-8").split("\n\n"):
        name = re.match(r"Package: (\S+)", stanza)
        key = re.search(r"^Description-md5: (\S+)", stanza, re.MULTILINE)
        value = pattern.search(stanza)
        if name and key and value:
            yield name[1], key[1], value[1]


def _unfold(text: str) -> str:
    lines = [line[1:] for line in text.splitlines()]
    return "\n".join("" if line.strip() == "." else line for line in lines).strip()
