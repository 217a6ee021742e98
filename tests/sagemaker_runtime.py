"""SageMaker's runtime API on loopback, before a container of taskvec's: what each hands on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from taskvec.core import Embedder
from taskvec.integrations.server.running import open_socket
from tests.remote_server import Server, serving

ENDPOINT, REGION = "taskvec-tiny", "eu-west-1"
# What the service model of the API says an error's status is.
STATUSES = {
    "ThrottlingException": 400,
    "ModelNotReadyException": 429,
    "ServiceUnavailable": 503,
    "InternalFailure": 500,
    "InternalDependencyException": 530,
    "BadGateway": 502,
    "AccessDeniedException": 403,
    "SignatureDoesNotMatch": 403,
    "ValidationError": 400,
}
# Others than errors of SageMaker's own: a container that took longer than it may, one that is no
# taskvec server, a reply that breaks off.
LATE, OTHERS, BROKEN = "late", "others", "broken"
TIMED_OUT = "Your invocation timed out while waiting for a response from container primary."
# SageMaker strips all other headers.
HANDED_ON = ("content-type", "accept", "x-amzn-sagemaker-custom-attributes")
HANDED_BACK = ("content-type", "x-amzn-sagemaker-custom-attributes")


class Told(uvicorn.Server):
    """Uvicorn that tells when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.up.set()


class Runtime:
    """A running endpoint. container: the server behind it.

    failures: codes of errors to answer before serving again; see also `LATE` and `BROKEN`.
    said: with them. asked: how many requests came. seen: their bodies. headers: of the last one.
    """

    def __init__(self, container: Server) -> None:
        self.container = container
        self.failures: list[str] = []
        self.said = "told to fail"
        self.asked = 0
        self.seen: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        route = Route("/endpoints/{name}/invocations", self._invoke, methods=["POST"])
        config = uvicorn.Config(Starlette(routes=[route]), log_config=None, lifespan="off")
        self._server = Told(config)
        self._socket = open_socket("127.0.0.1", 0, public=False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = Thread(target=self._server.run, args=([self._socket],))

    async def _invoke(self, request: Request) -> Response:
        self.asked += 1
        self.headers = dict(request.headers)
        body = await request.body()
        if not request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential="):
            return _error("MissingAuthenticationTokenException", 403, "not signed")
        if self.failures:
            code = self.failures.pop(0)
            return _failure(code, self.said)
        if request.path_params["name"] != ENDPOINT:
            return _error("ValidationError", 400, f"Endpoint {request.path_params['name']} of "
                          "account 123456789012 not found.")  # fmt: skip
        self.seen.append(json.loads(body) if b"\n" not in body else {})
        headers = {name: request.headers[name] for name in HANDED_ON if name in request.headers}
        async with httpx.AsyncClient(base_url=self.container.url, timeout=60) as client:
            reply = await client.post("/invocations", content=body, headers=headers)
        if reply.is_error:
            return _error(
                "ModelError",
                424,
                f'Received client error ({reply.status_code}) from primary with message "…"',
                OriginalStatusCode=reply.status_code,
                OriginalMessage=reply.text,
                LogStreamArn="arn:aws:logs:eu-west-1:123456789012:log-group:x",
            )
        headers = {name: reply.headers[name] for name in HANDED_BACK if name in reply.headers}
        return Response(reply.content, headers=headers)

    def start(self) -> None:
        self._thread.start()
        assert self._server.up.wait(30)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


def _failure(code: str, said: str) -> Response:
    if code == LATE:
        message = f'Received server error (0) from primary with message "{TIMED_OUT}".'
        fields = {"OriginalStatusCode": 0, "OriginalMessage": TIMED_OUT}
        return _error("ModelError", 424, message, **fields)
    if code == OTHERS:
        fields = {"OriginalStatusCode": 422, "OriginalMessage": "<p>none of ours</p>"}
        return _error("ModelError", 424, "Received client error (422)", **fields)
    if code == BROKEN:
        return StreamingResponse(iter([b"{"]), headers={"content-length": "100"})
    return _error(code, STATUSES[code], said)


def _error(code: str, status: int, message: str, **fields: Any) -> Response:
    body = {"Message": message, **fields}
    return JSONResponse(body, status, headers={"x-amzn-ErrorType": code})


@contextmanager
def endpoint(encoder: Embedder, **options: Any) -> Iterator[Runtime]:
    """An endpoint for the time of the block. options: of its container's application."""
    with serving(encoder, **options) as container:
        runtime = Runtime(container)
        runtime.start()
        try:
            yield runtime
        finally:
            runtime.stop()


def settings(url: str) -> dict[str, str]:
    """The environment in which boto3 finds an endpoint, and keys that open nothing."""
    return {
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": url,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
