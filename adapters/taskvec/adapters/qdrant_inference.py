"""Where an ordinary Qdrant client turns a `models.Document` into a vector, and our part in it.

qdrant-client offers no place for models of others, so this stands on private names of it, which
are looked for one by one; `make test-matrix` runs the tests on every minor version it knows.
"""

import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.embed.model_embedder import ModelEmbedder

from taskvec.adapters.qdrant_encoding import (
    BATCH,
    PREFIX,
    Encoding,
    Key,
    Pass,
    aencoded,
    encoded,
)
from taskvec.core import Embedder
from taskvec.core.embedder import Array
from taskvec.core.errors import InputError

STATE = {"embedder", "_batch_accumulator", "_embed_storage"}
STEPS = (
    *("embed_models", "embed_models_batch", "embed_models_strict"),
    *("_process_model", "_accumulate", "_embed_accumulator", "_resolve_inference_object"),
)
SENDERS = ("_embed_models", "_embed_models_strict")
# Calls that await, or ask for several vectors one after the other, and where texts stand in them.
QUERIES = ("query_points", "query_points_groups", "query_batch_points")
WRITES = ("upsert", "update_vectors", "batch_update_points")
ARGUMENTS = ("query", "prefetch", "requests", "points", "update_operations")

# Vectors that were made ahead of the call that is running.
_AHEAD: ContextVar[Mapping[Key, Array]] = ContextVar("taskvec_qdrant_ahead")


class Inference(ModelEmbedder):
    """The client's inference step, made safe for many threads, with taskvec's models in it."""

    def __init__(self, stock: ModelEmbedder) -> None:
        self.__dict__.update(vars(stock))
        self._is_builtin_embedder_available = True  # or local mode insists on fastembed
        self.encodings: dict[str, Encoding] = {}

    def embed_models_batch(
        self, raw_models: Any, is_query: bool = False, inference_batch_size: int = BATCH
    ) -> Iterable[BaseModel]:
        """Copies of these models with vectors in the place of texts; see the client's own."""
        own = self._own()
        return ModelEmbedder.embed_models_batch(own, raw_models, is_query, inference_batch_size)

    def embed_models_strict(
        self, raw_models: Any, batch_size: int = BATCH, parallel: int | None = None
    ) -> Iterable[Any]:
        """The same for an upload, batch by batch.

        Raises InputError, before the client starts processes, where those would have to encode.
        """
        if parallel in {None, 1}:
            return super().embed_models_strict(raw_models, batch_size, parallel)
        given = iter(raw_models)
        first = list(itertools.islice(given, 1))
        self._refuse(first, parallel)
        return self._by_processes(itertools.chain(first, given), batch_size, parallel)

    def ahead(self, given: Iterable[BaseModel], *, is_query: bool) -> list[Pass]:
        """The encodings that a call with these arguments needs."""
        return self._passes(self._own()._gathered(given), is_query=is_query)

    def _own(self) -> "Inference":
        # The stock step gathers texts on the instance, where two threads would mix them up.
        own = copy.copy(self)
        own._batch_accumulator, own._embed_storage = {}, {}
        return own

    def _gathered(self, given: Iterable[Any]) -> dict[str, list[Any]]:
        for model in given:
            self._process_model(model, accumulating=True)
        return self._batch_accumulator

    def _names(self, given: Iterable[Any]) -> list[str]:
        return [name for name in self._own()._gathered(given) if name.startswith(PREFIX)]

    def _refuse(self, given: Iterable[Any], parallel: int | None) -> None:
        if names := self._names(given):
            raise InputError(
                f"parallel={parallel!r} starts processes that do not have the encoder of "
                f"{names[0]!r}, which uses every core as it is: leave parallel at 1, or upload "
                "points(texts) in parallel, whose vectors are made"
            )

    def _by_processes(
        self, raw_models: Iterable[Any], batch_size: int, parallel: int | None
    ) -> Iterator[Any]:
        # An error in their stream lets some versions wait for their processes for ever.
        ours: list[Any] = []

        def theirs() -> Iterator[Any]:
            for model in raw_models:
                if self._names([model]):
                    ours.append(model)
                    return
                yield model

        yield from super().embed_models_strict(theirs(), batch_size, parallel)
        self._refuse(ours, parallel)

    def _passes(self, gathered: Mapping[str, Sequence[Any]], *, is_query: bool) -> list[Pass]:
        asked: dict[int, tuple[Embedder, list[Key]]] = {}
        for name, documents in gathered.items():
            for key in self._keys(name, documents, is_query=is_query):
                embedder = self.encodings[name].embedder
                asked.setdefault(key.embedder, (embedder, []))[1].append(key)
        return [Pass(embedder, keys, is_query) for embedder, keys in asked.values()]

    def _keys(self, name: str, documents: Sequence[Any], *, is_query: bool) -> list[Key]:
        if not name.startswith(PREFIX):
            return []
        if name not in self.encodings:
            raise InputError(f"model {name!r} is not enabled: {sorted(self.encodings)} are")
        if not all(isinstance(document, models.Document) for document in documents):
            raise InputError(f"model {name!r} encodes texts only: use models.Document")
        encoding = self.encodings[name]
        return [encoding.key(d.text, d.options, is_query=is_query) for d in documents]

    def _embed_accumulator(self, is_query: bool = False, inference_batch_size: int = BATCH) -> None:
        gathered = self._batch_accumulator
        ours = {name: gathered.pop(name) for name in list(gathered) if name.startswith(PREFIX)}
        keys = {name: self._keys(name, given, is_query=is_query) for name, given in ours.items()}
        made = _AHEAD.get({})
        if not all(key in made for wanted in keys.values() for key in wanted):
            made = encoded(self._passes(ours, is_query=is_query))
        for name, wanted in keys.items():
            self._embed_storage[name] = [made[key].tolist() for key in wanted]
        if gathered:
            self._embed_others(gathered, is_query=is_query, size=inference_batch_size)

    def _embed_others(self, gathered: Mapping[str, Any], *, is_query: bool, size: int) -> None:
        bare = [name for name in gathered if f"{PREFIX}{name}" in self.encodings]
        try:
            super()._embed_accumulator(is_query, size)
        except (ValueError, ImportError) as error:
            if not bare:
                raise
            raise InputError(f"{error} taskvec's model is {PREFIX + bare[0]!r}") from error

    def _resolve_inference_object(self, data: Any) -> Any:
        if isinstance(data, models.InferenceObject) and data.model.startswith(PREFIX):
            return models.Document(text=data.object, model=data.model, options=data.options)
        return super()._resolve_inference_object(data)


def hook(client: QdrantClient | AsyncQdrantClient) -> Inference | None:
    """Put an Inference into a client, or find the one that is there.

    None, and nothing is changed, where the client keeps its inference elsewhere.
    """
    stock = getattr(client, "_model_embedder", None)
    if isinstance(stock, Inference):
        return stock
    if not isinstance(stock, ModelEmbedder) or _lacks(client, stock):
        return None
    inference = Inference(stock)
    kind: Any = type(client)
    client._model_embedder = inference
    client.__class__ = _hooked(kind)
    return inference


def _lacks(client: QdrantClient | AsyncQdrantClient, stock: ModelEmbedder) -> set[str]:
    """What of the client and its inference step is not where it is looked for."""
    calls = {*SENDERS, *QUERIES, *WRITES, "local_inference_batch_size"}
    missing = {name for name in calls if not hasattr(client, name)}
    missing |= {name for name in STEPS if not callable(getattr(stock, name, None))}
    return missing | (STATE - vars(stock).keys())


@functools.cache
def _hooked(kind: type[Any]) -> type[Any]:
    """The class of a client, with our inference. A class of its own keeps no client alive."""
    members: dict[str, Any] = {
        "_embed_models": _embed_models,
        "_embed_models_strict": _embed_strict,
    }
    ahead = _awaiting_ahead if issubclass(kind, AsyncQdrantClient) else _encoding_ahead
    members |= {name: ahead(getattr(kind, name), is_query=True) for name in QUERIES}
    if issubclass(kind, AsyncQdrantClient):
        members |= {name: ahead(getattr(kind, name), is_query=False) for name in WRITES}
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names | members)


# Some versions refuse these two without fastembed, even for models that need none.
def _embed_models(
    client: Any, raw_models: Any, is_query: bool = False, batch_size: int | None = None
) -> Any:
    return client._model_embedder.embed_models(raw_models, is_query, batch_size or BATCH)


def _embed_strict(
    client: Any, raw_models: Any, batch_size: int | None = None, parallel: int | None = None
) -> Any:
    return client._model_embedder.embed_models_strict(raw_models, batch_size or BATCH, parallel)


def _encoding_ahead(call: Callable[..., Any], *, is_query: bool) -> Callable[..., Any]:
    """The same call; what its query and prefetches need is encoded together."""

    @functools.wraps(call)
    def encoding(client: Any, *args: Any, **kwargs: Any) -> Any:
        given = _models_in(call, client, *args, **kwargs)
        passes = client._model_embedder.ahead(given, is_query=is_query)
        token = _AHEAD.set(encoded(passes))
        try:
            return call(client, *args, **kwargs)
        finally:
            _AHEAD.reset(token)

    return encoding


def _awaiting_ahead(call: Callable[..., Any], *, is_query: bool) -> Callable[..., Any]:
    """The same call; its texts are awaited first, because its own step would block the loop."""

    @functools.wraps(call)
    async def awaiting(client: Any, *args: Any, **kwargs: Any) -> Any:
        given = _models_in(call, client, *args, **kwargs)
        passes = client._model_embedder.ahead(given, is_query=is_query)
        token = _AHEAD.set(await aencoded(passes))
        try:
            return await call(client, *args, **kwargs)
        finally:
            _AHEAD.reset(token)

    return awaiting


@functools.cache
def _signature(call: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(call)


def _models_in(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[BaseModel]:
    """The arguments of a call that may hold texts, one by one."""
    arguments = _signature(call).bind(*args, **kwargs).arguments
    for name in ARGUMENTS:
        value = arguments.get(name)
        several = value if isinstance(value, list | tuple) else [value]
        yield from (item for item in several if isinstance(item, BaseModel))
