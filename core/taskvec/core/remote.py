"""An encoder behind HTTP, with the interface of one in this process.

The server speaks Jina's and OpenAI's `POST /v1/embeddings`, and beside it `POST /v1/chunks`
(documents with spans), `GET /v1/models` (with each model's `tasks`, `dimensions` and
`max_tokens`) and `GET /v1/fingerprint`. Vectors travel as base64 of little-endian float32.
"""

import asyncio
import base64
import operator
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import numpy as np

from taskvec.core.embedder import Array, Lane, Overflow, Span, TaskArgument
from taskvec.core.errors import BusyError, InputError, MissingExtraError, TaskvecError
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
from taskvec.core.retrying import RETRIED, Retries, failure_of
from taskvec.core.splitting import batched
from taskvec.core.tokenizer import clean
from taskvec.core.waiting import progress_bar
from taskvec.core.windows import check_spans

if TYPE_CHECKING:
    import httpx

API_KEY = "TASKVEC_API_KEY"
CONNECT_S = 10.0


@dataclass(frozen=True)
class _Call:
    """One request, and the rows of the result that its reply fills."""

    payload: dict[str, Any]
    rows: list[int]


@dataclass(frozen=True)
class _Card:
    """What the server says of its model."""

    name: str
    tasks: tuple[str, ...]
    dims: tuple[int, ...]
    max_tokens: int


class RemoteEncoder:
    """An `Embedder` on a taskvec server. Every method may be called from any thread or loop.

    Args:
        url: where the server is, such as "http://127.0.0.1:8080", without "/v1".
        model: one of the server's models; None is its first.
        api_key: sent as a bearer token; by default the environment's TASKVEC_API_KEY.
        timeout_s: between two bytes of a reply; more than the server's deadline, 300 s unless
            told otherwise, which ends what takes too long. A connection has CONNECT_S.
        retries: how often a busy or unreachable server is asked again, with growing pauses. One
            that had no answer within its deadline (504) is not: it would do the work once more.
        batch_size: texts per request; longer lists are split, and so are long texts' lists.

    Errors are those of an encoder in this process: InputError for what the server refuses,
    BusyError when it stays busy or takes too long, TaskvecError when it cannot be reached or fails.

    Example:
        encoder = RemoteEncoder("http://127.0.0.1:8080")
        encoder.encode("how to parse JSON", task="retrieval.query", dim=128)
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 330.0,
        retries: int = 4,
        batch_size: int = 256,
    ) -> None:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InputError("url: expected http://… or https://…")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or timeout_s <= 0:
            raise InputError(f"timeout_s is {timeout_s!r}: expected a number of seconds above 0")
        check_positive("retries", retries, low=0)
        check_positive("batch_size", batch_size)
        self._name = without_secrets(url)
        self._model = model
        self._retries = retries
        self._batch_size = batch_size
        key = api_key or os.environ.get(API_KEY)
        self._options: dict[str, Any] = {
            "base_url": url.rstrip("/"),
            "timeout": _httpx().Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
        }
        self._client: httpx.Client = _httpx().Client(**self._options)
        # A connection pool belongs to the event loop that opened it.
        self._async: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )
        self._asking = threading.Lock()
        self._known: _Card | None = None

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
            for call in calls:
                reply = self._send("POST", "/v1/embeddings", json=call.payload)
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
            for call in calls:
                reply = await self._asend("POST", "/v1/embeddings", json=call.payload)
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
        reply = self._send("POST", "/v1/chunks", json=payload)
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
        reply = await self._asend("POST", "/v1/chunks", json=payload)
        with self._reading():
            return _vectors(reply["data"][0]["chunks"], shape)

    def fingerprint(self, task: str | None = None, dim: int | None = None) -> str:
        """As `Encoder.fingerprint`: the server's own."""
        card = self._card()
        check_task(task, card.tasks)
        query: dict[str, Any] = {"model": card.name, "dimensions": check_dim(dim, card.dims)}
        if task is not None:
            query["task"] = task
        reply = self._send("GET", "/v1/fingerprint", params=query)
        with self._reading():
            return _text(reply["fingerprint"])

    def close(self) -> None:
        """Close the connections of all calls that are not awaited."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections that were opened on the running event loop."""
        client = self._async.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def __enter__(self) -> Self:
        """Use as a context manager that closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RemoteEncoder {self._name}>"

    def _calls(
        self,
        card: _Card,
        texts: str | Sequence[str],
        task: TaskArgument,
        dim: int,
        *,
        truncate: bool,
    ) -> list[_Call]:
        """The requests that serve all texts: each has one task and a bounded number of texts."""
        checked = check_texts(texts)
        tasks = check_tasks(task, len(checked), card.tasks)
        calls = []
        for name in dict.fromkeys(tasks):
            own = [i for i, task in enumerate(tasks) if task == name]
            for rows in batched(own, checked, self._batch_size):
                content = {"input": [clean(checked[i]) for i in rows], "truncate": truncate}
                calls.append(_Call(_payload(card, name, dim) | content, rows))
        return calls

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
                self._known = self._choose(self._send("GET", "/v1/models"))
            return self._known

    async def _acard(self) -> _Card:
        if self._known is None:
            self._known = self._choose(await self._asend("GET", "/v1/models"))
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

    def _send(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        retries = Retries(self._retries)
        while True:
            if self._client.is_closed:
                raise BusyError("the encoder is closed: make it again")
            try:
                response = self._client.request(method, path, **content)
            except _httpx().TransportError as error:
                retries.wait_after(failure_of(self._name, error))
                continue
            if response.status_code not in RETRIED:
                return _parsed(self._name, response)
            retries.wait_after(failure_of(self._name, response), response)

    async def _asend(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        if loop not in self._async:
            self._async[loop] = _httpx().AsyncClient(**self._options)
        retries = Retries(self._retries)
        while True:
            try:
                response = await self._async[loop].request(method, path, **content)
            except _httpx().TransportError as error:
                await retries.await_after(failure_of(self._name, error))
                continue
            if response.status_code not in RETRIED:
                return _parsed(self._name, response)
            await retries.await_after(failure_of(self._name, response), response)


def _payload(card: _Card, task: str | None, dim: int) -> dict[str, Any]:
    payload: dict[str, Any] = {"model": card.name, "dimensions": dim, "embedding_type": "base64"}
    return payload if task is None else payload | {"task": task}


def _parsed(url: str, response: "httpx.Response") -> dict[str, Any]:
    if response.is_error:
        raise failure_of(url, response)
    try:
        reply = response.json()
    except ValueError as error:
        raise TaskvecError(f"{url} is not a taskvec server: it answers no JSON") from error
    if not isinstance(reply, dict):
        raise TaskvecError(f"{url} is not a taskvec server: it answers no JSON object")
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
    """A URL as messages show it: without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text belongs")
    return value


def _httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise MissingExtraError("RemoteEncoder", "remote") from error
    return httpx
