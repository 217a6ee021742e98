"""Qdrant's `models.Document`, query vectors and points, made by a shared encoder."""

import copy
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskvec.core import Embedder, Roles
from taskvec.core.embedder import Array
from taskvec.core.errors import InputError, MissingExtraError, StoreError
from taskvec.core.inputs import check_several
from taskvec.core.registry import embedder_or_shared

try:
    from pydantic import BaseModel
    from qdrant_client import AsyncQdrantClient, QdrantClient, models
    from qdrant_client.embed.model_embedder import ModelEmbedder
except ImportError as error:
    raise MissingExtraError("taskvec.adapters.qdrant", "qdrant") from error

__all__ = ["enable_inference", "points", "query_vector"]

PREFIX = "taskvec/"
BATCH = 64  # texts per encoding; the client's own default of 8 is for another kind of model
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "taskvec:points")
STATE = {"embedder", "_batch_accumulator", "_embed_storage", "_is_builtin_embedder_available"}


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
    second model. Encoding happens in this process, whatever `parallel` an upload asks for, and
    the call blocks meanwhile, with an AsyncQdrantClient too.

    Raises InputError for a client with cloud_inference, StoreError for a version of qdrant-client
    that keeps its inference elsewhere.

    Example:
        enable_inference(client, dim=128)
        client.query_points("docs", models.Document(text="how to?", model="taskvec/starter"))
    """
    if client.cloud_inference:
        raise InputError("cloud_inference=True sends texts to the server: make a client without it")
    roles = Roles.choose(task, query_task, passage_task)
    encoding = _Encoding(
        embedder_or_shared(embedder, model, device=device, dtype=dtype), roles, dim
    )
    _hook(client).texts.encodings[f"{PREFIX}{model}"] = encoding
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
    roles = Roles.choose(task, query_task, None)
    encoding = _Encoding(
        embedder_or_shared(embedder, model, device=device, dtype=dtype), roles, dim
    )
    return encoding.vectors([text], {}, is_query=True)[0]


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
        roles = Roles.choose(task, None, passage_task)
        encoding = _Encoding(
            embedder_or_shared(embedder, model, device=device, dtype=dtype), roles, dim
        )
        rows = encoding.vectors(list(texts), {}, is_query=False)
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
    return str(uuid.uuid5(NAMESPACE, json.dumps([text, named], sort_keys=True, default=str)))


@dataclass(frozen=True)
class _Encoding:
    """What one model name stands for."""

    embedder: Embedder
    roles: Roles
    dim: int | None

    def vectors(
        self, texts: list[str], options: dict[str, Any], *, is_query: bool
    ) -> list[list[float]]:
        if unknown := set(options) - {"task", "dim"}:
            raise InputError(
                f"unknown options {sorted(unknown)} of a Document: use 'task' and 'dim'"
            )
        task = options.get("task", self.roles.query if is_query else self.roles.passage)
        made: list[list[float]] = self.embedder.encode(
            texts,
            task=task,
            dim=options.get("dim", self.dim),
            lane="query" if is_query else "bulk",
        ).tolist()
        return made


class _Texts:
    """Stands in for the client's stock embedder, which goes on serving every other model."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self.encodings: dict[str, _Encoding] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def is_supported_text_model(self, model_name: str) -> bool:
        ours = model_name.startswith(PREFIX)
        return ours or bool(self._stock.is_supported_text_model(model_name))

    def embed(  # noqa: PLR0917 - the client's signature
        self,
        model_name: str,
        texts: list[str] | None = None,
        images: list[Any] | None = None,
        options: dict[str, Any] | None = None,
        is_query: bool = False,
        batch_size: int = 8,
    ) -> Any:
        if not model_name.startswith(PREFIX):
            return self._stock.embed(model_name, texts, images, options, is_query, batch_size)
        if texts is None:
            raise InputError(f"model {model_name!r} encodes texts only: use models.Document")
        if model_name not in self.encodings:
            raise InputError(f"model {model_name!r} is not enabled: {sorted(self.encodings)} are")
        return self.encodings[model_name].vectors(texts, options or {}, is_query=is_query)


class _Inference(ModelEmbedder):
    """The client's inference step, made safe for many threads, with taskvec's models in it."""

    def __init__(self, stock: ModelEmbedder) -> None:
        self.__dict__.update(vars(stock))
        self._is_builtin_embedder_available = True  # or local mode insists on fastembed
        self.texts = _Texts(stock.embedder)
        self.embedder = self.texts  # type: ignore[assignment]

    def embed_models_batch(
        self, raw_models: Any, is_query: bool = False, inference_batch_size: int = 8
    ) -> Iterable[BaseModel]:
        # The stock step gathers texts on the instance, where two threads would mix them up.
        own = copy.copy(self)
        own._batch_accumulator, own._embed_storage = {}, {}
        return ModelEmbedder.embed_models_batch(own, raw_models, is_query, inference_batch_size)

    def embed_models_strict(
        self, raw_models: Any, batch_size: int = 8, parallel: int | None = None
    ) -> Iterable[Any]:
        # Worker processes would build the stock embedder; the encoder uses every core as it is.
        del parallel
        return super().embed_models_strict(raw_models, batch_size, parallel=None)


def _hook(client: QdrantClient | AsyncQdrantClient) -> _Inference:
    stock = getattr(client, "_model_embedder", None)
    if isinstance(stock, _Inference):
        return stock
    if not isinstance(stock, ModelEmbedder) or not vars(stock).keys() >= STATE:
        raise StoreError(
            "this version of qdrant-client is not supported: use query_vector and points"
        )
    client._model_embedder = _Inference(stock)
    return client._model_embedder
