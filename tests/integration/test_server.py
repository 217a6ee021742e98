"""The HTTP API on a real server: shapes, limits, errors, keys, metrics and logs."""

import base64
import json
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskvec.core import Encoder
from taskvec.core.embedder import Array
from taskvec.core.errors import InputError
from taskvec.integrations.server import Limits, create_app
from taskvec.integrations.server.keys import Keys, read_keys
from taskvec.integrations.server.logs import JsonLines
from taskvec.integrations.server.running import open_socket
from taskvec.integrations.server.service import SMALL_TOKENS, lane_of
from tests.asking import AS_JSON, held, limited, post, refusal, release, scraped, until
from tests.remote_server import NAME, Server, serving

TEXTS = ["read the file", "", "a thread lock\x00", "close the socket"]
MEANT = "did you mean /v1/embeddings?"
KEY, OTHER_KEY = "k" * 24, "o" * 24
SECRET = "xylophone"  # noqa: S105 - a text


def vectors_of(response: httpx.Response) -> Array:
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    assert {one["object"] for one in data} <= {"embedding"}
    return np.array([one["embedding"] for one in data], np.float32)


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("read the file", ["read the file"]),
        (TEXTS, TEXTS),
        ([{"text": "one"}, "two"], ["one", "two"]),
        ({"text": "one"}, ["one"]),
    ],
)
def test_every_form_of_input_gives_the_cores_vectors(
    client: httpx.Client, encoder: Encoder, given: Any, texts: list[str]
) -> None:
    got = vectors_of(post(client, input=given, task="retrieval.passage", dimensions=16))
    want = encoder.encode(texts, task="retrieval.passage", dim=16)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_no_input_gives_no_vectors(client: httpx.Client) -> None:
    reply = post(client, input=[]).json()
    assert (reply["data"], reply["usage"]["total_tokens"]) == ([], 0)


@pytest.mark.parametrize("field", ["embedding_type", "encoding_format", "encoding_type"])
def test_vectors_are_written_in_four_ways(
    client: httpx.Client, encoder: Encoder, field: str
) -> None:
    want = encoder.encode(TEXTS)
    signs = np.packbits(want > 0, axis=1)

    def asked(kind: str | None) -> list[Any]:
        reply = post(client, input=TEXTS, **{field: kind}).json()
        return [one["embedding"] for one in reply["data"]]

    for kind in ("float", None):
        np.testing.assert_allclose(np.array(asked(kind), np.float32), want, atol=1e-6)
    packed = [np.frombuffer(base64.b64decode(one), "<f4") for one in asked("base64")]
    np.testing.assert_allclose(np.stack(packed), want, atol=1e-6)
    np.testing.assert_array_equal(asked("ubinary"), signs)
    np.testing.assert_array_equal(asked("binary"), signs.astype(int) - 128)


def test_tasks_come_by_field_and_by_the_models_name(client: httpx.Client, encoder: Encoder) -> None:
    for task in (None, *encoder.tasks):
        want = encoder.encode(["one"], task=task)
        got = vectors_of(post(client, input="one", task=task))
        np.testing.assert_allclose(got, want, atol=1e-6)
        if task:
            got = vectors_of(post(client, input="one", model=f"{NAME}@{task}"))
            np.testing.assert_allclose(got, want, atol=1e-6)
    want = encoder.encode(["one"], task="separation")
    for given in ({"task": "clustering"}, {"model": f"{NAME}@clustering", "task": "separation"}):
        np.testing.assert_allclose(vectors_of(post(client, input="one", **given)), want, atol=1e-6)


def test_usage_counts_prompts_and_what_was_read(client: httpx.Client, encoder: Encoder) -> None:
    def used(**body: Any) -> int:
        usage = post(client, **body).json()["usage"]
        assert usage["prompt_tokens"] == usage["total_tokens"]
        return usage["total_tokens"]

    for task in (None, "retrieval.query"):
        want = sum(encoder.count_tokens(TEXTS, task=task))
        assert used(input=TEXTS, task=task) == want
    assert (
        used(input=["file " * 5000, "one"], truncate=True)
        == encoder.max_tokens + encoder.count_tokens("one")[0]
    )
    assert used(input=["file " * 900] * 2, late_chunking=True) == 1803


def test_tokens_are_told_of_each_text_if_asked(client: httpx.Client, encoder: Encoder) -> None:
    texts = [*TEXTS, "file " * 5000]
    for task in (None, "retrieval.query"):
        reply = post(client, input=texts, task=task, truncate=True, token_counts=True).json()
        want = [*encoder.count_tokens(TEXTS, task=task), encoder.max_tokens]
        assert [one["tokens"] for one in reply["data"]] == want
        assert reply["usage"]["total_tokens"] == sum(want)
    coded = {"model": f"{NAME}@retrieval.query", "encoding_format": "base64", "dimensions": 8}
    reply = post(client, input=TEXTS, token_counts=True, **coded).json()
    assert [one["tokens"] for one in reply["data"]] == want[:-1]
    assert post(client, input=[], token_counts=True).json()["data"] == []
    [one] = post(client, input="one", token_counts=False).json()["data"]
    assert set(one) == {"object", "index", "embedding"}


def test_late_chunking_reads_all_inputs_as_one_document(
    client: httpx.Client, encoder: Encoder
) -> None:
    chunks = ["Read the file.", "It is open. ", "Close it.", "\nThe lock"]
    document = "Read the file. It is open. Close it.\nThe lock"
    spans = [(0, 14), (15, 27), (27, 36), (36, 45)]
    got = vectors_of(
        post(client, input=chunks, late_chunking=True, task="retrieval.passage", dimensions=8)
    )
    want = encoder.encode_chunks(document, spans, task="retrieval.passage", dim=8)
    np.testing.assert_allclose(got, want, atol=1e-6)
    alone = encoder.encode(chunks, task="retrieval.passage", dim=8)
    assert np.abs(alone - want).max() > 0.01
    assert vectors_of(post(client, input=[], late_chunking=True)).shape == (0,)
    message = refusal(post(client, input=["a", ""], late_chunking=True), 422)
    assert message.startswith("input[1] is empty")


def test_long_texts_are_cut_only_if_asked(client: httpx.Client, encoder: Encoder) -> None:
    long = "file " * 5000
    message = refusal(post(client, input=["one", long]), 422)
    assert message.startswith("input[1] has 5003 tokens, the context holds 1024")
    got = vectors_of(post(client, input=["one", long], truncate=True))
    np.testing.assert_allclose(got, encoder.encode(["one", long]), atol=1e-6)


REFUSED = [
    ({"input": [1, 2]}, "input[0] is a token id"),
    ({"input": [[1, 2]]}, "input[0][0] is a token id"),
    ({"input": ["one", None]}, 'input[1] is null: expected a text, or {"text": …}'),
    ({"input": [True]}, "input[0] is a boolean"),
    ({"input": [[]]}, "input[0] is an array"),
    (
        {"input": [{"url": "http://127.0.0.1/cat.png"}]},
        'input[0] has the fields ["url"]: expected "text" alone',
    ),
    ({"input": [{"text": 3}]}, "input[0].text is a token id"),
    ({}, "input: Field required"),
    ({"input": "one", "model": None}, "model: Input should be a valid string"),
    ({"input": "one", "prompt": "x"}, "unknown field 'prompt': use model, task, dimensions, "),
    ({"input": "one", "dim": 8}, "unknown field 'dim': did you mean 'dimensions'?"),
    ({"input": "one", "dimension": 8}, "unknown field 'dimension': did you mean 'dimensions'?"),
    ({"inputs": "one"}, "unknown field 'inputs': did you mean 'input'?"),
    ({"texts": "one"}, "unknown field 'texts': use model, task, "),
    ({"input": "one", "dimensions": 7}, "unknown dim 7"),
    ({"input": "one", "dimensions": "8"}, "dimensions: "),
    ({"input": "one", "task": "sorting"}, "unknown task 'sorting'"),
    ({"input": "one", "model": f"{NAME}@sorting"}, "unknown task 'sorting'"),
    ({"input": "one", "model": f"{NAME}@"}, "unknown task ''"),
    ({"input": "one", "model": f"{NAME}@separation", "task": "classification"}, "another task"),
    ({"input": "one", "late_chunking": "yes"}, "late_chunking: "),
    ({"input": "one", "embedding_type": "float16"}, "embedding_type: "),
    (
        {"input": "one", "embedding_type": ["float", "base64"]},
        "embedding_type is an array: a reply has one form, give one of float, base64, binary",
    ),
    ({"input": "one", "encoding_format": ["float"]}, "encoding_format is an array"),
    ({"input": "one", "embedding_type": "float", "encoding_format": "base64"}, "one setting"),
    ({"input": "one", "token_counts": True, "late_chunking": True}, "all inputs are read as one"),
    ({"input": "one", "normalized": False}, "all vectors have unit length"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_cannot_be_served_is_refused_with_the_reason(
    client: httpx.Client, body: dict[str, Any], message: str
) -> None:
    assert message in refusal(post(client, **body), 422)


def test_a_fingerprint_refuses_parameters_that_it_would_not_heed(client: httpx.Client) -> None:
    message = refusal(client.get("/v1/fingerprint", params={"dim": 8}), 422)
    assert message == "unknown query parameter 'dim': use model, task, dimensions"
    assert client.get("/v1/fingerprint", params={"dimensions": 8}).json()["dimensions"] == 8
    long = refusal(client.get("/v1/fingerprint", params={"x" * 5000: 1}), 422)
    assert len(long) < 1100


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chunks"])
def test_a_body_is_said_to_be_json(client: httpx.Client, path: str) -> None:
    content = json.dumps({"model": NAME, "input": "one"})

    def asked(kind: str | None, body: str = content) -> httpx.Response:
        headers = {} if kind is None else {"Content-Type": kind}
        return client.post(path, content=body, headers=headers)

    for kind in ("application/json", "Application/JSON; charset=utf-8", "application/x+json"):
        assert asked(kind).status_code == 200
    cure = "send application/json (curl: -H 'Content-Type: application/json')"
    for kind in ("application/x-www-form-urlencoded", "text/plain", "text/x+json"):
        assert refusal(asked(kind), 415) == f"content type {kind!r}: {cure}"
    assert refusal(asked(None), 415) == f"no content type: {cure}"
    assert len(refusal(asked("x" * 9000), 415)) < 1100


@pytest.mark.parametrize(
    ("body", "given"),
    [('"x"', "a string"), ("[1]", "an array"), ("null", "null"), ("3", "a number"), ("", "empty")],
)
def test_a_body_is_an_object(client: httpx.Client, body: str, given: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused = client.post("/v1/embeddings", content=body, headers=headers)
    assert refusal(refused, 422).startswith(f"the body is {given}: expected a")


def test_an_unknown_field_within_a_document_is_placed(client: httpx.Client) -> None:
    inputs = ["one", {"text": "two", "span": [[0, 1]]}]
    refused = post(client, "/v1/chunks", input=inputs)
    assert refusal(refused, 422) == "unknown field 'input.1.span': did you mean 'spans'?"
    assert refused.json()["error"]["param"] == "input"
    refused = post(client, "/v1/chunks", input="one", split={"size": 9})
    assert refusal(refused, 422) == "unknown field 'split.size': use by, characters"
    refused = post(client, input="one", dim=8)
    assert refused.json()["error"]["param"] == "dim"


def test_an_unknown_model_or_path_is_not_found(client: httpx.Client) -> None:
    message = refusal(post(client, input="one", model="gpt"), 404)
    assert message == "unknown model 'gpt': this server has tiny"
    assert refusal(client.get("/v1/models/gpt"), 404) == message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/embeddings",
            f"no route '/embeddings': {MEANT} (base_url=…/v1 for OpenAI's clients)",
        ),
        ("/v1/v1/embeddings", f"no route '/v1/v1/embeddings': {MEANT}"),
        ("/v1/embedding", f"no route '/v1/embedding': {MEANT}"),
        ("/v1/rerank", "no route '/v1/rerank': /openapi.json lists them"),
    ],
)
def test_another_path_is_told_with_what_was_meant(
    client: httpx.Client, path: str, message: str
) -> None:
    assert refusal(client.post(path, json={}), 404) == message


def test_little_is_told_of_a_long_path(client: httpx.Client) -> None:
    assert len(refusal(client.get("/x" * 20_000), 404)) < 200
    refusal(client.get("/%ff%ed%a0%80%0a"), 404)


@pytest.mark.parametrize(
    ("method", "path", "methods"),
    [
        ("GET", "/v1/embeddings", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", f"/v1/models/{NAME}", "GET"),
        ("PUT", "/openapi.json", "GET, HEAD"),
    ],
)
def test_another_method_is_told_with_those_that_a_route_takes(
    client: httpx.Client, method: str, path: str, methods: str
) -> None:
    refused = client.request(method, path)
    assert refusal(refused, 405) == f"{path} takes no {method}: use {methods}"
    assert refused.headers["allow"] == methods


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"input": ', 400),
        (b"\xff", 400),
        (b'{"model": "tiny", "input": "\\ud800"}', 400),
        (b'{"model": "tiny", "input": NaN}', 400),
        (b"[" * 100_000, 400),
        (b"", 422),
        (b"[]", 422),
        (b'"text"', 422),
    ],
)
def test_a_malformed_body_is_refused(client: httpx.Client, content: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    refusal(client.post("/v1/embeddings", content=content, headers=headers), status)


def test_limits_of_a_request(encoder: Encoder) -> None:
    with limited(encoder, body_bytes=2000, items=3, tokens=50) as client:
        assert len(vectors_of(post(client, input=["one"] * 3))) == 3
        message = refusal(post(client, input=["one"] * 4), 422)
        assert message == "input has 4 texts: a request may have 3, send several"
        assert "a request may have 50" in refusal(post(client, input="file " * 60), 422)
        for beyond in (["one"] * 4, "file " * 60):
            code = post(client, input=beyond).json()["error"]["code"]
            assert code == "request_too_large", "whatever the status: a client may halve it"
        assert "more than 2000 bytes" in refusal(post(client, input="x" * 2000), 413)
        parts = iter([b"x" * 1500] * 2)  # of no declared length
        refused = client.post("/v1/chunks", content=parts, headers=AS_JSON)
        assert "more than 2000 bytes" in refusal(refused, 413)
        many = {"text": "a b c d", "spans": [(0, 1)] * 4}
        assert "4 chunks" in refusal(post(client, "/v1/chunks", input=[many]), 422)
        own = {"input": "One. " * 5, "split": {"by": "sentence"}}
        assert "5 chunks" in refusal(post(client, "/v1/chunks", **own), 422)


def test_a_document_without_a_split_is_packed_as_documented(client: httpx.Client) -> None:
    document = "A sentence. " * 100
    asked = [
        post(client, "/v1/chunks", input=document, split=split).json()
        for split in (None, {}, {"by": "size", "characters": 600})
    ]
    assert asked[0] == asked[1] == asked[2]
    assert len(asked[0]["data"][0]["chunks"]) > 1


def test_chunks_have_the_cores_late_chunked_vectors(client: httpx.Client, encoder: Encoder) -> None:
    texts = ["Read the file. Close it!", "A lock\n\na queue, a list"]
    given = [
        {"text": texts[0], "spans": [[15, 24], [0, 14]]},
        {"text": texts[1], "chunks": ["A lock", "a queue, a list"]},
        {"text": "", "spans": []},
    ]
    reply = post(
        client, "/v1/chunks", input=given, task="retrieval.passage", dimensions=8, return_text=True
    ).json()
    spans = [[(15, 24), (0, 14)], [(0, 6), (8, 23)], []]
    for number, (text, own) in enumerate(zip([*texts, ""], spans, strict=True)):
        document = reply["data"][number]
        assert (document["object"], document["index"]) == ("document", number)
        found = document["chunks"]
        assert [tuple(one["span"]) for one in found] == own
        assert [one["text"] for one in found] == [text[start:end] for start, end in own]
        got = np.array([one["embedding"] for one in found], np.float32).reshape(-1, 8)
        want = encoder.encode_chunks(text, own, task="retrieval.passage", dim=8)
        np.testing.assert_allclose(got, want, atol=1e-6)
    tokens = sum(encoder.count_tokens([*texts, ""], task="retrieval.passage"))
    assert reply["usage"]["total_tokens"] == tokens


@pytest.mark.parametrize(
    ("text", "split", "chunks"),
    [
        ("One is (1.5). “Two!” Three…\n\nA title\n\nEnd", {"by": "sentence"},
         ["One is (1.5).", "“Two!”", "Three…", "A title", "End"]),
        ("数据库。检索！日本語", {"by": "sentence"}, ["数据库。", "检索！", "日本語"]),  # noqa: RUF001
        ("word " * 8, {"by": "sentence", "characters": 16}, ["word word word"] * 2 + ["word word"]),
        ("One of it. Two of it. " * 2, {"characters": 24}, ["One of it. Two of it."] * 2),
        ("", {"by": "sentence"}, []),
        (" \n ", {}, []),
    ],
)  # fmt: skip
def test_the_server_cuts_documents_itself(
    client: httpx.Client, text: str, split: dict[str, Any], chunks: list[str]
) -> None:
    reply = post(client, "/v1/chunks", input=text, split=split, return_text=True).json()
    [document] = reply["data"]
    assert [one["text"] for one in document["chunks"]] == chunks
    assert [text[slice(*one["span"])] for one in document["chunks"]] == chunks


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [{"text": "abc", "spans": [[0, 4]]}]}, "input[0]: spans[0] is (0, 4)"),
        ({"input": ["a", {"text": "abc", "chunks": ["x"]}]}, "input[1]: chunk 0, 'x', is no part"),
        ({"input": [{"text": "abc", "chunks": [" "]}]}, "input[0]: chunk 0 is blank"),
        ({"input": [{"text": "abc", "chunks": [], "spans": []}]}, "give one"),
        ({"input": [{"text": "abc", "spans": [[0]]}]}, "input.0.spans.0"),
        ({"input": [{"text": "abc", "spans": 1}]}, "input.0.spans: expected an array"),
        ({"input": [{"text": "abc", "spans": [1]}]}, "input.0.spans.0: expected an array"),
        ({"input": [{"text": "abc", "spans": [[0, 1, 2]]}]}, "The array should have at most 2"),
        ({"input": None}, "input.0: expected an object"),
        ({"input": [[1, 2]]}, "input.0"),
        ({"input": "abc", "split": {"by": "page"}}, "split.by"),
        ({"input": "abc", "split": {"characters": 1}}, "split.characters"),
    ],
)
def test_chunks_that_are_none_are_refused(
    client: httpx.Client, body: dict[str, Any], message: str
) -> None:
    assert message in refusal(post(client, "/v1/chunks", **body), 422)


def test_models_are_listed_with_a_name_for_each_task(
    client: httpx.Client, encoder: Encoder
) -> None:
    cards = client.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == [NAME, *(f"{NAME}@{task}" for task in encoder.tasks)]
    assert cards[0]["tasks"] == list(encoder.tasks)
    assert cards[0]["dimensions"] == list(encoder.dims)
    assert cards[0]["max_tokens"] == encoder.max_tokens
    assert client.get(f"/v1/models/{NAME}@separation").json() == cards[3]
    query = {"task": "separation", "dimensions": 8}
    found = client.get("/v1/fingerprint", params=query).json()
    assert found["fingerprint"] == encoder.fingerprint("separation", 8)
    refusal(client.get("/v1/fingerprint", params={"dimensions": "x"}), 422)


def test_a_large_reply_comes_in_pieces(client: httpx.Client, encoder: Encoder) -> None:
    texts = [f"file {number % 50}" for number in range(3000)]
    reply = post(client, input=texts, embedding_type="float")
    assert "content-length" not in reply.headers
    np.testing.assert_allclose(vectors_of(reply), encoder.encode(texts), atol=1e-6)
    assert "content-length" in post(client, input="one").headers


def test_requests_of_all_clients_share_batches(encoder: Encoder, client: httpx.Client) -> None:
    before = encoder.stats()
    with held(encoder), ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(post, client, input=f"file {n}") for n in range(8)]
        until(lambda: encoder.stats().lanes["query"].queued_rows == 8)
        release.set()
        assert all(call.result().status_code == 200 for call in calls)
    after = encoder.stats()
    assert after.texts - before.texts == 8
    assert after.batches - before.batches < 8


@pytest.mark.parametrize(
    ("task", "tokens", "lane"),
    [
        ("retrieval.query", 8000, "query"),
        ("retrieval.query", 9000, "bulk"),
        ("retrieval.passage", SMALL_TOKENS, "query"),
        (None, SMALL_TOKENS + 1, "bulk"),
    ],
)
def test_queries_and_small_requests_go_first(task: str | None, tokens: int, lane: str) -> None:
    assert lane_of(task, tokens) == lane


def test_a_full_server_says_when_to_come_again(encoder: Encoder) -> None:
    with (
        limited(encoder, requests=1) as client,
        held(encoder),
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(post, client, input="one")
        until(lambda: encoder.stats().lanes["query"].queued_rows == 1)
        busy = post(client, input="two")
        assert "1 requests are in progress" in refusal(busy, 429)
        assert 1 <= int(busy.headers["Retry-After"]) <= 30
        assert "1 requests are in progress" in refusal(client.get("/v1/fingerprint"), 429)
        assert client.get("/healthz").status_code == 200
        release.set()
        assert first.result().status_code == 200


def test_a_full_queue_is_busy(checkpoint: Any) -> None:
    with (
        Encoder.load(checkpoint, dtype="float32", queue_tokens=16) as encoder,
        limited(encoder) as client,
        held(encoder),
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(post, client, input=["file lock queue"] * 3)
        until(lambda: encoder.stats().lanes["query"].queued_rows > 0)
        busy = post(client, input="two")
        assert "lane is full" in refusal(busy, 429)
        assert int(busy.headers["Retry-After"]) >= 1
        release.set()
        assert first.result().status_code == 200


def test_a_deadline_ends_a_request_and_frees_its_rows(encoder: Encoder) -> None:
    with limited(encoder, deadline_s=0.3) as client, held(encoder):
        assert "no answer within 0.3 s" in refusal(post(client, input="one"), 504)
        assert encoder.stats().lanes["query"].queued_rows == 0


def test_a_client_that_hangs_up_frees_its_rows(encoder: Encoder, http_server: Server) -> None:
    cancelled = encoder.stats().lanes["query"].cancelled
    with held(encoder):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{http_server.url}/v1/embeddings",
                json={"model": NAME, "input": "one"},
                timeout=0.3,
            )
        until(lambda: encoder.stats().lanes["query"].cancelled == cancelled + 1)
        assert encoder.stats().lanes["query"].queued_rows == 0
    until(lambda: http_server.app.state.service.in_progress == 0)


def test_a_body_that_stops_half_way_ends_and_holds_nothing(encoder: Encoder) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with limited(encoder, pause_s=0.3) as client:
        place = (client.base_url.host, client.base_url.port)
        with socket.create_connection(place) as half:
            half.sendall(head + b'Content-Length: 99\r\n\r\n{"model":')
            reply = b"".join(iter(lambda: half.recv(65_536), b""))
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert b"no more of the body" in reply
        with socket.create_connection(place) as gone:
            gone.sendall(head + b'Content-Length: 99\r\n\r\n{"model":')
        assert post(client, input="one").status_code == 200
        hung_up = 'taskvec_requests_total{route="/v1/embeddings",status="499"}'
        until(lambda: scraped(client).get(hung_up) == 1)
        assert scraped(client)["taskvec_requests_in_progress"] == 0


def test_a_reader_that_stands_still_is_given_up(encoder: Encoder) -> None:
    body = json.dumps({"model": NAME, "input": ["file"] * 16_000}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with limited(encoder, pause_s=0.5) as client, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((client.base_url.host, client.base_url.port))
        slow.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        gone = 'taskvec_requests_total{route="/v1/embeddings",status="499"}'
        until(lambda: scraped(client).get(gone) == 1)
        assert scraped(client)["taskvec_requests_in_progress"] == 0


def test_metrics_tell_requests_queues_and_batches(encoder: Encoder) -> None:
    with limited(encoder) as client:
        post(client, input=TEXTS, task="separation")
        post(client, input="one", model="gpt")
        refused = 'taskvec_requests_total{route="/v1/embeddings",status="404"}'
        until(lambda: scraped(client).get(refused) == 1)  # counted once its reply is out
        figures = scraped(client)
        work = 'route="/v1/embeddings",task="separation"'
        assert figures['taskvec_requests_total{route="/v1/embeddings",status="200"}'] == 1
        assert figures[f'taskvec_request_texts_total{{lane="query",{work}}}'] == len(TEXTS)
        tokens = sum(encoder.count_tokens(TEXTS, task="separation"))
        assert figures[f'taskvec_request_tokens_total{{lane="query",{work}}}'] == tokens
        assert figures[f'taskvec_request_seconds_count{{lane="query",{work}}}'] == 1
        assert figures["taskvec_padding_tokens_total"] == 0
        stats = encoder.stats().lanes["query"]
        assert figures['taskvec_batches_total{lane="query"}'] == stats.batches
        assert figures['taskvec_queue_tokens{lane="query"}'] == 0


def test_logs_and_errors_hold_no_text(
    http_server: Server, client: httpx.Client, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    service = http_server.app.state.service

    async def broken(*_: Any) -> list[int]:
        raise RuntimeError(SECRET)

    with caplog.at_level(logging.DEBUG):
        served = post(client, input=SECRET, task="classification")
        post(client, input=SECRET, user=SECRET, dimensions=5)
        with monkeypatch.context() as patched:
            patched.setattr(type(service), "counts", broken)
            failed = post(client, input=SECRET)
        until(lambda: any(getattr(r, "taskvec", {}).get("status") == 500 for r in caplog.records))
    assert "the server failed" in refusal(failed, 500)
    assert SECRET not in failed.text
    lines = [
        JsonLines().format(record) for record in caplog.records if record.name == "taskvec.server"
    ]
    assert SECRET not in "".join(lines)
    [first] = [json.loads(line) for line in lines if served.headers["x-request-id"] in line]
    facts = {"route": "/v1/embeddings", "status": 200, "task": "classification", "lane": "query"}
    assert facts.items() <= first.items()
    assert first["texts"] == 1
    assert first["tokens"] > 0
    assert first["seconds"] > 0
    [failure] = [json.loads(line) for line in lines if "request failed" in line]
    assert failure["error"] == "RuntimeError"
    assert failure["id"] == failed.headers["x-request-id"]
    assert "test_server.py" in failure["at"][-1]


def test_keys_are_asked_for_everywhere_but_of_probes(encoder: Encoder) -> None:
    def status(path: str, key: str | bytes | None, kind: str = "Bearer") -> int:
        sent = key if isinstance(key, bytes) else f"{kind} {key}".encode()
        headers = {} if key is None else {"Authorization": sent}
        return client.get(path, headers=headers).status_code

    with (
        serving(encoder, keys=[KEY, OTHER_KEY]) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        for key in (None, "x", KEY[:-1], KEY + "k", b"\xff"):
            for path in ("/v1/models", "/v1/fingerprint", "/metrics", "/openapi.json", "/x"):
                assert status(path, key) == 401
        assert status("/v1/models", KEY, "Basic") == 401
        assert status("/v1/models", KEY) == status("/metrics", OTHER_KEY, "bearer") == 200
        assert status("/healthz", None) == status("/readyz", None) == 200
        refused = post(client, input="one")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer KEY" in refusal(refused, 401)


def test_keys_come_from_a_file_or_the_environment(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# team a\n{KEY}\n\n  {OTHER_KEY}  \n")
    assert read_keys(file) == [KEY, OTHER_KEY]
    file.write_text("# none\n")
    with pytest.raises(InputError, match="has no API key"):
        read_keys(file)
    assert read_keys(None) == []
    monkeypatch.setenv("TASKVEC_API_KEYS", f"{KEY}, {OTHER_KEY}")
    assert read_keys(None) == [KEY, OTHER_KEY]
    for empty in ("", " , "):
        monkeypatch.setenv("TASKVEC_API_KEYS", empty)
        with pytest.raises(InputError, match="TASKVEC_API_KEYS is set and has no API key"):
            read_keys(None)
    for bad in ("tiny-key", "with a space in the middle", "ключ-ключ-ключ-ключ"):
        wrong = "is too short" if bad == "tiny-key" else "has a space, or what is not ASCII"
        with pytest.raises(InputError, match=f"API key 2 {wrong}") as caught:
            Keys([KEY, bad])
        assert bad not in str(caught.value)


def test_only_loopback_is_open_to_everybody() -> None:
    for host in ("127.0.0.1", "localhost"):
        open_socket(host, 0, public=False).close()
    open_socket("0.0.0.0", 0, public=True).close()  # noqa: S104 - never listens
    for host in ("0.0.0.0", "0"):  # noqa: S104
        with pytest.raises(
            InputError, match=r"from other machines: .*keys=….*allow_anonymous=True"
        ):
            open_socket(host, 0, public=False)
    with pytest.raises(InputError, match="is no address to listen at"):
        open_socket("256.0.0.1", 0, public=False)
    with open_socket("127.0.0.1", 0, public=False) as taken:
        taken.listen()
        with pytest.raises(InputError, match=r"cannot listen at 127\.0\.0\.1 port"):
            open_socket("127.0.0.1", taken.getsockname()[1], public=False)


def test_a_body_may_not_be_larger_than_all_bodies() -> None:
    with pytest.raises(InputError, match=r"bodies_bytes is 9: a single body may have 10"):
        Limits(body_bytes=10, bodies_bytes=9)


@pytest.mark.parametrize(
    "limit", [{"items": 0}, {"deadline_s": -1}, {"tokens": True}, {"pause_s": "x"}]
)
def test_limits_are_numbers_above_zero(limit: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected a number above 0"):
        Limits(**limit)


@pytest.mark.parametrize("names", [(), ("",), ("a@b",)])
def test_names_have_no_task_in_them(encoder: Encoder, names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="without '@'"):
        create_app(encoder, names=names)


def test_a_server_that_is_about_to_end_is_not_ready(encoder: Encoder) -> None:
    with serving(encoder) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        assert "connection" not in post(client, input="one").headers
        server.app.state.service.draining = True
        refusal(client.get("/readyz"), 503)
        assert client.get("/healthz").status_code == 200
        last = post(client, input="one")
        assert (last.status_code, last.headers["connection"]) == (200, "close")


def test_what_is_cut_off_at_the_end_is_told_so(encoder: Encoder) -> None:
    body = json.dumps({"model": NAME, "input": "one"})
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with serving(encoder, grace_s=0.2) as server, held(encoder), ThreadPoolExecutor(1) as pool:
        place = httpx.URL(server.url)
        with (
            httpx.Client(base_url=server.url, timeout=30) as client,
            socket.create_connection((place.host, place.port), timeout=30) as half,
        ):
            waits = pool.submit(post, client, input="one")
            half.sendall(f"{head}Content-Length: 99\r\n\r\n{body}".encode())
            until(lambda: encoder.stats().lanes["query"].queued_rows == 1)
            until(lambda: server.app.state.service.in_progress == 2)
            server.http.should_exit = True
            reply = waits.result()
            assert "the server ends" in refusal(reply, 503)
            assert reply.headers["connection"] == "close"
            cut = b"".join(iter(lambda: half.recv(65_536), b""))
            assert cut.startswith(b"HTTP/1.1 503 ")
            assert b"the server ends" in cut
        assert encoder.stats().lanes["query"].queued_rows == 0


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_may_ask_for_the_head_alone(client: httpx.Client, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


def test_spans_tell_of_requests_and_continue_the_clients_trace(
    client: httpx.Client, spans: InMemorySpanExporter
) -> None:
    parent = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{parent}-b7ad6b7169203331-01"}
    body = {"model": NAME, "input": [SECRET], "task": "separation"}
    client.post("/v1/embeddings", json=body, headers=headers)
    until(lambda: len(spans.get_finished_spans()) == 2)
    encode, request = spans.get_finished_spans()
    assert (request.name, encode.name) == ("POST /v1/embeddings", "encode")
    assert f"{request.context.trace_id:032x}" == f"{encode.context.trace_id:032x}" == parent
    assert encode.parent
    assert encode.parent.span_id == request.context.span_id
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["taskvec.task"] == "separation"
    assert SECRET not in request.to_json() + encode.to_json()


@pytest.fixture(scope="module")
def provider() -> TracerProvider:
    made = TracerProvider()
    trace.set_tracer_provider(made)  # once for the process: there is no way back
    return made


@pytest.fixture
def spans(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()
