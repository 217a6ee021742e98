"""Bodies are parsed by orjson, and counted: a large one holds up no other request for long."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from taskvec.core.errors import InputError
from taskvec.integrations.server.problems import RefusedInput
from taskvec.integrations.server.service import Service

JSON = "application/json"
FIELDS = 32  # more than any object of a request has


class JsonRequest(Request):
    """A request whose `json` is orjson's, which refuses NaN and lone surrogates."""

    async def json(self) -> Any:
        """The body. Raises json.JSONDecodeError; RefusedInput for more than is allowed."""
        body = orjson.loads(await self.body())
        try:
            check_sizes(body, self.app.state.service)
        except InputError as error:
            raise RefusedInput(error) from None
        return body


def check_sizes(body: object, service: Service, seen: Counter[str] | None = None) -> None:
    """Count what lists and objects of a body hold, before each item of them is looked at.

    Pydantic makes an object of each item, and an error of each that does not fit.
    seen: what the request's other lines hold, as for `Service.check_items`.
    Raises InputError for more than a request may have.
    """
    if not isinstance(body, dict):
        return
    given = body.get("input")
    inputs = given if isinstance(given, list) else [given]
    service.check_items(len(inputs), "texts", seen)
    documents = [one for one in inputs if isinstance(one, dict)]
    for name in ("spans", "chunks"):
        lists = (one.get(name) for one in documents)
        count = sum(len(own) for own in lists if isinstance(own, list))
        service.check_items(count, "chunks", seen)
    split = body.get("split")
    for one in (body, split if isinstance(split, dict) else {}):
        _check_fields(len(one), FIELDS)
    _check_fields(sum(map(len, documents)), FIELDS + 3 * len(documents))


def _check_fields(count: int, most: int) -> None:
    if count > most:
        raise InputError(f"the body has objects of {count} fields: send those that are known")


def content_type(request: Request) -> str:
    """What a body is said to be, without parameters; nothing where it is not said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_type(request: Request) -> None:
    """Raises HTTPException 415 for a body that is not said to be JSON.

    A page of another origin cannot say so unasked, and the server answers no such question.
    """
    kind = content_type(request)
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        given = f"content type {kind!r}" if kind else "no content type"
        raise HTTPException(415, f"{given}: send {JSON} (curl: -H 'Content-Type: {JSON}')")


class JsonRoute(APIRoute):
    """A route of such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own, given such a request."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            _check_type(request)
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json
