"""taskvec's own server on loopback, which remembers what it was asked and fails when told to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskvec.core import Embedder
from taskvec.integrations.server import create_app
from taskvec.integrations.server.running import HttpServer, open_socket

NAME = "tiny"


class Server:
    """A running server. app: what it runs.

    seen: paths, and the bodies or queries that came to them. keys: Authorization headers.
    failures: statuses to answer before serving again. answers: bodies to answer, by path.
    """

    def __init__(self, encoder: Embedder, *, grace_s: float = 5, **options: Any) -> None:
        self.failures: list[int] = []
        self.answers: dict[str, Any] = {}
        self.seen: list[tuple[str, Any]] = []
        self.keys: list[str | None] = []
        self.app = create_app(encoder, **{"names": (NAME,), **options})
        self.app.add_middleware(Faults, server=self)
        self._up = Event()
        self.http = HttpServer(
            self.app,
            open_socket("127.0.0.1", 0, public=False),
            grace_s=grace_s,
            on_listening=lambda _: self._up.set(),
        )
        self.url = self.http.url
        self._thread = Thread(target=self.http.serve_until_told)

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(30)

    def stop(self) -> None:
        self.http.should_exit = True
        self._thread.join()


class Faults:
    """ASGI middleware that stands before everything else of a Server."""

    def __init__(self, app: ASGIApp, *, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = self._server
        request = Request(scope)
        server.keys.append(request.headers.get("authorization"))
        if server.failures:
            status = server.failures.pop(0)
            headers = {"Retry-After": "0"} if status == 429 else {}
            server.seen.append((request.url.path, None))
            await JSONResponse({"detail": "told to fail"}, status, headers)(scope, receive, send)
        elif request.url.path in server.answers:
            await JSONResponse(server.answers[request.url.path])(scope, receive, send)
        else:
            await self._app(scope, self._noted(scope, receive), send)

    def _noted(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that notes a whole body, or the query of a request without one."""
        path, body = scope["path"], bytearray()
        if scope["method"] == "GET":
            self._server.seen.append((path, dict(parse_qsl(scope["query_string"].decode()))))

        async def receive_and_note() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            if body and not message.get("more_body"):
                with suppress(ValueError):
                    self._server.seen.append((path, json.loads(body)))
                body.clear()
            return message

        return receive_and_note


@contextmanager
def serving(encoder: Embedder, **options: Any) -> Iterator[Server]:
    """A server on a free port of 127.0.0.1 for the time of the block."""
    server = Server(encoder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
