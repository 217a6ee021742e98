"""Qdrant's local engine behind its HTTP interface, with faults of a network on request.

It answers the calls of a collection as a server would; what it does not show is a server's index,
quantisation and limits.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel
from qdrant_client import QdrantClient, models

from taskvec.integrations.qdrant.creating import CLIENT_HAS_METADATA

DONE = {"operation_id": 0, "status": "completed"}


@dataclass(frozen=True)
class Fault:
    """What happens to one request in the place of an answer.

    status: answered, with these headers and this content; 0 breaks the connection. applied: whether
    the engine does what was asked for. after_s: how late.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    applied: bool = False
    after_s: float = 0.0
    content: str = "{}"


class Front:
    """The engine, the requests that came, and the faults that wait for writes of points."""

    def __init__(self) -> None:
        self.engine = QdrantClient(":memory:")
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, str]] = []
        self.indexes: dict[str, dict[str, Any]] = {}
        self.turn = threading.Lock()
        self.keeps_metadata = CLIENT_HAS_METADATA  # as servers do from 1.16 on
        self.url = ""

    def writes(self) -> int:
        """How many requests to write points came."""
        return sum(method == "PUT" and path.endswith("/points") for method, path in self.requests)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """What the engine says to a request."""
        _, _, name, *rest = path.split("/")
        with self.turn:
            return ROUTES[method, "/".join(rest)](self, name, body)

    def info(self, name: str, body: bytes) -> Any:
        shown = self.engine.get_collection(name).model_dump(mode="json")
        return shown | {"payload_schema": self.indexes.get(name, {})}

    def index(self, name: str, body: bytes) -> Any:
        asked = models.CreateFieldIndex.model_validate_json(body)
        schema = {"data_type": asked.field_schema, "points": 0}
        self.indexes.setdefault(name, {})[asked.field_name] = schema
        return DONE

    def create(self, name: str, body: bytes) -> Any:
        asked = models.CreateCollection.model_validate_json(body)
        return self.engine.create_collection(
            name,
            vectors_config=asked.vectors,
            sparse_vectors_config=asked.sparse_vectors,
            **({"metadata": asked.metadata} if self.keeps_metadata else {}),
        )

    def retrieve(self, name: str, body: bytes) -> Any:
        asked = models.PointRequest.model_validate_json(body)
        return self.engine.retrieve(name, asked.ids, with_payload=asked.with_payload)

    def upsert(self, name: str, body: bytes) -> Any:
        self.engine.upsert(name, models.PointsList.model_validate_json(body).points)
        return DONE

    def delete(self, name: str, body: bytes) -> Any:
        self.engine.delete(name, models.PointIdsList.model_validate_json(body).points)
        return DONE

    def set_payload(self, name: str, body: bytes) -> Any:
        asked = models.SetPayload.model_validate_json(body)
        self.engine.set_payload(name, asked.payload, asked.points, key=asked.key)
        return DONE

    def query(self, name: str, body: bytes) -> Any:
        asked = models.QueryRequest.model_validate_json(body)
        return self.engine.query_points(
            name,
            asked.query,
            using=asked.using,
            prefetch=asked.prefetch,
            query_filter=asked.filter,
            limit=asked.limit,
        )


Route = Callable[[Front, str, bytes], Any]
ROUTES: dict[tuple[str, str], Route] = {
    ("GET", "exists"): lambda front, name, _: {"exists": front.engine.collection_exists(name)},
    ("GET", ""): Front.info,
    ("PUT", ""): Front.create,
    ("PUT", "index"): Front.index,
    ("POST", "points"): Front.retrieve,
    ("PUT", "points"): Front.upsert,
    ("POST", "points/delete"): Front.delete,
    ("POST", "points/payload"): Front.set_payload,
    ("POST", "points/query"): Front.query,
}


@contextmanager
def front() -> Iterator[Front]:
    """A front that listens on loopback."""
    made = Front()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            made.requests.append((self.command, path))
            writes = self.command == "PUT" and path.endswith("/points")
            fault = made.faults.popleft() if writes and made.faults else None
            if fault is None:
                result = made.answer(self.command, path, body)
                answer = {"result": result, "status": "ok", "time": 0.0}
                self.reply(200, json.dumps(answer, default=plain), {})
                return
            if fault.applied:
                made.answer(self.command, path, body)
            time.sleep(fault.after_s)
            if fault.status:
                self.reply(fault.status, fault.content, fault.headers)
            else:
                self.close_connection = True

        do_GET = do_PUT = do_POST = handle_any  # noqa: N815 - the base class's names

        def reply(self, status: int, content: str, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # of a client that did not wait
                self.wfile.write(content.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    serving.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
        made.engine.close()


def plain(value: object) -> Any:
    assert isinstance(value, BaseModel)
    return value.model_dump(mode="json")
