"""SageMaker's routes: `GET /ping`, and `POST /invocations`, which stands for all the others."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, StrictInt, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from taskvec.core.errors import BusyError, InputError, TaskvecError, status_of
from taskvec.core.pooling import check_dim
from taskvec.core.served import CHUNKS, EMBEDDINGS, FINGERPRINT, MODELS
from taskvec.integrations.server import cards
from taskvec.integrations.server.chunks import chunk
from taskvec.integrations.server.embeddings import embed
from taskvec.integrations.server.facts import Facts
from taskvec.integrations.server.parsing import check_sizes, content_type
from taskvec.integrations.server.problems import UNTOLD, invalid_of, no_object
from taskvec.integrations.server.replies import Streamed
from taskvec.integrations.server.requests import ChunksRequest, EmbeddingsRequest, Strict
from taskvec.integrations.server.service import Service

JSON = "application/json"
LINES = ("application/jsonlines", "application/x-jsonlines", "application/jsonl")
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
# What may stand in the attributes' header for a body that does not say it.
FILLED = frozenset({"task", "dimensions", "embedding_type"})
LINES_AT_ONCE = 1024  # enough to fill batches
BOM = b"\xef\xbb\xbf"
ZERO = re.compile(r"q\s*=\s*0(\.0*)?")
PROBE_S = 1.5  # SageMaker waits 2 s for a reply to its ping

router = APIRouter(include_in_schema=False)


class FingerprintRequest(Strict):
    """What `/v1/fingerprint` takes as its query."""

    model: str
    task: str | None = None
    dimensions: StrictInt | None = None


class ModelsRequest(Strict):
    """`/v1/models` takes nothing."""


KINDS: Mapping[str, type[BaseModel]] = {
    EMBEDDINGS: EmbeddingsRequest,
    CHUNKS: ChunksRequest,
    FINGERPRINT: FingerprintRequest,
    MODELS: ModelsRequest,
}


@dataclass(frozen=True)
class Reader:
    """Reads requests. given: what the attributes' header says for those that do not say it.

    seen: what the lines that were read hold, as for `Service.check_items`.
    """

    service: Service
    given: Mapping[str, Any]
    seen: Counter[str] = field(default_factory=Counter)

    def read(self, content: bytes) -> BaseModel:
        """A request. Raises HTTPException, InputError, or ValidationError for one that is none."""
        try:
            body = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise HTTPException(400, f"the body is no JSON: {error}") from None
        if not isinstance(body, dict):
            raise InputError(no_object(body))
        route = body.pop("route", EMBEDDINGS)
        if not isinstance(route, str) or route not in KINDS:
            raise InputError(f"unknown route {route!r}: use one of {tuple(KINDS)}")
        if route == EMBEDDINGS and (wrong := {"split", "return_text"} & set(body)):
            raise InputError(f'{min(wrong)} is of another route: say "route": "{CHUNKS}"')
        check_sizes(body, self.service, self.seen)
        return KINDS[route].model_validate(self._filled(route, body))

    def _filled(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """The body with what it does not say: its own fields count before the header's."""
        fields = KINDS[route].model_fields
        found = {name: value for name, value in self.given.items() if name in fields} | body
        if "model" in fields:
            found.setdefault("model", self.service.names[0])
        if "task" in fields and "@" not in str(found["model"]):
            found.setdefault("task", self.service.default_task)
        return found


@dataclass
class Share(Facts):
    """What is known of one line; the whole request's facts, and its limit, are all lines'."""

    whole: Facts | None = None
    most: int = 0

    def fill(self, task: str | None, lane: Any, *, texts: int, tokens: int) -> None:
        """As Facts. Raises InputError once all lines have more tokens than a request may have."""
        super().fill(task, lane, texts=texts, tokens=tokens)
        if (whole := self.whole) is None:
            return
        whole.texts += texts
        whole.tokens += tokens
        whole.task = self.task if whole.task in {"", self.task} else "mixed"
        whole.lane = self.lane if whole.lane in {"", self.lane} else "bulk"
        if whole.tokens > self.most:
            raise InputError(f"all lines together have more than {self.most} tokens: send fewer")


@dataclass
class Work:
    """What the answers to a request's lines share: its limits, and how many are under way."""

    request: Request
    tokens: int
    seen: Counter[str] = field(default_factory=Counter)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LINES_AT_ONCE))


@router.head("/ping")
@router.get("/ping")
async def ping(request: Request) -> Response:
    """Whether SageMaker should send requests: 200 or 503, with nothing in it."""
    service: Service = request.app.state.service
    well = not service.draining and (not service.suspect or await _encodes(service))
    return Response(status_code=200 if well else 503)


async def _encodes(service: Service) -> bool:
    """Whether the encoder still works, after something failed; no answer in time is no sign."""
    with suppress(TimeoutError, BusyError):
        async with asyncio.timeout(PROBE_S):
            try:
                await service.encoder.aencode("ready", lane="query", wait=False)
            except BusyError:
                raise
            except Exception:  # noqa: BLE001 - whatever it is: that is what is asked
                return False
        service.suspect = False
    return True


@router.post("/invocations")
async def invocations(request: Request) -> Response:
    """One request of any route, or as many as there are lines."""
    kind = content_type(request)
    if kind not in {JSON, *LINES}:
        raise HTTPException(
            415, f"content type {kind!r}: send a request as {JSON}, or one a line as {LINES[0]}"
        )
    _check_accept(request.headers.get("accept", ""))
    service: Service = request.app.state.service
    reader = Reader(service, _attributes(request.headers.get(ATTRIBUTES, "")))
    content = (await request.body()).removeprefix(BOM)
    if kind == JSON:
        reply = await _one(request, reader, content)
    else:
        reply = await _lines(request, reader, content, kind)
    facts: Facts = request.state.facts
    # SageMaker hands on no other header: by this one a user finds the request's line in the log.
    reply.extra[ATTRIBUTES] = f"request-id={facts.id}"
    return reply


async def _one(request: Request, reader: Reader, content: bytes) -> Streamed:
    try:
        body = reader.read(content)
    except ValidationError as error:
        raise RequestValidationError(_placed(error)) from None
    return await _answer(request, body, request.state.facts, wait=False)


async def _lines(request: Request, reader: Reader, content: bytes, kind: str) -> Streamed:
    """The replies to all lines, in their order. One that is refused refuses all of them.

    Every line is read before any is encoded. The first needs room in the queue at once; a request
    that has begun is not refused. LINES_AT_ONCE are under way, and none begins before whatever else
    the event loop has to do.
    """
    service = reader.service
    lines = content.rstrip().split(b"\n") if content.strip() else []
    service.check_items(len(lines), "lines")
    bodies = await service.aside(lambda: [_read_line(reader, *one) for one in enumerate(lines, 1)])
    work = Work(request, service.limits.tokens)
    calls = []
    try:
        async with asyncio.TaskGroup() as group:
            for number, body in enumerate(bodies, 1):
                await work.room.acquire()
                calls.append(group.create_task(_answer_line(work, body, number)))
                await asyncio.sleep(0)
    except* (HTTPException, TaskvecError) as errors:
        raise errors.exceptions[0] from None
    parts = (chain(call.result().parts, [b"\n"]) for call in calls)
    return Streamed(chain.from_iterable(parts), kind)


def _read_line(reader: Reader, number: int, line: bytes) -> BaseModel:
    try:
        body = reader.read(line)
        _check_names(reader.service, body)
    except ValidationError as error:
        status, message, _ = invalid_of(_placed(error))
        raise HTTPException(status, f"line {number}: {message}") from None
    except HTTPException as error:
        raise HTTPException(error.status_code, f"line {number}: {error.detail}") from None
    except InputError as error:
        raise HTTPException(422, f"line {number}: {error}") from None
    return body


def _check_names(service: Service, body: BaseModel) -> None:
    """Raises what an answer would, for a model, task or dim that is none."""
    if isinstance(body, EmbeddingsRequest | ChunksRequest | FingerprintRequest):
        service.call(body.model, body.task)
        check_dim(body.dimensions, service.encoder.dims)


async def _answer_line(work: Work, body: BaseModel, number: int) -> Streamed:
    whole: Facts = work.request.state.facts
    own = Share(whole.id, whole.method, whole.route, whole=whole, most=work.tokens)
    try:
        return await _answer(work.request, body, own, wait=number > 1, seen=work.seen)
    except HTTPException as error:
        raise HTTPException(error.status_code, f"line {number}: {error.detail}") from None
    except TaskvecError as error:
        status = status_of(error).http
        if isinstance(error, BusyError) or status >= UNTOLD:
            raise
        raise HTTPException(status, f"line {number}: {error}") from None
    finally:
        work.room.release()


async def _answer(
    request: Request,
    body: BaseModel,
    facts: Facts,
    *,
    wait: bool,
    seen: Counter[str] | None = None,
) -> Streamed:
    service: Service = request.app.state.service
    if isinstance(body, EmbeddingsRequest):
        return await embed(service, body, facts, wait=wait)
    if isinstance(body, ChunksRequest):
        return await chunk(service, body, facts, wait=wait, seen=seen)
    if isinstance(body, FingerprintRequest):
        found = await cards.fingerprint_of(service, body.model, body.task, body.dimensions)
    else:
        found = await cards.models(request)
    return Streamed([orjson.dumps(found)])


def _placed(error: ValidationError) -> list[dict[str, Any]]:
    """A body's faults, as those of FastAPI's own bodies."""
    return [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]


def _check_accept(accept: str) -> None:
    """Raises HTTPException 406 where no JSON is accepted; a reply has its request's form."""
    given = [[part.strip().lower() for part in one.split(";")] for one in accept.split(",")]
    kinds = {kind for kind, *rest in given if not any(map(ZERO.fullmatch, rest))}
    if accept.strip() and not {JSON, *LINES, "application/*", "*/*"} & kinds:
        raise HTTPException(406, f"no reply is {accept!r}: accept {JSON} or {LINES[0]}")


def _attributes(header: str) -> Mapping[str, Any]:
    """Of "task=…, dimensions=…" what is known; the header is the client's for anything else."""
    pairs: Sequence[tuple[str, str, str]] = [
        one.strip().partition("=") for one in header.replace(";", ",").split(",")
    ]
    found: dict[str, Any] = {name: value for name, _, value in pairs if name in FILLED}
    if "dimensions" in found:
        if not found["dimensions"].isdecimal():
            raise HTTPException(422, f"dimensions in {ATTRIBUTES}: expected a whole number")
        found["dimensions"] = int(found["dimensions"][:9])
    return found
