"""Vectors made ahead, for a store that will ask its embedding object for them.

A store shows its embedding object texts alone, and two chunks of equal text differ in their
vectors. So a chunk is known by its string object, which stores pass on whole, in whatever thread or
event loop they embed. Where a store copies strings, its call's context tells whose they are.
"""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar, Token
from typing import Self

from taskvec.core.errors import StoreError

Row = list[float]

# One-letter strings are one object for the whole process, so they never stand here.
_BY_STRING: dict[int, tuple["Prepared", int]] = {}
_CURRENT: ContextVar["Prepared | None"] = ContextVar("taskvec_prepared", default=None)


class Prepared:
    """Vectors for the texts that a store is given while this is entered.

    owner: the embedding object that the store asks; one that is equal to it counts as well.
    texts: K strings, each made by `own_copy`. Of one-letter strings, none twice.
    rows: K vectors.
    """

    def __init__(self, owner: object, texts: Sequence[str], rows: Sequence[Row]) -> None:
        self.owner = owner
        self.open = False
        self.unasked = set(range(len(texts)))
        self._texts = texts
        self._rows = rows
        self._by_text: dict[str, list[int]] = {}
        for i, text in enumerate(texts):
            self._by_text.setdefault(text, []).append(i)
        self._token: Token[Prepared | None] | None = None

    def __enter__(self) -> Self:
        self.open = True
        _BY_STRING.update({id(t): (self, i) for i, t in enumerate(self._texts) if len(t) > 1})
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A call that was cancelled may go on in a thread of the store, and ask there.
        self.open = kind is not None and not issubclass(kind, Exception)
        if self._token is not None:
            _CURRENT.reset(self._token)
        for text in self._texts:
            if len(text) > 1:
                _BY_STRING.pop(id(text), None)

    def row(self, i: int) -> Row:
        """The i-th vector, noted as asked for."""
        self.unasked.discard(i)
        return self._rows[i]

    def row_of_equal(self, text: str) -> Row:
        """The vector of the only text that equals this one. Raises StoreError if none is."""
        found = self._by_text.get(text, [])
        if not found:
            raise StoreError(
                f"the store asks for the vector of {_shown(text)}, which is none of the chunks it "
                "was given: it changes texts, so that late chunking does not fit it"
            )
        if any(self._rows[i] != self._rows[found[0]] for i in found):
            raise StoreError(
                f"the store copies texts, and {len(found)} chunks are {_shown(text)}: which one it "
                "asks for cannot be told"
            )
        self.unasked.difference_update(found)
        return self._rows[found[0]]


def own_copy(text: str) -> str:
    """An equal string that is an object of its own, but for strings of one letter and none."""
    return "".join((text[:1], text[1:]))


def prepared_rows(owner: object, texts: Iterable[str]) -> dict[int, Row]:
    """The rows of those texts that vectors were made for, by their place.

    Raises StoreError inside a store's call that hands over other texts than it was given.
    """
    current = _CURRENT.get()
    # What a store started in its call, such as a worker of its own, keeps that call's context.
    if current is not None and not (current.open and current.owner == owner):
        current = None
    if current is None and not _BY_STRING:
        return {}
    rows = {}
    for place, text in enumerate(texts):
        made, i = _BY_STRING.get(id(text), (None, 0))
        if made is not None and made.owner == owner:
            rows[place] = made.row(i)
        elif current is not None:
            rows[place] = current.row_of_equal(text)
    return rows


def _shown(text: str) -> str:
    return repr(text if len(text) < 40 else f"{text[:40]}…")
