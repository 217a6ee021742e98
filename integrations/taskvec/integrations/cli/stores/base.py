"""What a store of chunks has to do, whichever database keeps it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from taskvec.core.embedder import Array
from taskvec.core.errors import FingerprintError, InputError, StoreError

PASSAGE_TASK = "retrieval.passage"
QUERY_TASK = "retrieval.query"
# Postgres cuts names at 63 bytes, and the tables' names end in a suffix.
MAX_COLLECTION_BYTES = 48

Item = TypeVar("Item")


@dataclass(frozen=True)
class About:
    """What an index was built with. fingerprint: of its passages; query_fingerprint: of queries."""

    fingerprint: str
    model: str
    dim: int
    query_fingerprint: str = ""

    def __str__(self) -> str:
        return f"model {self.model!r}, dim {self.dim}"


@dataclass(frozen=True)
class Chunk:
    """A part of a file. unit: "line" or "page"; place: the one that it starts on."""

    number: int
    text: str
    unit: str
    place: int


@dataclass(frozen=True)
class Hit:
    """A chunk that a search found. score: cosine similarity."""

    score: float
    source: str
    text: str
    unit: str
    place: int


class Store(Protocol):
    """An open collection of chunks with their vectors."""

    @property
    def name(self) -> str:
        """How messages call the store and collection."""

    def about(self) -> About | None:
        """What the index was built with; None where nothing was indexed yet."""

    def create(self, about: About) -> None:
        """Make an empty index, where there is none yet."""

    def digests(self) -> dict[str, str]:
        """The digest of every stored source; an empty one where the source is incomplete."""

    def replace(self, source: str, digest: str, chunks: Sequence[Chunk], vectors: Array) -> None:
        """Put these chunks in the place of all that the source had.

        The source counts as complete only when all are written. vectors: (K, dim) float32.
        """

    def remove(self, sources: Iterable[str]) -> None:
        """Remove all chunks of these sources."""

    def finish(self) -> None:
        """Called when all changes of a run are written: build what speeds up searching."""

    def search(self, vector: Array, k: int) -> list[Hit]:
        """The k chunks nearest to a vector (dim,), best first."""


def batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of at most `size`."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def check_collection(name: str) -> str:
    """The name, if both databases and a file system take it. Raises InputError otherwise."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name) or len(name) > MAX_COLLECTION_BYTES:
        raise InputError(
            f"collection {name!r} is not a name of letters, digits, '_' and '-' that begins with "
            f"a letter and has at most {MAX_COLLECTION_BYTES} of them"
        )
    return name


def require_about(store: Store) -> About:
    """What the index was built with. Raises StoreError where nothing was indexed."""
    about = store.about()
    if about is None:
        raise StoreError(f"nothing is indexed in {store.name} yet: run `taskvec index` first")
    return about


def check_same(store: Store, stored: About, wanted: About) -> None:
    """Raise FingerprintError unless both name the same vectors."""
    if stored.fingerprint == wanted.fingerprint:
        return
    if (stored.model, stored.dim) == (wanted.model, wanted.dim):
        raise FingerprintError(
            f"{store.name} was built with other weights of {stored} (fingerprint "
            f"{stored.fingerprint}, now {wanted.fingerprint}): index again into another "
            "--collection"
        )
    raise FingerprintError(
        f"{store.name} was built with {stored}, not {wanted}: use --model {stored.model} "
        f"--dim {stored.dim}, or index into another --collection"
    )


def check_same_query(store: Store, stored: About, wanted: About) -> None:
    """Raise FingerprintError unless both name the same vectors, those of queries included."""
    check_same(store, stored, wanted)
    if stored.query_fingerprint != wanted.query_fingerprint:
        raise FingerprintError(
            f"{store.name} was built for another query LoRA or prompt of {stored}: search with the "
            "model as it was then, or index again into another --collection"
        )
