"""Gives a vector store chunks, and its embedding object their late-chunked vectors."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.adapters.prepared import Prepared, own_copy
from taskvec.core.errors import StoreError
from taskvec.integrations.langchain.cutting import Cut

Rows = list[list[float]]
# Documents that are encoded at once, so that short ones share batches.
AT_ONCE = 8


@dataclass(frozen=True)
class Piece:
    """The chunk of a cut with a number."""

    cut: Cut
    number: int

    @property
    def chunk(self) -> Document:
        """The chunk itself."""
        return self.cut.chunks[self.number]


def pieces_of(cut: Cut) -> list[Piece]:
    """All chunks of a cut."""
    return [Piece(cut, number) for number in range(len(cut.chunks))]


class Delivery(VectorStore):
    """Stands before a store, and writes chunks of documents that were cut.

    embeddings: what the store asks for its vectors.
    late: whether chunks get late-chunked vectors; otherwise the store asks for them as always.
    ahead: how many of the chunks that were announced last are remembered.
    """

    def __init__(
        self, store: VectorStore, embeddings: TaskvecEmbeddings, *, late: bool, ahead: int
    ) -> None:
        self._store = store
        self._embeddings = embeddings
        self._late = late
        self._ahead = ahead
        self._announced: OrderedDict[str, Piece] = OrderedDict()
        # Of the last document: its chunks may come in two calls.
        self._latest: tuple[Cut, Rows] | None = None

    def announce(self, piece: Piece) -> Document:
        """Remember a chunk that `add_documents` may be asked to write, and return it."""
        self._announced[str(piece.chunk.id)] = piece
        while len(self._announced) > self._ahead:
            self._announced.popitem(last=False)
        return piece.chunk

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Write chunks that were announced."""
        kwargs.pop("ids", None)
        return self.write([self._announced[str(chunk.id)] for chunk in documents], **kwargs)

    async def aadd_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """`add_documents`, awaited."""
        kwargs.pop("ids", None)
        return await self.awrite([self._announced[str(chunk.id)] for chunk in documents], **kwargs)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """As the store does."""
        return self._store.delete(ids, **kwargs)

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """As the store does."""
        return await self._store.adelete(ids, **kwargs)

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """As the store does."""
        return self._store.similarity_search(query, k, **kwargs)

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> NoReturn:
        """Not to be had: it stands before a store that there is."""
        raise NotImplementedError

    def write(self, pieces: Sequence[Piece], **kwargs: Any) -> list[str]:
        """Write chunks with their vectors, and return their ids as the store tells them.

        Raises StoreError where the store changes texts, or has vectors from elsewhere; chunks that
        it wrote with such vectors are deleted.
        """
        rows = self._rows(pieces) if self._late else None
        written: dict[int, str] = {}
        for places, chunks, prepared in self._calls(pieces, rows):
            ids = _ids(chunks)
            with prepared:
                told = self._store.add_documents(chunks, ids=ids, **kwargs)
            if prepared.unasked:
                gone = False
                with suppress(Exception):
                    gone = self._store.delete(ids) is not False
                raise _unasked(self._store, ids, prepared, gone=gone)
            written |= zip(places, told or ids, strict=True)
        return [written[place] for place in sorted(written)]

    async def awrite(self, pieces: Sequence[Piece], **kwargs: Any) -> list[str]:
        """`write`, awaited."""
        rows = await self._arows(pieces) if self._late else None
        written: dict[int, str] = {}
        for places, chunks, prepared in self._calls(pieces, rows):
            ids = _ids(chunks)
            with prepared:
                told = await self._store.aadd_documents(chunks, ids=ids, **kwargs)
            if prepared.unasked:
                gone = False
                with suppress(Exception):
                    gone = await self._store.adelete(ids) is not False
                raise _unasked(self._store, ids, prepared, gone=gone)
            written |= zip(places, told or ids, strict=True)
        return [written[place] for place in sorted(written)]

    def _calls(
        self, pieces: Sequence[Piece], rows: Rows | None
    ) -> Iterator[tuple[Sequence[int], list[Document], Prepared]]:
        """The chunks of each call of the store, and the vectors that it will ask for in it."""
        if rows is None:
            yield range(len(pieces)), [piece.chunk for piece in pieces], Prepared(None, [], [])
            return
        for places in _apart([piece.chunk.page_content for piece in pieces]):
            chunks = [_own(pieces[place].chunk) for place in places]
            texts = [chunk.page_content for chunk in chunks]
            yield places, chunks, Prepared(self._embeddings, texts, [rows[p] for p in places])

    def _rows(self, pieces: Sequence[Piece]) -> Rows:
        """Late-chunked vectors of chunks; each document is read once."""
        made = self._made()
        cuts = self._missing(pieces, made)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            calls = pool.map(lambda cut: self._embeddings.embed_chunks(cut.text, cut.spans), cuts)
            made |= zip(map(id, cuts), calls, strict=True)
        return self._picked(pieces, made)

    async def _arows(self, pieces: Sequence[Piece]) -> Rows:
        made = self._made()
        cuts = self._missing(pieces, made)
        calls = [self._embeddings.aembed_chunks(cut.text, cut.spans) for cut in cuts]
        made |= zip(map(id, cuts), await asyncio.gather(*calls), strict=True)
        return self._picked(pieces, made)

    @staticmethod
    def _missing(pieces: Sequence[Piece], made: dict[int, Rows]) -> list[Cut]:
        return list({id(p.cut): p.cut for p in pieces if id(p.cut) not in made}.values())

    def _made(self) -> dict[int, Rows]:
        return {} if self._latest is None else {id(self._latest[0]): self._latest[1]}

    def _picked(self, pieces: Sequence[Piece], made: dict[int, Rows]) -> Rows:
        last = pieces[-1].cut
        self._latest = (last, made[id(last)])
        return [made[id(piece.cut)][piece.number] for piece in pieces]


def _own(chunk: Document) -> Document:
    text = own_copy(chunk.page_content)
    return Document(text, metadata=chunk.metadata, id=chunk.id)


def _ids(chunks: Sequence[Document]) -> list[str]:
    return [str(chunk.id) for chunk in chunks]


def _apart(texts: Sequence[str]) -> list[list[int]]:
    """Places of texts in groups, none of which has a text of one letter twice."""
    groups: list[list[int]] = [[]]
    times: dict[str, int] = {}
    for place, text in enumerate(texts):
        time = 0
        if len(text) < 2:
            time = times[text] = times.get(text, -1) + 1
        if time == len(groups):
            groups.append([])
        groups[time].append(place)
    return [group for group in groups if group]


def _unasked(store: VectorStore, ids: list[str], prepared: Prepared, *, gone: bool) -> StoreError:
    what = "they were deleted again" if gone else f"delete what has the ids {ids}"
    return StoreError(
        f"{type(store).__name__} did not ask its embeddings for the vectors of "
        f"{len(prepared.unasked)} of {len(ids)} chunks, so it copies or changes texts, or gets "
        f"vectors from elsewhere; {what}. Use another store, or late_chunking=False"
    )
