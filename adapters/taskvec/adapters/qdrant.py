"""Qdrant's `models.Document`, query vectors and points, made by a shared encoder."""

import json
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from taskvec.adapters.qdrant_encoding import BATCH, PREFIX, Encoding
from taskvec.core import Embedder, Roles
from taskvec.core.embedder import Array
from taskvec.core.errors import InputError, MissingExtraError, StoreError
from taskvec.core.inputs import check_several
from taskvec.core.registry import embedder_or_shared

try:
    from qdrant_client import AsyncQdrantClient, QdrantClient, models
except ImportError as error:
    raise MissingExtraError("taskvec.adapters.qdrant", "qdrant") from error

if TYPE_CHECKING:
    from taskvec.adapters.qdrant_inference import Inference

__all__ = ["enable_inference", "points", "query_vector"]

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "taskvec:points")
# The versions of qdrant-client whose inference `make test-matrix` takes through the tests.
TESTED = "1.14 to 1.20"


def enable_inference(
    client: QdrantClient | AsyncQdrantClient,
    model: str = "starter",
    *,
    dim: int | None = None,
    task: str | None = None,
    query_task: str | None = "retrieval.query",
    passage_task: str | None = "retrieval.passage",
    device: str = "auto",
    dtype: str = "auto",
    embedder: Embedder | None = None,
) -> None:
    """Make `models.Document(text=…, model="taskvec/" + model)` work in every call of a client.

    Texts of queries, prefetches and recommend examples get the query task, texts of points the
    passage task; `options={"task": …, "dim": …}` of a document overrules both. Call again for a
    second model; for the same one, the new tasks and dim take the place of the old. All that one
    call asks for is encoded together: a text that stands in it with several dims runs through the
    model once, and so do a query and its prefetches.

    The model is loaded with the first text, so that a model that there is not, or a dim that it
    was not trained for, shows there. Encoding happens in this process. The calls that an
    AsyncQdrantClient awaits hold up nobody meanwhile; its `upload_points` and `upload_collection`,
    which it does not await, block. An upload with `parallel` other than 1 raises InputError: its
    processes have no encoder.

    Raises InputError for a client with cloud_inference, StoreError for a version of qdrant-client
    that keeps its inference elsewhere; `query_vector` and `points` work with every version.

    Example:
        enable_inference(client, dim=128)
        client.query_points("docs", models.Document(text="how to?", model="taskvec/starter"))
    """
    if getattr(client, "cloud_inference", False):
        raise InputError("cloud_inference=True sends texts to the server: make a client without it")
    roles = Roles.choose(task, query_task, passage_task)
    embedder = embedder_or_shared(embedder, model, device=device, dtype=dtype)
    _inference(client).encodings[f"{PREFIX}{model}"] = Encoding(embedder, roles, dim)
    if client.local_inference_batch_size is None:
        client.local_inference_batch_size = BATCH


def query_vector(
    text: str,
    *,
    model: str = "starter",
    dim: int | None = None,
    task: str | None = None,
    query_task: str | None = "retrieval.query",
    device: str = "auto",
    dtype: str = "auto",
    embedder: Embedder | None = None,
) -> list[float]:
    """The vector of one query, for `query_points(query=…)`: `dim` floats of unit length."""
    embedder = embedder_or_shared(embedder, model, device=device, dtype=dtype)
    task = Roles.choose(task, query_task, None).query
    row: list[float] = embedder.encode([text], task=task, dim=dim, lane="query")[0].tolist()
    return row


def points(
    texts: Sequence[str],
    *,
    model: str = "starter",
    dim: int | None = None,
    task: str | None = None,
    passage_task: str | None = "retrieval.passage",
    device: str = "auto",
    dtype: str = "auto",
    embedder: Embedder | None = None,
    ids: Sequence[models.ExtendedPointId] | None = None,
    payloads: Sequence[Mapping[str, Any]] | None = None,
    vectors: Array | Sequence[Sequence[float]] | None = None,
    using: str | None = None,
) -> list[models.PointStruct]:
    """Points of passages, for `upsert` and `upload_points`.

    ids: by default derived from text and payload, so that a second upload replaces the first.
    payloads: by default {"text": text}.
    vectors: (B, dim), where they exist already, such as late chunks; nothing is encoded then.
    using: the name of the vector, in a collection with named vectors.

    Raises InputError where ids, payloads or vectors are not one per text.
    """
    check_several(texts)
    for name, given in (("ids", ids), ("payloads", payloads), ("vectors", vectors)):
        if given is not None and len(given) != len(texts):
            raise InputError(f"{len(given)} {name} for {len(texts)} texts: give one per text")
    if vectors is None:
        embedder = embedder_or_shared(embedder, model, device=device, dtype=dtype)
        task = Roles.choose(task, None, passage_task).passage
        rows = embedder.encode(texts, task=task, dim=dim).tolist()
    else:
        rows = np.asarray(vectors, dtype=np.float32).tolist()
    named: list[Any] = rows if using is None else [{using: row} for row in rows]
    payloads = [{"text": text} for text in texts] if payloads is None else payloads
    ids = list(map(_point_id, texts, payloads)) if ids is None else ids
    return [
        models.PointStruct(id=id_, vector=vector, payload=dict(payload))
        for id_, vector, payload in zip(ids, named, payloads, strict=True)
    ]


def _point_id(text: str, payload: Mapping[str, Any]) -> str:
    # The payload counts too: the same words in two documents are two points.
    named = {str(key): value for key, value in payload.items()}
    return str(uuid.uuid5(NAMESPACE, json.dumps([text, named], sort_keys=True, default=_settled)))


def _settled(value: object) -> list[str] | str:
    # The order of a set differs from process to process.
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _inference(client: QdrantClient | AsyncQdrantClient) -> "Inference":
    try:
        # Here, because the other two functions need nothing private of the client.
        from taskvec.adapters.qdrant_inference import hook  # noqa: PLC0415
    except ImportError as error:
        raise _unsupported() from error
    if (inference := hook(client)) is None:
        raise _unsupported()
    return inference


def _unsupported() -> StoreError:
    return StoreError(
        f"enable_inference does not know where qdrant-client {version('qdrant-client')} makes "
        f"vectors of texts: it works with {TESTED}. Install one of these, or use query_vector and "
        "points, which work with every version"
    )
