"""Cuts documents into chunks that know where they come from."""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid5

from langchain_core.documents import BaseDocumentTransformer, Document

from taskvec.core.embedder import Span
from taskvec.core.errors import InputError
from taskvec.integrations.spans import find_spans

# Ids are derived from it: with another one, every index would be made anew.
NAMESPACE = UUID("7b0e8a52-3b3c-5d7f-9a0e-0c7f4f1d2e61")
# Of a chunk's metadata. A document may bring a source; the others are written here alone.
SOURCE = "source"
START = "start_index"
OWN_KEYS = ("document_id", START, "end_index", "fingerprint")


@dataclass(frozen=True)
class Cut:
    """A document's text, K spans of it, and the K chunks that were made of them."""

    text: str
    spans: list[Span]
    chunks: list[Document]


class Cutter:
    """Cuts documents with a LangChain splitter.

    fingerprint: of the vectors that chunks will have.
    late: whether a chunk's vector depends on all of its document.
    by_content: whether a chunk's id changes with all that its vector and metadata depend on, and
        not with its document's id and its number alone.
    """

    def __init__(
        self, splitter: BaseDocumentTransformer, fingerprint: str, *, late: bool, by_content: bool
    ) -> None:
        self._splitter = splitter
        self._fingerprint = f"{fingerprint}-late" if late else fingerprint
        self._late = late
        self._by_content = by_content
        self._seen: dict[str, tuple[int, str]] = {}

    def cut(self, number: int, document: Document, given_id: str | None) -> Cut:
        """A document's chunks: none if it is blank, or came before.

        Raises InputError for an id that two documents have, for metadata that is not to be
        overwritten, and for chunks that are no part of their document.
        """
        _check(number, document)
        name = _name(number, document, given_id)
        digest = _digest([document.page_content, document.metadata])
        first, known = self._seen.setdefault(name, (number, digest))
        if known != digest:
            raise InputError(
                f"documents[{first}] and documents[{number}] have the same id {name!r}: give each "
                "its own"
            )
        if first != number:
            return Cut(document.page_content, [], [])
        pieces = self._split(document)
        try:
            spans = find_spans(
                document.page_content,
                [piece.page_content for piece in pieces],
                [_hint(piece) for piece in pieces],
            )
        except InputError as error:
            raise InputError(f"documents[{number}]: {error}, or late_chunking=False") from None
        chunks = [
            self._chunk(name, i, document, piece, span)
            for i, (piece, span) in enumerate(zip(pieces, spans, strict=True))
        ]
        return Cut(document.page_content, spans, chunks)

    def _split(self, document: Document) -> list[Document]:
        # A copy: splitters may write into the metadata.
        whole = Document(document.page_content, metadata=dict(document.metadata))
        pieces = self._splitter.transform_documents([whole])
        return [piece for piece in pieces if piece.page_content.strip()]

    def _chunk(
        self, name: str, number: int, document: Document, piece: Document, span: Span
    ) -> Document:
        own = dict(zip(OWN_KEYS, (name, *span, self._fingerprint), strict=True))
        metadata = document.metadata | piece.metadata | own
        if metadata.get(SOURCE) in (None, ""):
            metadata[SOURCE] = name
        parts: list[object] = [name, number]
        if self._by_content:
            around = document.page_content if self._late else ""
            parts += [piece.page_content, metadata, _digest(around)]
        identity = str(uuid5(NAMESPACE, _digest(parts)))
        return Document(piece.page_content, metadata=metadata, id=identity)


def check_splitter(splitter: object) -> None:
    """Raises InputError for what is no splitter."""
    if not isinstance(splitter, BaseDocumentTransformer):
        raise InputError(
            f"splitter is {type(splitter).__name__}: expected a TextSplitter of LangChain's, such "
            "as RecursiveCharacterTextSplitter or MarkdownTextSplitter, or another "
            "BaseDocumentTransformer. Header splitters, such as MarkdownHeaderTextSplitter, are "
            "none: they rewrite their text, and give Documents"
        )


def _check(number: int, document: object) -> None:
    if not isinstance(document, Document):
        raise InputError(f"documents[{number}] is {type(document).__name__}: expected a Document")
    if START in document.metadata and "document_id" not in document.metadata:
        raise InputError(
            f"documents[{number}] has {START!r} in its metadata, as what a splitter cut: give "
            "whole documents, which are cut here, for late chunking reads each one as a whole; or "
            "give the key another name"
        )
    taken = [key for key in OWN_KEYS if key in document.metadata]
    if taken:
        raise InputError(
            f"documents[{number}] has {taken[0]!r} in its metadata, where its chunks keep what is "
            "theirs: give it another name"
        )


def _name(number: int, document: Document, given_id: str | None) -> str:
    """The document's id: given, its own, or else made of its text and metadata."""
    name = document.id if given_id is None else given_id
    if name is None:
        try:
            described = json.dumps([document.page_content, document.metadata], sort_keys=True)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"documents[{number}] has metadata that gives no id ({error}): set its id, or ids="
            ) from error
        return str(uuid5(NAMESPACE, described))
    if not isinstance(name, str) or not name:
        raise InputError(f"documents[{number}] has the id {name!r}: expected a str that says one")
    return name


def _hint(piece: Document) -> int | None:
    hint: Any = piece.metadata.get("start_index")
    return hint if isinstance(hint, int) else None


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()
