"""Documents, and how they are cut into chunks."""

import asyncio
import json
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

from pydantic_core import PydanticSerializationError, to_jsonable_python

from taskvec.core.embedder import Span
from taskvec.core.errors import InputError
from taskvec.core.inputs import check_number
from taskvec.integrations.documents import DEFAULT_CHARACTERS
from taskvec.integrations.documents.cutting import split_spans
from taskvec.integrations.documents.reading import Document as FileDocument
from taskvec.integrations.documents.reading import clean
from taskvec.integrations.spans import find_spans

Splitter: TypeAlias = Callable[[str], Iterable[str] | Iterable[Span]]

# Part of every digest: raise it when the same document would be stored otherwise.
VERSION = 1
OURS = "taskvec.integrations.qdrant.Document"


@dataclass(frozen=True)
class Document:
    """A whole text to be stored.

    id: its own name; whatever is stored under it is replaced.
    metadata: JSON, dates and UUIDs; stored with each chunk and returned with hits.
    spans: half-open ranges of characters that are its chunks; None leaves that to a splitter.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    spans: Sequence[Span] | None = None


@dataclass(frozen=True)
class Cut:
    """A document as it is stored. digest: changes with all of it."""

    id: str
    text: str
    metadata: dict[str, Any]
    spans: list[Span]
    digest: str

    @property
    def chunks(self) -> list[str]:
        """The text of each span."""
        return [self.text[start:end] for start, end in self.spans]


class Cutter:
    """Cuts documents, and knows those that it cut.

    splitter: gives the chunks of a text in order, or their spans; None cuts at paragraphs and
        sentences. characters: the longest chunk then, 600 by default; InputError beside a splitter.
    """

    def __init__(self, splitter: Splitter | None, *, characters: int | None = None) -> None:
        if splitter is not None and not callable(splitter):
            raise InputError(
                f"splitter is {type(splitter).__name__}: expected a function of a text, such as "
                "a LangChain splitter's split_text"
            )
        if splitter is not None and characters is not None:
            raise InputError(
                f"splitter and chunk_characters={characters!r}: give one of them; a splitter has "
                "sizes of its own"
            )
        self._splitter = splitter
        self._characters = DEFAULT_CHARACTERS if characters is None else characters
        check_number("chunk_characters", self._characters)
        self._seen: dict[str, tuple[int, str]] = {}

    def cut(self, number: int, document: Document) -> Cut | None:
        """A document's chunks; None if the same document came before.

        number: that messages call it by. Raises InputError for what is no Document, or has an id,
        a text or metadata that cannot be stored, chunks or spans that are no part of its text, or
        the id of another document.
        """
        where = f"documents[{number}]"
        _check(where, document)
        text = clean(document.text)
        metadata = _plain(where, document.metadata)
        spans = self._spans(where, document, text)
        digest = _digest([VERSION, text, metadata, spans])
        first, known = self._seen.setdefault(document.id, (number, digest))
        if known != digest:
            raise InputError(
                f"documents[{first}] and {where} have the same id {document.id!r}: give each its "
                "own"
            )
        return Cut(document.id, text, metadata, spans, digest) if first == number else None

    def _spans(self, where: str, document: Document, text: str) -> list[Span]:
        if document.spans is not None:
            return _checked(where, document.spans, text)
        if self._splitter is None:
            whole = FileDocument(text, marks=())
            return split_spans(whole, characters=self._characters)
        parts = list(self._splitter(text))
        chunks = [part for part in parts if isinstance(part, str)]
        if not chunks:
            return _checked(where, parts, text)
        if len(chunks) < len(parts):
            raise InputError(f"{where}: the splitter gave both chunks and spans: expected one kind")
        try:
            return find_spans(text, [chunk for chunk in chunks if chunk.strip()])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def cuts_of(cutter: Cutter, documents: Iterable[Document]) -> Iterator[Cut | None]:
    """Every document, cut when it is wanted. Raises InputError for what is no list of them."""
    _check_listed(documents)
    for number, document in enumerate(documents):
        yield cutter.cut(number, document)


async def acuts_of(
    cutter: Cutter, documents: Iterable[Document] | AsyncIterable[Document]
) -> AsyncGenerator[Cut | None, None]:
    """`cuts_of`, each cut in a thread."""
    number = 0
    if isinstance(documents, AsyncIterable):
        async for document in documents:
            yield await asyncio.to_thread(cutter.cut, number, document)
            number += 1
        return
    _check_listed(documents)
    for document in documents:
        yield await asyncio.to_thread(cutter.cut, number, document)
        number += 1


def batches(cuts: Iterable[Cut | None], size: int) -> Iterator[list[Cut | None]]:
    """Whole documents, with at least `size` chunks or documents in all but the last list."""
    filling = _Filling(size)
    for cut in cuts:
        if filling.add(cut):
            yield filling.taken()
    if filling.batch:
        yield filling.taken()


async def abatches(cuts: AsyncIterable[Cut | None], size: int) -> AsyncIterator[list[Cut | None]]:
    """`batches` of what is awaited."""
    filling = _Filling(size)
    async for cut in cuts:
        if filling.add(cut):
            yield filling.taken()
    if filling.batch:
        yield filling.taken()


class _Filling:
    """A batch that is being filled."""

    def __init__(self, size: int) -> None:
        self.batch: list[Cut | None] = []
        self._size = size
        self._weight = 0

    def add(self, cut: Cut | None) -> bool:
        """Add a document; tells whether the batch is full."""
        self.batch.append(cut)
        self._weight += _weight(cut)
        return self._weight >= self._size

    def taken(self) -> list[Cut | None]:
        """The batch, and an empty one in its place."""
        taken, self.batch, self._weight = self.batch, [], 0
        return taken


def check_id(where: str, name: object) -> None:
    """Raises InputError unless `name` is a str that can be a document's id."""
    if not isinstance(name, str) or not name or name != clean(name):
        raise InputError(f"{where} has the id {name!r}: expected a str of Unicode text")


def _weight(cut: Cut | None) -> int:
    return max(len(cut.spans), 1) if cut else 1


def _check_listed(documents: object) -> None:
    if isinstance(documents, str | Document | Mapping) or not isinstance(documents, Iterable):
        raise InputError(f"documents is {_kind(documents)}: expected a list of {OURS}")


def _check(where: str, document: object) -> None:
    if not isinstance(document, Document):
        raise InputError(f"{where} is {_kind(document)}: expected a {OURS}")
    check_id(where, document.id)
    if not isinstance(document.text, str):
        raise InputError(f"{where} has a {type(document.text).__name__} as its text: expected str")


def _kind(value: object) -> str:
    """The class of something; with its module, for other packages have a Document, too."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _plain(where: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as Qdrant keeps them."""
    if not isinstance(metadata, Mapping):
        raise InputError(f"{where} has {type(metadata).__name__} as metadata: expected a mapping")
    try:
        plain: dict[str, Any] = to_jsonable_python(_ordered(metadata))
        json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()
    except (PydanticSerializationError, ValueError) as error:
        raise InputError(f"{where} has metadata that are no JSON: {error}") from None
    return plain


def _ordered(value: Any) -> Any:
    """Without sets, whose order differs from process to process, and with it the digest."""
    if isinstance(value, Mapping):
        return {key: _ordered(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_ordered, value), key=repr)
    return list(map(_ordered, value)) if isinstance(value, list | tuple) else value


def _checked(where: str, spans: Iterable[Any], text: str) -> list[Span]:
    checked: list[Span] = []
    for i, span in enumerate(spans):
        try:
            start, end = span
            fits = type(start) is type(end) is int and 0 <= start < end <= len(text)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(
                f"{where}: span {i} is {span!r}: expected (start, end) with 0 <= start < end <= "
                f"{len(text)}"
            )
        checked.append((start, end))
    return checked


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
