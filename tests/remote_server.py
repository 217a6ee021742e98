"""A real HTTP server on loopback around an encoder, for what RemoteEncoder must speak."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from taskvec.core import Embedder
from taskvec.core.embedder import Array
from taskvec.core.errors import TaskvecError, status_of


class Server(ThreadingHTTPServer):
    """Remembers what it was asked, and can be told to fail."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, encoder: Embedder) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.encoder = encoder
        self.failures: list[int] = []  # statuses to answer before serving again
        self.seen: list[tuple[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._serve(parts.path, query)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self._serve(self.path, json.loads(self.rfile.read(length)))

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self, path: str, asked: Any) -> None:
        self.server.seen.append((path, asked))
        self.server.keys.append(self.headers["Authorization"])
        if self.server.failures:
            self._answer(self.server.failures.pop(0), {"detail": "told to fail"})
            return
        try:
            self._answer(200, ROUTES[path](self.server.encoder, asked))
        except TaskvecError as error:
            self._answer(status_of(error).http, {"detail": str(error)})

    def _answer(self, status: int, reply: dict[str, Any]) -> None:
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)


def embeddings(encoder: Embedder, asked: dict[str, Any]) -> dict[str, Any]:
    vectors = encoder.encode(
        asked["input"],
        task=asked.get("task"),
        dim=asked["dimensions"],
        overflow="truncate" if asked["truncate"] else "error",
    )
    return {"data": list(reversed(packed(vectors)))}


def chunks(encoder: Embedder, asked: dict[str, Any]) -> dict[str, Any]:
    [document] = asked["input"]
    vectors = encoder.encode_chunks(
        document["text"], document["spans"], task=asked.get("task"), dim=asked["dimensions"]
    )
    return {"data": [{"index": 0, "chunks": packed(vectors)}]}


def models(encoder: Embedder, _: dict[str, Any]) -> dict[str, Any]:
    card = {"id": "tiny", "tasks": encoder.tasks, "dimensions": encoder.dims}
    return {"data": [card | {"max_tokens": encoder.max_tokens}]}


def fingerprint(encoder: Embedder, asked: dict[str, Any]) -> dict[str, Any]:
    return {"fingerprint": encoder.fingerprint(asked.get("task"), int(asked["dimensions"]))}


def packed(vectors: Array) -> list[dict[str, Any]]:
    return [
        {"index": i, "embedding": base64.b64encode(vector.tobytes()).decode()}
        for i, vector in enumerate(vectors)
    ]


ROUTES = {
    "/v1/embeddings": embeddings,
    "/v1/chunks": chunks,
    "/v1/models": models,
    "/v1/fingerprint": fingerprint,
}


@contextmanager
def serving(encoder: Embedder) -> Iterator[Server]:
    """A server on a free port of 127.0.0.1 for the time of the block."""
    with Server(encoder) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
