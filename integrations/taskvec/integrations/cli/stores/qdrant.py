"""An index in Qdrant: a folder without a server, or a server.

Every chunk is a point; the first one of a file carries the file's digest and whether all its
chunks are written. What the index was built with stands in the collection's metadata.
"""

import os
import pickle
import sqlite3
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from taskvec.core.embedder import Array
from taskvec.core.errors import InputError, SchemaError, StoreError
from taskvec.integrations.cli.redaction import redacted
from taskvec.integrations.cli.stores.base import About, Chunk, Hit, batches

BATCH = 256
META_KEY = "taskvec"
POINT_NAMESPACE = uuid.UUID("5d1f3a3e-0c5b-5f0c-9c5e-7a4f2a9b6c11")
TIMEOUT_S = 60


class QdrantStore:
    """A collection of an open client."""

    def __init__(self, client: QdrantClient, collection: str, place: str) -> None:
        self._client = client
        self._collection = collection
        self.name = f"collection {collection!r} in {place}"

    def about(self) -> About | None:
        """What the index was built with; None where nothing was indexed yet."""
        if not self._client.collection_exists(self._collection):
            return None
        metadata = self._client.get_collection(self._collection).config.metadata or {}
        try:
            return About(**metadata[META_KEY])
        except (KeyError, TypeError):
            raise SchemaError(
                f"{self.name} was not made by `taskvec index`: give another --collection"
            ) from None

    def create(self, about: About) -> None:
        """Make an empty collection that remembers what it is built with."""
        self._client.create_collection(
            self._collection,
            vectors_config=models.VectorParams(size=about.dim, distance=models.Distance.COSINE),
            metadata={META_KEY: vars(about)},
        )
        if not is_embedded(self._client):
            kind = models.PayloadSchemaType.INTEGER
            self._client.create_payload_index(self._collection, "number", kind)
        hasten_folder(self._client)

    def digests(self) -> dict[str, str]:
        """The digest of every stored source; an empty one where the source is incomplete."""
        return {
            payload["source"]: payload["digest"] if payload["complete"] else ""
            for payload in self._first_points()
        }

    def replace(self, source: str, digest: str, chunks: Sequence[Chunk], vectors: Array) -> None:
        """Put these chunks in the place of all that the source had."""
        if not chunks:
            self.remove([source])
            return
        points = [
            _point(source, chunk, vector)
            for chunk, vector in zip(chunks, vectors.tolist(), strict=True)
        ]
        # Until all is done, the first point says so, and how far the source's points may reach.
        reach = max(self._reach([source]).get(source, 0), len(points))
        state = {"digest": digest, "complete": False, "reach": reach}
        points[0].payload = {**(points[0].payload or {}), **state}
        for batch in batches(points, BATCH):
            self._client.upsert(self._collection, batch, wait=True)
        self._delete([_identity(source, number) for number in range(len(points), reach)])
        self._client.set_payload(
            self._collection,
            {"complete": True, "reach": len(points)},
            points=[points[0].id],
            wait=True,
        )

    def remove(self, sources: Iterable[str]) -> None:
        """Remove all chunks of these sources."""
        for batch in batches(list(sources), BATCH):
            for source, reach in self._reach(batch).items():
                self._delete([_identity(source, number) for number in range(1, reach)])
            # The first points last: without them the others could not be found any more.
            self._delete([_identity(source, 0) for source in batch])

    def finish(self) -> None:
        """Qdrant builds its vector index by itself."""

    def search(self, vector: Array, k: int) -> list[Hit]:
        """The k chunks nearest to a vector (dim,), best first."""
        answer = self._client.query_points(
            self._collection, query=vector.tolist(), limit=k, with_payload=True
        )
        return [_hit(point) for point in answer.points]

    def _first_points(self) -> Iterator[dict[str, Any]]:
        first = models.FieldCondition(key="number", match=models.MatchValue(value=0))
        offset: Any = None
        while True:
            records, offset = self._client.scroll(
                self._collection,
                scroll_filter=models.Filter(must=[first]),
                limit=1000,
                offset=offset,
                with_payload=["source", "digest", "complete"],
            )
            yield from (record.payload for record in records if record.payload)
            if offset is None:
                return

    def _reach(self, sources: Sequence[str]) -> dict[str, int]:
        """How many points each source may have. By ids: a filter reads every point there is."""
        ids = [_identity(source, 0) for source in sources]
        records = self._client.retrieve(self._collection, ids, with_payload=["source", "reach"])
        payloads = [record.payload for record in records if record.payload]
        return {payload["source"]: payload["reach"] for payload in payloads}

    def _delete(self, ids: Sequence[str]) -> None:
        for batch in batches(ids, BATCH):
            self._client.delete(self._collection, points_selector=list(batch), wait=True)


@contextmanager
def open_folder(folder: Path, collection: str, *, create: bool) -> Iterator[QdrantStore]:
    """Open an embedded Qdrant in a folder; its errors become StoreError."""
    place = f"qdrant:{folder}"
    if not (folder / "meta.json").exists():
        if not create:
            raise StoreError(f"no index in {place} yet: run `taskvec index` first")
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{place} holds other files: give an empty or new folder")
    with _sentences(place), warnings.catch_warnings():
        # It warns from 20 000 chunks on, where a server gets quicker; it goes on working.
        warnings.filterwarnings("ignore", message="Local mode is not recommended")
        client = _open_client(folder)
        try:
            hasten_folder(client)
            yield QdrantStore(client, collection, place)
        finally:
            client.close()


@contextmanager
def open_server(url: str, collection: str) -> Iterator[QdrantStore]:
    """Open a Qdrant server by its URL; its errors become StoreError.

    A server that wants a key gets the one in QDRANT_API_KEY.
    """
    place = redacted(url)
    with _sentences(place):
        client = _connect(url)
        try:
            yield QdrantStore(client, collection, place)
        finally:
            client.close()


def is_embedded(client: QdrantClient | AsyncQdrantClient) -> bool:
    """Whether a client runs Qdrant's local mode."""
    return type(client._client).__name__ in {"QdrantLocal", "AsyncQdrantLocal"}


def hasten_folder(client: QdrantClient | AsyncQdrantClient, collection: str | None = None) -> None:
    """Spare an embedded Qdrant, in one collection or in all, one wait for the disk per point.

    It commits every point by itself. With a write-ahead log a killed process loses nothing, and
    after a power failure the last files at most are indexed again.
    """
    for name, kept in getattr(client._client, "collections", {}).items():
        connection = getattr(getattr(kept, "storage", None), "storage", None)
        if collection in {None, name} and isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")


def _open_client(folder: Path) -> QdrantClient:
    try:
        return QdrantClient(path=str(folder))
    except (KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise StoreError(f"qdrant:{folder} is damaged: {error}") from error


def _connect(url: str) -> QdrantClient:
    key = os.environ.get("QDRANT_API_KEY")
    try:
        return QdrantClient(url=url, api_key=key, timeout=TIMEOUT_S, check_compatibility=False)
    except ValueError:
        # Its reason may hold a piece of the password.
        raise InputError(f"--store qdrant:{redacted(url)} is not a URL") from None


@contextmanager
def _sentences(place: str) -> Iterator[None]:
    try:
        yield
    except ResponseHandlingException as error:
        raise StoreError(f"cannot reach Qdrant at {place}: {error}") from error
    except UnexpectedResponse as error:
        raise StoreError(f"Qdrant at {place} refused: {_reason(error)}") from error
    except sqlite3.Error as error:
        raise StoreError(f"{place} cannot be used: {error}") from error
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        raise StoreError(
            f"{place} is in use by another process: wait for it to end, or use a Qdrant server"
        ) from error


def _reason(error: UnexpectedResponse) -> str:
    content = error.content.decode("utf-8", "replace")[:200] if error.content else ""
    return f"{error.status_code} {error.reason_phrase} {content}".strip()


def _identity(source: str, number: int) -> str:
    return str(uuid.uuid5(POINT_NAMESPACE, f"{source}\0{number}"))


def _point(source: str, chunk: Chunk, vector: list[float]) -> models.PointStruct:
    payload = {"source": source, **vars(chunk)}
    return models.PointStruct(id=_identity(source, chunk.number), vector=vector, payload=payload)


def _hit(point: models.ScoredPoint) -> Hit:
    payload = point.payload or {}
    return Hit(point.score, payload["source"], payload["text"], payload["unit"], payload["place"])
