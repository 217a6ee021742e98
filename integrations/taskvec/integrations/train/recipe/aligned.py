"""Passages of a language with their headings, and with the English ones that they translate.

A tenth of what Debian describes and LibreOffice explains, by its key, is kept from the stages that
learn from pairs and labels.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from taskvec.integrations.train.texts import descriptions, libreoffice, wesnoth
from taskvec.integrations.train.texts.archive import Archive, collapse

HELD_OUT_PERCENT = 10
# What is left of the game's links.
MARKUP = "='"
MIN_TEXT_CHARS = {"ja": 20, "zh_CN": 20}
MIN_TEXT = 50


class Passage(NamedTuple):
    """A heading and a text below it in a language, and both in English.

    group: what it is about, coarsely: the package's section, the help's application. document:
    what it is of: the package, the page.
    """

    heading: str
    text: str
    english_heading: str
    english_text: str
    group: str
    document: str


class Aligned(NamedTuple):
    """A language's passages, and its sentences by the English ones that they translate.

    campaigns: of the game, that of each English sentence.
    """

    passages: list[Passage]
    sentences: dict[str, str]
    campaigns: dict[str, str]


def is_held_out(key: str) -> bool:
    """Whether the text of a key is kept from the stages that learn from pairs and labels."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def aligned(archive: Archive, language: str, *, held_out: bool = False) -> Aligned:
    """A language's aligned texts (apt's name, `zh_CN`), those held out or all others.

    What is left untranslated is left out; English is aligned with itself.
    """
    passages = [*_described(archive, language, held_out), *_explained(archive, language, held_out)]
    stories = wesnoth.stories(archive, "de" if language == "en" else language)
    kept = {
        source: story
        for source, story in stories.items()
        if is_held_out(source) == held_out and MARKUP not in source
    }
    sentences = {s: s if language == "en" else story.text for s, story in kept.items()}
    return Aligned(passages, sentences, {s: story.campaign for s, story in kept.items()})


def _described(archive: Archive, language: str, held_out: bool) -> list[Passage]:
    english = {item.key: item for item in descriptions.descriptions(archive, "en")}
    found = []
    for item in descriptions.descriptions(archive, language):
        source = english.get(item.key)
        if source is not None and is_held_out(item.key) == held_out:
            own, theirs = collapse(item.text), collapse(source.text)
            found.append(Passage(item.title, own, source.title, theirs, item.section, item.key))
    return found


def _explained(archive: Archive, language: str, held_out: bool) -> list[Passage]:
    english = _firsts(libreoffice.pages(archive, "en"))
    own = english if language == "en" else _firsts(libreoffice.pages(archive, language))
    least = MIN_TEXT_CHARS.get(language, MIN_TEXT)
    found = []
    for key, part in _unrepeated(own).items():
        page, source = key.split("#")[0], english.get(key)
        if source is None or (source.text == part.text and language != "en"):
            continue
        if len(part.text) >= least and is_held_out(page) == held_out:
            group = "/".join(page.split("/")[:2])
            found.append(Passage(part.heading, part.text, source.heading, source.text, group, page))
    return found


def _firsts(pages: Iterable[libreoffice.Page]) -> dict[str, libreoffice.Paragraph]:
    """The first paragraph below each heading, by its key."""
    found = {}
    for page in pages:
        heads: set[str] = set()
        for part in page.paragraphs:
            if part.heading and part.heading not in heads:
                found[part.key] = part
            heads.add(part.heading)
    return found


def _unrepeated(
    parts: Mapping[str, libreoffice.Paragraph],
) -> dict[str, libreoffice.Paragraph]:
    """Those whose heading stands over one text alone: another says too little of it."""
    counts = Counter(part.heading for part in parts.values())
    return {key: part for key, part in parts.items() if counts[part.heading] == 1}
