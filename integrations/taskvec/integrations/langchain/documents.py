"""Reads documents of every kind of source, and cuts them batch by batch."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from contextlib import contextmanager
from typing import TypeAlias

from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document

from taskvec.core.errors import InputError
from taskvec.integrations.langchain.cutting import Cut, Cutter
from taskvec.integrations.langchain.delivering import Piece, pieces_of

Documents: TypeAlias = BaseLoader | Iterable[Document]
AnyDocuments: TypeAlias = Documents | AsyncIterable[Document]
Done: TypeAlias = Callable[[], object]


class Numbered:
    """Documents with their numbers and given ids. Raises InputError for another count of ids."""

    def __init__(self, documents: AnyDocuments, ids: Sequence[str] | None) -> None:
        if isinstance(documents, str | Document):
            raise InputError(
                f"documents is {type(documents).__name__}: expected a list of Document"
            )
        if isinstance(ids, str):
            raise InputError("ids is str: expected one id for each document")
        self._documents = documents
        self._ids = None if ids is None else list(ids)
        if self._ids is not None and isinstance(documents, Sized):
            self._check_count(len(documents))

    def __iter__(self) -> Iterator[tuple[int, Document, str | None]]:
        count = 0
        for document in self._listed():
            yield count, document, self._id(count)
            count += 1
        self._check_count(count)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Document, str | None]]:
        if isinstance(self._documents, BaseLoader):
            documents: AsyncIterable[Document] = self._documents.alazy_load()
        elif isinstance(self._documents, AsyncIterable):
            documents = self._documents
        else:
            for numbered in self:
                yield numbered
            return
        count = 0
        async for document in documents:
            yield count, document, self._id(count)
            count += 1
        self._check_count(count)

    def _listed(self) -> Iterable[Document]:
        if isinstance(self._documents, BaseLoader):
            return self._documents.lazy_load()
        if not isinstance(self._documents, Iterable):
            raise InputError(
                f"documents is {type(self._documents).__name__}: expected a list of Document"
            )
        return self._documents

    def _id(self, number: int) -> str | None:
        if self._ids is None:
            return None
        if number >= len(self._ids):
            self._check_count(number + 1)
        return self._ids[number]

    def _check_count(self, count: int) -> None:
        if self._ids is not None and count != len(self._ids):
            raise InputError(f"{len(self._ids)} ids for {count} documents or more: give each one")


def cuts_of(cutter: Cutter, documents: Numbered, done: Done) -> Iterator[Cut]:
    """Every document, cut when it is wanted. done: called after each."""
    for number, document, given_id in documents:
        yield cutter.cut(number, document, given_id)
        done()


async def acuts_of(cutter: Cutter, documents: Numbered, done: Done) -> AsyncGenerator[Cut, None]:
    """`cuts_of`, each cut in a thread."""
    async for number, document, given_id in documents:
        yield await asyncio.to_thread(cutter.cut, number, document, given_id)
        done()


def batches(cuts: Iterable[Cut], size: int) -> Iterator[list[Piece]]:
    """Chunks of whole documents, at least `size` in all but the last list."""
    batch: list[Piece] = []
    for cut in cuts:
        batch += pieces_of(cut)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


async def abatches(cuts: AsyncIterable[Cut], size: int) -> AsyncIterator[list[Piece]]:
    """`batches` of what is awaited."""
    batch: list[Piece] = []
    async for cut in cuts:
        batch += pieces_of(cut)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def document_bar(documents: AnyDocuments, *, shown: bool) -> Iterator[Done]:
    """A bar of documents on stderr, if shown; gives what to call after each."""
    if not shown:
        yield lambda: None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415 - only where a bar is asked for

    total = len(documents) if isinstance(documents, Sized) else None
    with tqdm(total=total, unit="document") as bar:
        yield bar.update
