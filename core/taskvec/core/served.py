"""What encoders behind HTTP have in common: all but the way that a request travels.

A taskvec server speaks Jina's and OpenAI's `POST /v1/embeddings`, and beside it `POST /v1/chunks`
(documents with spans), `GET /v1/models` (with each model's `tasks`, `dimensions` and
`max_tokens`) and `GET /v1/fingerprint`. Vectors travel as base64 of little-endian float32.
"""

import base64
import json
import operator
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np

from taskvec.core.embedder import Array, Lane, Overflow, Span, TaskArgument
from taskvec.core.errors import InputError, LengthError, SizeError, TaskvecError
from taskvec.core.inputs import (
    check_lane,
    check_overflow,
    check_positive,
    check_task,
    check_tasks,
    check_text,
    check_texts,
)
from taskvec.core.pooling import check_dim
from taskvec.core.splitting import CHARACTERS, batched
from taskvec.core.tokenizer import clean
from taskvec.core.waiting import progress_bar
from taskvec.core.windows import check_spans

EMBEDDINGS, CHUNKS = "/v1/embeddings", "/v1/chunks"
MODELS, FINGERPRINT = "/v1/models", "/v1/fingerprint"
IN_REQUEST = re.compile(r"input\[(\d+)\]")


@dataclass(frozen=True)
class _Call:
    """One request, and the rows of the result that its reply fills."""

    payload: dict[str, Any]
    rows: list[int]

    def smaller(self, refusal: InputError) -> "tuple[_Call, _Call]":
        """Its second half and its first, after it was refused. Raises what no halving mends."""
        if isinstance(refusal, LengthError):
            raise LengthError(self._too_long(str(refusal))) from None
        if not isinstance(refusal, SizeError) or len(self.rows) == 1:
            raise refusal
        middle = len(self.rows) // 2
        return self._part(slice(middle, None)), self._part(slice(middle))

    def _too_long(self, message: str) -> str:
        """What a server says of a text that is too long, in the words of `encode`."""
        fact = message.partition(": send less")[0]
        place = IN_REQUEST.search(fact)
        if place and (number := int(place[1])) < len(self.rows):
            fact = fact.replace(place[0], f"texts[{self.rows[number]}]", 1)
        return f'{fact}: send less, or overflow="truncate", or use encode_chunks'

    def _part(self, part: slice) -> "_Call":
        return _Call(self.payload | {"input": self.payload["input"][part]}, self.rows[part])


@dataclass(frozen=True)
class _Card:
    """What the server says of its model."""

    name: str
    tasks: tuple[str, ...]
    dims: tuple[int, ...]
    max_tokens: int


class ServedEncoder(ABC):
    """An `Embedder` whose model is elsewhere. A subclass sends its requests.

    name: of the server, as messages show it. model: one of its models; None is its first.
    retries: how often a busy or unreachable server is asked again. batch_size, characters: of the
    texts of a request; longer lists are split.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str | None,
        retries: int,
        batch_size: int,
        characters: int = CHARACTERS,
    ) -> None:
        check_positive("retries", retries, low=0)
        check_positive("batch_size", batch_size)
        self._name = name
        self._model = model
        self._retries = retries
        self._batch_size = batch_size
        self._characters = characters
        self._asking = threading.Lock()
        self._known: _Card | None = None

    @abstractmethod
    def _send(
        self,
        path: str,
        *,
        payload: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The reply to a request: of a route that takes a payload, or maybe a query."""

    @abstractmethod
    async def _asend(
        self,
        path: str,
        *,
        payload: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """`_send`, awaited."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections of all calls that are not awaited."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the server's model has a LoRA for."""
        return self._card().tasks

    @property
    def dims(self) -> tuple[int, ...]:
        """Matryoshka dims that the model was trained for, ascending."""
        return self._card().dims

    @property
    def dim(self) -> int:
        """The full dim: the largest of `dims`."""
        return self.dims[-1]

    @property
    def max_tokens(self) -> int:
        """The context in tokens, specials and prompt included."""
        return self._card().max_tokens

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        task: TaskArgument = None,
        dim: int | None = None,
        lane: Lane = "bulk",
        overflow: Overflow = "truncate",
        show_progress: bool = False,
    ) -> Array:
        """As `Encoder.encode`; the server has its own way to put queries first."""
        card = self._card()
        check_lane(lane)
        check_overflow(overflow)
        kept = check_dim(dim, card.dims)
        calls = self._calls(card, texts, task, kept, truncate=overflow == "truncate")
        vectors = np.empty((sum(len(call.rows) for call in calls), kept), np.float32)
        with progress_bar(len(vectors), shown=show_progress) as progress:
            while calls:
                call = calls.pop()
                try:
                    reply = self._send(EMBEDDINGS, payload=call.payload)
                except InputError as error:
                    calls += call.smaller(error)
                    continue
                with self._reading():
                    vectors[call.rows] = _vectors(reply["data"], (len(call.rows), kept))
                if progress:
                    progress(len(call.rows))
        return vectors[0] if isinstance(texts, str) else vectors

    async def aencode(
        self,
        texts: str | Sequence[str],
        *,
        task: TaskArgument = None,
        dim: int | None = None,
        lane: Lane = "bulk",
        overflow: Overflow = "truncate",
        show_progress: bool = False,
    ) -> Array:
        """`encode`, awaited."""
        card = await self._acard()
        check_lane(lane)
        check_overflow(overflow)
        kept = check_dim(dim, card.dims)
        calls = self._calls(card, texts, task, kept, truncate=overflow == "truncate")
        vectors = np.empty((sum(len(call.rows) for call in calls), kept), np.float32)
        with progress_bar(len(vectors), shown=show_progress) as progress:
            while calls:
                call = calls.pop()
                try:
                    reply = await self._asend(EMBEDDINGS, payload=call.payload)
                except InputError as error:
                    calls += call.smaller(error)
                    continue
                with self._reading():
                    vectors[call.rows] = _vectors(reply["data"], (len(call.rows), kept))
                if progress:
                    progress(len(call.rows))
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
    ) -> Array:
        """As `Encoder.encode_chunks`."""
        payload, shape = self._chunk_payload(self._card(), document, spans, task, dim)
        reply = self._send(CHUNKS, payload=payload)
        with self._reading():
            return _vectors(reply["data"][0]["chunks"], shape)

    async def aencode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
    ) -> Array:
        """`encode_chunks`, awaited."""
        payload, shape = self._chunk_payload(await self._acard(), document, spans, task, dim)
        reply = await self._asend(CHUNKS, payload=payload)
        with self._reading():
            return _vectors(reply["data"][0]["chunks"], shape)

    def fingerprint(self, task: str | None = None, dim: int | None = None) -> str:
        """As `Encoder.fingerprint`: the server's own."""
        card = self._card()
        check_task(task, card.tasks)
        query: dict[str, Any] = {"model": card.name, "dimensions": check_dim(dim, card.dims)}
        if task is not None:
            query["task"] = task
        reply = self._send(FINGERPRINT, query=query)
        with self._reading():
            return _text(reply["fingerprint"])

    def __enter__(self) -> Self:
        """Use as a context manager that closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    def _calls(
        self,
        card: _Card,
        texts: str | Sequence[str],
        task: TaskArgument,
        dim: int,
        *,
        truncate: bool,
    ) -> list[_Call]:
        """The requests that serve all texts, the last one first.

        Each has one task and a bounded number of texts.
        """
        checked = check_texts(texts)
        tasks = check_tasks(task, len(checked), card.tasks)
        calls = []
        for name in dict.fromkeys(tasks):
            own = [i for i, task in enumerate(tasks) if task == name]
            for rows in batched(own, checked, self._batch_size, self._characters):
                content = {"input": [clean(checked[i]) for i in rows], "truncate": truncate}
                calls.append(_Call(_payload(card, name, dim) | content, rows))
        return calls[::-1]

    def _chunk_payload(
        self,
        card: _Card,
        document: str,
        spans: Sequence[Span],
        task: str | None,
        dim: int | None,
    ) -> tuple[dict[str, Any], tuple[int, int]]:
        """What to send, and the shape of the vectors to come, (K, dim)."""
        check_task(task, card.tasks)
        checked = check_spans(spans, len(check_text(document)))
        kept = check_dim(dim, card.dims)
        content = {"input": [{"text": clean(document), "spans": checked}]}
        return _payload(card, task, kept) | content, (len(checked), kept)

    def _card(self) -> _Card:
        with self._asking:
            if self._known is None:
                self._known = self._choose(self._send(MODELS))
            return self._known

    async def _acard(self) -> _Card:
        if self._known is None:
            self._known = self._choose(await self._asend(MODELS))
        return self._known

    def _choose(self, reply: dict[str, Any]) -> _Card:
        with self._reading():
            cards = {_text(card["id"]): card for card in reply["data"]}
        name = self._model or next(iter(cards), "")
        if name not in cards:
            raise InputError(f"unknown model {name!r}: {self._name} serves {tuple(cards)}")
        card = cards[name]
        with self._reading():
            tasks = tuple(_text(task) for task in card["tasks"])
            dims = tuple(sorted(operator.index(dim) for dim in card["dimensions"]))
            return _Card(name, tasks, dims, operator.index(card["max_tokens"]))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """While a reply is read: whatever does not fit is the server's fault, and said so."""
        try:
            yield
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise TaskvecError(
                f"{self._name} answers as no taskvec server does: {reason}"
            ) from error


def _payload(card: _Card, task: str | None, dim: int) -> dict[str, Any]:
    payload: dict[str, Any] = {"model": card.name, "dimensions": dim, "embedding_type": "base64"}
    return payload if task is None else payload | {"task": task}


def parsed(name: str, content: bytes) -> dict[str, Any]:
    """A reply's JSON object. Raises TaskvecError where there is none."""
    try:
        reply = json.loads(content)
    except ValueError as error:
        raise TaskvecError(f"{name} is not a taskvec server: it answers no JSON") from error
    if not isinstance(reply, dict):
        raise TaskvecError(f"{name} is not a taskvec server: it answers no JSON object")
    return reply


def _vectors(data: list[dict[str, Any]], shape: tuple[int, int]) -> Array:
    """Vectors in the order of the items' indices, which a server may shuffle.

    Raises ValueError unless they have the shape that was asked for and are finite.
    """
    ordered = sorted(data, key=lambda item: operator.index(item["index"]))
    if [item["index"] for item in ordered] != list(range(shape[0])):
        raise ValueError(f"{len(data)} vectors for {shape[0]} texts")
    rows = [base64.b64decode(item["embedding"], validate=True) for item in ordered]
    vectors = np.frombuffer(b"".join(rows), dtype="<f4").astype(np.float32).reshape(shape)
    if {len(row) for row in rows} - {4 * shape[1]} or not np.isfinite(vectors).all():
        raise ValueError(f"vectors that are not {shape[1]} finite numbers each")
    return vectors


def without_secrets(url: str) -> str:
    """A URL as messages show it: without user, password and query; of one that is none, less."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text belongs")
    return value
