"""Pages of help, which their titles cut into sections."""

from collections.abc import Iterable
from typing import NamedTuple


class Section(NamedTuple):
    """A part of a page under a title of its own; that of the page's beginning is empty."""

    title: str
    text: str


def whole(sections: Iterable[Section]) -> str:
    """All sections below each other, each under its title."""
    return "\n".join(f"{section.title}\n{section.text}".strip() for section in sections)
