"""Requests within the size of a body that would cost a server more than they should."""

import logging
import socket
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskvec.core import Encoder
from taskvec.core.errors import CheckpointError, InputError
from taskvec.integrations.cli.parser import build_parser
from taskvec.integrations.server import Limits, counting, create_app, tracing
from taskvec.integrations.server.counting import PART, Counting, grouped
from taskvec.integrations.server.facts import Facts
from taskvec.integrations.server.hosts import is_for
from taskvec.integrations.server.running import local_names
from tests.asking import AS_JSON, limited, post, refusal, scraped, until
from tests.remote_server import NAME, Server, serving

SECRET = "xylophone"  # noqa: S105 - a text
MANY = 200_000


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/embeddings", {"input": [""] * MANY}, f"{MANY} texts"),
        ("/v1/chunks", {"input": [""] * MANY}, f"{MANY} texts"),
        ("/v1/chunks", {"input": {"text": "a", "spans": [0] * MANY}}, f"{MANY} chunks"),
        ("/v1/chunks", {"input": {"text": "a", "chunks": [0] * MANY}}, f"{MANY} chunks"),
        ("/v1/chunks", {"input": {str(n): n for n in range(MANY)}}, f"{MANY} fields"),
        ("/v1/chunks", {"split": {str(n): n for n in range(MANY)}}, f"{MANY} fields"),
        ("/v1/embeddings", {str(n): n for n in range(MANY)}, f"{MANY + 1} fields"),
    ],
)
def test_items_are_counted_before_they_are_looked_at(
    client: httpx.Client, path: str, body: dict[str, Any], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def looked_at(*_: object) -> None:
        raise AssertionError("a field was validated")

    monkeypatch.setattr("fastapi._compat.ModelField.validate", looked_at)
    assert message in refusal(post(client, path, **body), 422)


def test_a_message_holds_no_long_value(client: httpx.Client) -> None:
    for body in ({"model": "x" * 100_000}, {"task": "x" * 100_000}, {"x" * 100_000: 1}):
        reply = post(client, "/v1/embeddings", **{"input": "one", **body})
        assert reply.status_code in {404, 422}
        assert len(reply.content) < 5000
    message = refusal(post(client, "/v1/embeddings", input="one", model="x" * 5000), 404)
    assert message.endswith("this server has tiny")


def test_spans_that_overlap_beyond_measure_are_refused(client: httpx.Client) -> None:
    text = "file " * 20_000
    whole = [[0, len(text)]]
    body = {"text": text, "spans": whole * 17}
    message = refusal(post(client, "/v1/chunks", input=body, dimensions=8), 422)
    assert message.startswith("the spans have 1700000 characters in all")
    for body in ({"text": text, "spans": whole * 16}, {"text": "file", "spans": [[0, 4]] * 5000}):
        assert post(client, "/v1/chunks", input=body, dimensions=8).status_code == 200


def test_null_is_as_good_as_nothing(client: httpx.Client) -> None:
    optional = ["task", "dimensions", "embedding_type", "normalized", "user"]
    own = {
        "/v1/embeddings": ["late_chunking", "truncate", "encoding_format", "encoding_type"],
        "/v1/chunks": ["split", "return_text"],
    }
    for path, names in own.items():
        nulls = dict.fromkeys(optional + names)
        plain = post(client, path, input=["one"]).json()
        assert post(client, path, input=["one"], **nulls).json() == plain


def words(texts: Any) -> list[int]:
    return [len(text.split()) + 2 for text in texts]


def test_too_many_tokens_are_found_before_all_are_counted() -> None:
    seen: list[int] = []

    def noted(texts: Any) -> list[int]:
        seen.append(sum(map(len, texts)))
        return words(texts)

    for texts in (["a " * (4 * PART)], ["a " * (PART // 4)] * 16):
        seen.clear()
        with pytest.raises(InputError, match="tokens or more: a request may have 100000"):
            Counting(noted, 100_000).counts(texts)
        assert seen == [PART]


def test_counts_are_those_of_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "PART", 50)
    rng = np.random.default_rng(7)
    texts = ["ab " * int(length) for length in rng.integers(0, 60, 40)]
    assert Counting(words, 10**6).counts(texts) == words(texts)
    assert [text for group in grouped(texts) for text in group] == texts
    assert Counting(words, 10**6).counts([]) == []
    total = sum(words(texts))
    assert Counting(words, total).counts(texts) == words(texts)
    with pytest.raises(InputError):
        Counting(words, total - 1).counts(texts)


def test_nobody_counts_for_a_client_that_is_gone(encoder: Encoder) -> None:
    begun, go_on = threading.Event(), threading.Event()
    counted = 0

    def slow(texts: Any, **_: Any) -> list[int]:
        nonlocal counted
        counted += 1
        begun.set()
        assert go_on.wait(30)
        return [3] * len(texts)

    with serving(encoder, limits=Limits(deadline_s=0.5)) as server:
        service = server.app.state.service
        patched = pytest.MonkeyPatch()
        patched.setattr(type(encoder), "count_tokens", lambda _, texts, **__: slow(texts))
        try:
            body = {"model": NAME, "input": ["x" * PART] * 8}
            reply = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=30)
            assert begun.is_set()
            assert reply.status_code == 504
            go_on.set()
            service._threads.submit(lambda: None).result(30)
            end = time.monotonic() + 10
            while service._threads._work_queue.qsize():
                assert time.monotonic() < end
            time.sleep(0.1)
        finally:
            go_on.set()
            patched.undo()
    assert counted == 1


def test_a_fault_of_the_server_is_logged_and_not_told(
    client: httpx.Client, http_server: Server, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def broken(*_: Any) -> list[int]:
        raise CheckpointError(SECRET)

    monkeypatch.setattr(type(http_server.app.state.service), "counts", broken)
    with caplog.at_level(logging.ERROR):
        reply = post(client, "/v1/embeddings", input="one")
    assert refusal(reply, 500).startswith("the server failed")
    assert SECRET not in reply.text
    lines = [record.taskvec for record in caplog.records if record.name == "taskvec.server"]  # type: ignore[attr-defined]
    assert [line["error"] for line in lines] == ["CheckpointError"]
    assert lines[0]["id"] == reply.headers["x-request-id"]


def test_spans_hold_no_message_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    facts = Facts("id", "POST", "/v1/embeddings")
    for within in (tracing.encode_span(facts), tracing.request_span({"headers": []}, facts)):
        with pytest.raises(RuntimeError), within:
            raise RuntimeError(SECRET)
    found = exporter.get_finished_spans()
    assert len(found) == 2
    assert SECRET not in "".join(span.to_json() for span in found)


async def test_limits_hold_wherever_the_application_is_mounted(encoder: Encoder) -> None:
    root = FastAPI()
    inner = create_app(encoder, names=(NAME,), keys=["k" * 24], limits=Limits(requests=1))
    root.mount("/models", inner)
    inner.state.service.in_progress = 1

    async def asked(method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(root)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, f"/models{path}", **options)

    assert (await asked("GET", "/healthz")).status_code == 200
    headers = {"Authorization": f"Bearer {'k' * 24}"}
    body = {"model": NAME, "input": "one"}
    busy = await asked("POST", "/v1/embeddings", json=body, headers=headers)
    assert busy.status_code == 429
    assert int(busy.headers["Retry-After"]) >= 1
    found = (await asked("GET", "/metrics", headers=headers)).text
    assert 'route="/v1/embeddings",status="429"' in found
    inner.state.service.close()


@pytest.mark.parametrize(
    ("header", "local"),
    [
        (b"localhost:8080", True),
        (b"LOCALHOST", True),
        (b"127.0.0.1:8080", True),
        (b"[::1]:8080", True),
        (b"Box:80", True),
        (b"", True),
        (b"evil.example:8080", False),
        (b"localhost.evil.example", False),
        (b"127.0.0.1.evil.example", False),
        (b"user@evil.example", False),
        (b"[::1", False),
        (b"\xff", False),
    ],
)
def test_pages_of_names_that_lead_here_are_told_apart(header: bytes, local: bool) -> None:
    assert is_for(header, local_names("BOX", public=False)) is local


def test_a_page_whose_name_leads_here_is_sent_away(encoder: Encoder) -> None:
    hosts = local_names("127.0.0.1", public=False)
    with serving(encoder, hosts=hosts) as server:
        answers = {
            name: httpx.get(f"{server.url}/v1/models", headers={"Host": name})
            for name in ("localhost:1", "evil.example")
        }
    assert answers["localhost:1"].status_code == 200
    assert "--allow-anonymous" in refusal(answers["evil.example"], 421)
    assert local_names("127.0.0.1", public=True) == ()


@pytest.mark.parametrize(
    ("length", "piece"),
    [
        (b"Content-Length: 99999999999", b"x" * 1000),
        (b"Transfer-Encoding: chunked", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
    ],
)
@pytest.mark.parametrize("quick", [True, False])
def test_a_body_that_goes_on_after_its_refusal_is_left(
    encoder: Encoder, length: bytes, piece: bytes, quick: bool
) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    reply = b""
    with serving(encoder, limits=Limits(body_bytes=20_000, pause_s=0.5)) as server:
        place = httpx.URL(server.url)
        with socket.create_connection((place.host, place.port), timeout=10) as raw:
            raw.sendall(head + length + b"\r\n\r\n" + piece * 21)
            while not reply.endswith(b"}"):  # its head and its body may come apart
                part = raw.recv(65_536)
                assert part, reply
                reply += part
            end = time.monotonic() + 10
            with pytest.raises(OSError, match=r"reset|pipe"):  # noqa: PT012 - until it is closed
                while time.monotonic() < end:
                    raw.sendall(piece)
                    time.sleep(0 if quick else 0.1)
        while server.app.state.service.in_progress:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert reply.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in reply
    assert b"more than 20000 bytes" in reply


def test_bodies_of_all_requests_have_a_bound(encoder: Encoder) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with limited(encoder, body_bytes=2000, bodies_bytes=3000) as client:
        place = (client.base_url.host, client.base_url.port)
        with socket.create_connection(place) as half:
            half.sendall(head + b"Content-Length: 1900\r\n\r\n" + b" " * 1500)
            until(lambda: scraped(client)["taskvec_body_bytes"] == 1500)
            declared = post(client, input="x" * 1700)
            parts = iter([b" " * 800] * 2)
            counted = client.post("/v1/embeddings", content=parts, headers=AS_JSON)
            for busy in (declared, counted):
                assert "bodies of 3000 bytes" in refusal(busy, 429)
                assert int(busy.headers["Retry-After"]) >= 1
            assert scraped(client)["taskvec_body_bytes"] == 1500
            assert post(client, input="one").status_code == 200
        until(lambda: scraped(client)["taskvec_body_bytes"] == 0)
        assert post(client, input="x" * 1700, truncate=True).status_code == 200


def test_drain_and_grace_may_be_no_time() -> None:
    arguments = build_parser().parse_args(["serve", "--drain", "0", "--grace", "0"])
    assert (arguments.drain, arguments.grace) == (0, 0)
