"""Errors as both APIs tell them: Jina's `detail` and OpenAI's `error`, in one body."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskvec.core.errors import CODES, BusyError, InputError, TaskvecError, status_of
from taskvec.integrations.server.ways import Ways, path_of

GONE = 499  # nginx's number for a client that hung up: in logs and metrics alone
# OpenAI's `type` and `code`, by status.
KINDS = {
    400: ("invalid_request_error", "invalid_json"),
    401: ("authentication_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    406: ("invalid_request_error", "not_acceptable"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    421: ("invalid_request_error", "misdirected_request"),
    422: ("invalid_request_error", "invalid_value"),
    429: ("rate_limit_error", "busy"),
    503: ("server_error", "not_ready"),
    504: ("server_error", "deadline_exceeded"),
}
# What the router says by itself, of paths and of methods.
NO_ROUTE, NO_METHOD = (404, "Not Found"), 405
UNTOLD = 500  # the first status that is the server's fault
UNEXPECTED = "the server failed: its log has the reason under this request's x-request-id"
FAULT = "taskvec"  # type of the faults whose message says it all
UNKNOWN = "taskvec_unknown"  # type of unknown fields: context `field` and `cure`
# What JSON calls what Python has of it.
JSON_NAMES = {
    type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string",
    list: "an array", dict: "an object",
}  # fmt: skip
# Where pydantic's messages have Python's words for what JSON calls otherwise.
EXPECTED = {
    "list_type": "an array",
    "tuple_type": "an array",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
LONGEST = 1000  # characters of a message: it may hold what was sent, which may be long


class RefusedInput(HTTPException):
    """An InputError, where FastAPI lets no other exception through."""

    def __init__(self, error: InputError) -> None:
        super().__init__(status_of(error).http, str(error))
        self.code = _code_of(error)


def problem(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error reply. code: if not the status' own. param: the field at fault."""
    kind, usual = KINDS.get(status, ("server_error", "internal_error"))
    message, param = _short(message), _short(param) if param else param
    error = {"message": message, "type": kind, "param": param, "code": code or usual}
    body = orjson.dumps({"detail": message, "error": error})
    return Response(body, status, dict(headers or {}), media_type="application/json")


def add_handlers(app: FastAPI, ways: Ways) -> None:
    """Let an app answer every expected error in this form."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
        path = path_of(request.scope)
        if error.status_code == NO_METHOD and (methods := ", ".join(ways.methods(path))):
            message = _printable(ways.other(path, request.method))
            return problem(NO_METHOD, message, headers={"Allow": methods})
        if (error.status_code, error.detail) == NO_ROUTE:
            return problem(error.status_code, _printable(ways.missing(path)))
        code = error.code if isinstance(error, RefusedInput) else None
        return problem(error.status_code, error.detail, code=code, headers=error.headers)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        status, message, param = invalid_of(error.errors())
        return problem(status, message, param=param)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, TaskvecError)  # noqa: S101
        if status_of(error).http >= UNTOLD:
            raise error  # to the gate, which logs it and tells nothing of it
        headers = {}
        if isinstance(error, BusyError):
            headers["Retry-After"] = str(request.app.state.service.retry_after_s())
        status, message = status_of(error).http, _printable(str(error))
        return problem(status, message, code=_code_of(error), headers=headers)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(TaskvecError, failed)


def invalid_of(errors: Sequence[Mapping[str, Any]]) -> tuple[int, str, str | None]:
    """Status, message and field of a fault in a request's body or query; never what was sent.

    errors: a RequestValidationError's. An unknown field comes first: it explains what is missing.
    """
    error = next((one for one in errors if one["type"] == UNKNOWN), errors[0])
    if error["type"] == "json_invalid":
        return 400, f"the body is no JSON: {_printable(str(error['ctx']['error']))}", None
    path = [str(part) for part in error["loc"][1:]]
    if error["type"] == FAULT:
        return 422, _printable(error["msg"]), path[0] if path else None
    if error["type"] == UNKNOWN:
        place = ".".join([*path, error["ctx"]["field"]])
        message = f"unknown field {_printable(place)!r}: {error['ctx']['cure']}"
        return 422, message, path[0] if path else error["ctx"]["field"]
    if not path and error["type"] == "missing":
        return 422, "the body is empty: expected a JSON object", None
    if not path:
        return 422, no_object(error["input"]), None
    place = ".".join(path)
    return 422, f"{place}: {_printable(_said(error))}", path[0]


def _code_of(error: TaskvecError) -> str | None:
    return next((code for code, kind in CODES.items() if isinstance(error, kind)), None)


def no_object(body: object) -> str:
    """Why a body that is JSON is no request."""
    return f"the body is {kind_of(body)}: expected an object"


def kind_of(value: object) -> str:
    """What JSON calls a value."""
    return JSON_NAMES.get(type(value), type(value).__name__)


def _said(error: Mapping[str, Any]) -> str:
    expected = EXPECTED.get(error["type"])
    return f"expected {expected}" if expected else error["msg"].replace("Tuple", "The array", 1)


def _short(message: str) -> str:
    """Without the middle of what is too long: the cure stands at the end."""
    half = LONGEST // 2
    return message if len(message) <= LONGEST else f"{message[:half]} … {message[-half:]}"


def _printable(message: str) -> str:
    """Without what UTF-8 cannot hold."""
    return message.encode("utf-8", "replace").decode()
