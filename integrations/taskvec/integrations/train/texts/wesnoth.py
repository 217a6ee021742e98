"""Stories, dialogues and help of The Battle for Wesnoth, GPL-2.0-or-later, with translations."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import polib

from taskvec.integrations.train.texts.archive import Archive, collapse

VERSION = "1.16"
CAMPAIGNS = (
    "data did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs".split()  # noqa: SIM905
)
# A hint for translators before "^", and the game's own mark-up.
HINT = re.compile(r"^[^^\n]{1,60}\^")
MARKUP = re.compile(r"<[^>]+>|\$\|?[\w.]+\|?")


class Story(NamedTuple):
    """A translated text, and the campaign whose package holds it."""

    campaign: str
    text: str


def translations(archive: Archive, language: str) -> dict[str, str]:
    """English text → its translation, for texts of more than one word. language: apt's name."""
    return {source: story.text for source, story in stories(archive, language).items()}


def stories(archive: Archive, language: str) -> dict[str, Story]:
    """English text → its translation and campaign, for texts of more than one word."""
    found: dict[str, Story] = {}
    for campaign, message, translated in _messages(archive, language):
        source, target = _clean(message), _clean(translated)
        if " " in source and target and len(source) > 12:
            found.setdefault(source, Story(campaign, target))
    return found


def _messages(archive: Archive, language: str) -> Iterator[tuple[str, str, str]]:
    for campaign in CAMPAIGNS:
        root = archive.package(f"wesnoth-{VERSION}-{campaign}")
        for path in sorted(root.rglob(f"locale/{language}/LC_MESSAGES/*.mo")):
            for entry in polib.mofile(str(path)):
                if entry.msgstr:
                    yield campaign, entry.msgid, entry.msgstr


def _clean(text: str) -> str:
    return collapse(MARKUP.sub("", HINT.sub("", text)))
