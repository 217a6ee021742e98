"""Brings an index up to date with the files under some paths."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskvec.core.embedder import Array, Embedder, Span
from taskvec.core.errors import InputError
from taskvec.integrations.cli.files import Found, Passed, is_under, source_name
from taskvec.integrations.cli.stores.base import Chunk, Store
from taskvec.integrations.documents.cutting import (
    CHUNKING_VERSION,
    encode_spans,
    join,
    split_spans,
)
from taskvec.integrations.documents.reading import (
    Document,
    UnreadableError,
    read_bytes,
    read_document,
)


def _untold(_: int) -> None:
    """Where nobody watches the progress."""


@dataclass
class Outcome:
    """What a run did. problems: files that could not be read, and why."""

    indexed: int = 0
    chunks: int = 0
    unchanged: int = 0
    removed: int = 0
    problems: list[Passed] = field(default_factory=list)


@dataclass(frozen=True)
class Indexer:
    """Writes files' chunks into a store.

    characters: the longest chunk. context: how many characters are encoded at once.
    on_chunks: told how many chunks were encoded, as it goes.
    """

    store: Store
    embedder: Embedder
    dim: int
    characters: int
    context: int
    on_chunks: Callable[[int], None] = _untold

    def run(self, found: Found, *, on_file: Callable[[int], None] = _untold) -> Outcome:
        """Index what is new or changed among the files, and remove what is gone.

        A file counts as done when all its chunks are written, so that a run which is cut off
        goes on where it stopped. on_file: told 1 for each file that is done with.
        """
        outcome = Outcome(problems=list(found.problems))
        known = self.store.digests()
        outcome.removed = self._remove_gone(found, known)
        for source, path in found.files.items():
            try:
                self._index_file(source, path, known.get(source), outcome)
            except InputError as error:
                outcome.problems.append(Passed(source, str(error)))
            except OSError as error:
                outcome.problems.append(Passed(source, (error.strerror or str(error)).lower()))
            on_file(1)
        self.store.finish()
        return outcome

    def _index_file(self, source: str, path: Path, known: str | None, outcome: Outcome) -> None:
        data = read_bytes(path)
        digest = self._digest(path, data)
        if digest == known:
            outcome.unchanged += 1
            return
        try:
            document = read_document(path.name, data)
        except UnreadableError:
            # What was indexed before stands in the file no more.
            if known is not None:
                self.store.remove([source])
            raise
        spans = split_spans(document, characters=self.characters)
        if not spans and known is None:
            # Not every store can remember a file without chunks.
            outcome.unchanged += 1
            return
        self._write(source, digest, document, spans)
        outcome.indexed += 1
        outcome.chunks += len(spans)

    def _write(self, source: str, digest: str, document: Document, spans: Sequence[Span]) -> None:
        parts = []
        for part in self._encode(document, spans):
            parts.append(part)
            self.on_chunks(len(part))
        vectors = join(parts, dim=self.dim)
        self.store.replace(source, digest, _chunks_of(document, spans), vectors)

    def _encode(self, document: Document, spans: Sequence[Span]) -> Iterator[Array]:
        return encode_spans(self.embedder, document, spans, dim=self.dim, context=self.context)

    def _digest(self, path: Path, data: bytes) -> str:
        settings = f"{CHUNKING_VERSION} {self.characters} {self.context} {path.suffix.lower()}\0"
        return hashlib.sha256(settings.encode("utf-8", "surrogateescape") + data).hexdigest()

    def _remove_gone(self, found: Found, known: dict[str, str]) -> int:
        gone = [source for source in known if source not in found.files and _is_gone(source, found)]
        if gone:
            self.store.remove(gone)
        return len(gone)


def _chunks_of(document: Document, spans: Sequence[Span]) -> list[Chunk]:
    """The chunk of each span, with its place in the file."""
    return [
        Chunk(number, document.text[start:end], document.unit, document.place(start))
        for number, (start, end) in enumerate(spans)
    ]


def _is_gone(source: str, found: Found) -> bool:
    """Whether a source lay under the given paths and is on disk no more.

    A file in a folder that cannot be read is not gone.
    """
    if not any(is_under(source, root) for root in found.roots):
        return False
    if any(is_under(source, problem.path) for problem in found.problems):
        return False
    # Also where a folder, or a link to one, has its name now.
    return not os.path.lexists(source) or os.path.isdir(source)  # noqa: PTH112 - never raises


def missing_paths(found: Found, known: Sequence[str]) -> list[Path]:
    """Given paths that neither exist nor were ever indexed: most likely typing mistakes."""
    return [
        path
        for path in found.gone
        if not any(is_under(source, source_name(path)) for source in known)
    ]
