"""Tokens of a request's texts, counted in parts: too many, or a client gone, end it early."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from taskvec.core.errors import SizeError

# Characters that are tokenized at once: each takes some hundred bytes while it is.
PART = 1 << 20
# A cut makes a word two, and each part has specials and a prompt: more than all of these.
MARGIN = 1024


@dataclass
class Counting:
    """Counts the tokens of texts, whole and never cut.

    count: of a list of texts. most: tokens of all texts together. given_up: set by who waits no
    more for the counts.
    """

    count: Callable[[Sequence[str]], list[int]]
    most: int
    given_up: threading.Event = field(default_factory=threading.Event)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text. Raises InputError for more than `most`."""
        counts: list[int] = []
        found = 0
        for group in grouped(texts):
            if self.given_up.is_set():
                break
            if len(group[0]) > PART:
                self._look_ahead(group[0], found)
            counts += self.count(group)
            found += sum(counts[-len(group) :])
            self._check(found)
        return counts

    def _look_ahead(self, text: str, found: int) -> None:
        """Raise InputError where the parts of a long text have too many tokens already."""
        for start in range(0, len(text), PART):
            if self.given_up.is_set():
                return
            found += max(0, self.count([text[start : start + PART]])[0] - MARGIN)
            self._check(found)

    def _check(self, found: int) -> None:
        if found > self.most:
            raise SizeError(
                f"input has {found} tokens or more: a request may have {self.most}, send several"
            )


def grouped(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in order, in groups of at most PART characters; a longer one is alone."""
    start = size = 0
    for number, text in enumerate(texts):
        if number > start and size + len(text) > PART:
            yield texts[start:number]
            start, size = number, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]
