"""SageMaker's container contract: `/ping`, `/invocations`, the environment's settings."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from taskvec.core import Encoder
from taskvec.core.errors import CheckpointError, InputError, TaskvecError
from taskvec.integrations.server import Limits, create_app, sagemaker, serve_sagemaker
from taskvec.integrations.server.running import HttpServer
from taskvec.integrations.server.settings import Settings
from tests.asking import held, limited, refusal, until
from tests.remote_server import Server, serving

JSON, LINES = "application/json", "application/jsonlines"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
TEXTS = ["read the file", "a thread lock", "close the socket"]


def invoke(client: httpx.Client, body: Any, kind: str = JSON, **headers: str) -> httpx.Response:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    headers = {"Content-Type": kind} | {ATTRIBUTES: headers["given"]} if headers else {
        "Content-Type": kind
    }  # fmt: skip
    return client.post("/invocations", content=content, headers=headers)


def jsonl(*bodies: Any) -> str:
    return "\n".join(json.dumps(body) for body in bodies)


def vectors_of(reply: Any) -> np.ndarray:
    return np.array([one["embedding"] for one in reply["data"]], np.float32)


@pytest.mark.parametrize(
    "body",
    [
        {"input": TEXTS, "task": "retrieval.passage", "dimensions": 16},
        {"input": TEXTS, "model": "tiny@retrieval.query", "embedding_type": "base64"},
        {"input": TEXTS, "late_chunking": True},
        {"input": "a" * 9000, "truncate": True, "encoding_format": "ubinary"},
        {"input": ["one", 2]},
        {"input": "one", "task": "x"},
        {"input": "one", "dimensions": 9},
        {"input": "one", "colour": "red"},
        {},
    ],
)
def test_an_invocation_is_answered_as_embeddings_are(client: httpx.Client, body: Any) -> None:
    got = invoke(client, body)
    want = client.post("/v1/embeddings", json={"model": "tiny"} | body)
    assert got.status_code == want.status_code
    assert got.json() == want.json()


def test_the_other_routes_are_named_in_the_body(client: httpx.Client, encoder: Encoder) -> None:
    document = {"text": "read the file", "spans": [[0, 4], [5, 13]]}
    asked = {"input": [document], "task": "retrieval.passage", "return_text": True}
    got = invoke(client, {"route": "/v1/chunks"} | asked)
    assert got.json() == client.post("/v1/chunks", json={"model": "tiny"} | asked).json()
    assert len(got.json()["data"][0]["chunks"]) == 2
    models = invoke(client, {"route": "/v1/models"})
    assert models.json() == client.get("/v1/models").json()
    for task in (None, "separation"):
        found = invoke(client, {"route": "/v1/fingerprint", "task": task, "dimensions": 8}).json()
        assert found["fingerprint"] == encoder.fingerprint(task, 8)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{", 400, "the body is no JSON"),
        ('{"input": NaN}', 400, "the body is no JSON"),
        ("[1]", 422, "the body is an array: expected an object"),
        ('"x"', 422, "the body is a string: expected an object"),
        ({"route": "/metrics"}, 422, "unknown route '/metrics': use one of"),
        ({"route": ["x"]}, 422, "unknown route"),
        ({"input": "x", "split": {}}, 422, 'split is of another route: say "route": "/v1/chunks"'),
        ({"route": "/v1/models", "x": 1}, 422, "unknown field 'x': leave it out"),
        ({"route": "/v1/fingerprint", "model": "x"}, 404, "unknown model 'x'"),
        ({"input": "x", "model": "y"}, 404, "unknown model 'y'"),
    ],
)
def test_what_is_no_request_says_why(
    client: httpx.Client, body: Any, status: int, message: str
) -> None:
    assert message in refusal(invoke(client, body), status)


@pytest.mark.parametrize("kind", [LINES, "application/x-jsonlines", "application/jsonl"])
def test_each_line_gets_its_reply_in_order(
    client: httpx.Client, encoder: Encoder, kind: str
) -> None:
    bodies = [
        {"input": TEXTS[:2], "task": "retrieval.passage"},
        {"input": TEXTS[2], "dimensions": 8},
        {"route": "/v1/chunks", "input": {"text": "a b", "spans": [[0, 1]]}, "task": "separation"},
        {"route": "/v1/fingerprint", "dimensions": 8},
        *({"input": f"text {i}", "task": "separation"} for i in range(40)),
    ]
    reply = invoke(client, jsonl(*bodies) + "\r\n\n", f"{kind}; charset=utf-8")
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == kind
    assert reply.text.endswith("\n")
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert len(lines) == len(bodies)
    want = encoder.encode(TEXTS[:2], task="retrieval.passage")
    np.testing.assert_allclose(vectors_of(lines[0]), want, atol=1e-6)
    np.testing.assert_allclose(vectors_of(lines[1])[0], encoder.encode(TEXTS[2], dim=8), atol=1e-6)
    assert len(lines[2]["data"][0]["chunks"]) == 1
    assert lines[3]["fingerprint"] == encoder.fingerprint(None, 8)
    many = encoder.encode([f"text {i}" for i in range(40)], task="separation")
    got = np.concatenate([vectors_of(line) for line in lines[4:]])
    np.testing.assert_allclose(got, many, atol=1e-5)


def test_lines_share_batches(encoder: Encoder, client: httpx.Client) -> None:
    before = encoder.stats().batches
    bodies = [{"input": f"text {i}"} for i in range(200)]
    assert invoke(client, jsonl(*bodies), LINES).status_code == 200
    assert encoder.stats().batches - before < 100


def test_no_lines_are_no_replies(client: httpx.Client) -> None:
    reply = invoke(client, "\n", LINES)
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("{", 400, "line 2: the body is no JSON"),
        ("", 400, "line 2: the body is no JSON"),
        ("3", 422, "line 2: the body is a number: expected an object"),
        ('{"input": "x", "colour": 1}', 422, "line 2: unknown field 'colour'"),
        ('{"input": 1.5}', 422, "line 2: input is a number"),
        ('{"input": "x", "task": "y"}', 422, "line 2: unknown task 'y'"),
        ('{"input": "x", "model": "y"}', 404, "line 2: unknown model 'y'"),
        ('{"input": "x", "dimensions": 9}', 422, "line 2: "),
    ],
)
def test_a_bad_line_refuses_all_and_is_named(
    client: httpx.Client, line: str, status: int, message: str
) -> None:
    good = json.dumps({"input": "x"})
    reply = invoke(client, f"{good}\n{line}\n{good}", LINES)
    assert message in refusal(reply, status)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("{", 400),
        ('{"input": "x", "task": "y"}', 422),
        ('{"input": "x", "dimensions": 9}', 422),
        ('{"input": "x", "model": "y"}', 404),
    ],
)
def test_nothing_is_encoded_where_a_line_cannot_be_read(
    encoder: Encoder, client: httpx.Client, line: str, status: int
) -> None:
    before = encoder.stats().texts
    bodies = [json.dumps({"input": "x"})] * 20
    refusal(invoke(client, "\n".join([*bodies, line]), LINES), status)
    assert encoder.stats().texts == before


def test_a_ping_does_not_wait_for_all_lines(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Any] = []

    def slowly(_: Encoder, texts: list[str], **options: Any) -> list[int]:
        time.sleep(0.005)
        counted.append(options)
        return [3] * len(texts)

    monkeypatch.setattr(Encoder, "count_tokens", slowly)
    with ThreadPoolExecutor(1) as pool:
        lines = pool.submit(invoke, client, jsonl(*[{"input": "x"}] * 400), LINES)
        until(lambda: counted)
        assert client.get("/ping").status_code == 200
        assert len(counted) < 400
        assert lines.result().status_code == 200


def test_lines_may_begin_with_a_mark_of_their_encoding(client: httpx.Client) -> None:
    line = b'\xef\xbb\xbf{"input": "x"}'
    assert invoke(client, line + b"\r\n" + line[3:], LINES).text.count("\n") == 2
    assert invoke(client, line).status_code == 200


def test_other_separators_of_lines_are_text(client: httpx.Client) -> None:
    body = {"route": "/v1/chunks", "return_text": True, "input": "a\u2028b\x85c\u2029d"}
    line = json.dumps(body, ensure_ascii=False).encode()
    reply = invoke(client, line + b"\n" + line, LINES)
    lines = reply.content.split(b"\n")
    assert lines.pop() == b""
    texts = [json.loads(one)["data"][0]["chunks"][0]["text"] for one in lines]
    assert texts == [body["input"]] * 2


def test_the_limits_are_those_of_all_lines_together(encoder: Encoder) -> None:
    with limited(encoder, items=3, tokens=60) as client:
        one, two = {"input": "x"}, {"input": ["x", "y"]}
        assert invoke(client, jsonl(one, two), LINES).status_code == 200
        assert "input has 4 texts" in refusal(invoke(client, jsonl(two, two), LINES), 422)
        assert "input has 4 lines" in refusal(invoke(client, jsonl(*[one] * 4), LINES), 422)
        spans = {"route": "/v1/chunks", "input": {"text": "a b", "spans": [[0, 1], [2, 3]]}}
        assert invoke(client, jsonl(spans), LINES).status_code == 200
        refused = invoke(client, jsonl(spans, spans), LINES)
        assert "line 2: input has 4 chunks" in refusal(refused, 422)
        split = {"by": "sentence"}
        cut = {"route": "/v1/chunks", "input": "One. Two.", "split": split}
        assert invoke(client, jsonl(cut), LINES).status_code == 200
        refused = invoke(client, jsonl(cut, cut), LINES)
        assert "input has 4 chunks" in refusal(refused, 422)
        long = {"input": "open file " * 10}
        assert invoke(client, jsonl(long), LINES).status_code == 200
        message = refusal(invoke(client, jsonl(long, long, long), LINES), 422)
        assert message.endswith("all lines together have more than 60 tokens: send fewer")


def test_lines_beyond_the_queue_wait_for_room(checkpoint: Path) -> None:
    with (
        Encoder.load(checkpoint, dtype="float32", token_budget=64, queue_tokens=64) as small,
        serving(small) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        bodies = [{"input": f"open the file {i}"} for i in range(200)]
        reply = invoke(client, jsonl(*bodies), LINES)
        assert reply.status_code == 200, reply.text
        assert len(reply.text.splitlines()) == 200


def test_a_full_server_says_when_to_come_again(encoder: Encoder) -> None:
    with serving(encoder, limits=Limits(requests=1)) as server:
        server.app.state.service.in_progress = 1
        with httpx.Client(base_url=server.url) as client:
            reply = invoke(client, {"input": "x"})
            assert "try again later" in refusal(reply, 429)
            assert int(reply.headers["Retry-After"]) >= 1
            assert client.get("/ping").status_code == 200
        server.app.state.service.in_progress = 0


@pytest.mark.parametrize("kind", ["", "text/plain", "text/csv", "application/octet-stream"])
def test_other_content_types_are_refused(client: httpx.Client, kind: str) -> None:
    assert f"content type {kind!r}: send" in refusal(invoke(client, {"input": "x"}, kind), 415)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        (JSON, 200),
        ("application/*;q=0.5", 200),
        (f"text/csv, {LINES}", 200),
        ("", 200),
        ("text/csv;q=1, */*;q=0.1", 200),
        ("text/csv", 406),
        ("application/x-npy", 406),
        (f"{JSON};q=0", 406),
        ("text/csv, */*; q=0.0", 406),
    ],
)
def test_a_reply_is_json_or_none(client: httpx.Client, accept: str, status: int) -> None:
    headers = {"Content-Type": JSON, "Accept": accept}
    reply = client.post("/invocations", content=b'{"input": "x"}', headers=headers)
    assert reply.status_code == status


def test_custom_attributes_say_what_a_body_does_not(client: httpx.Client, encoder: Encoder) -> None:
    given = "trace=7; task=separation, dimensions=8"
    reply = invoke(client, {"input": "x"}, given=given)
    want = encoder.encode("x", task="separation", dim=8)
    np.testing.assert_allclose(vectors_of(reply.json())[0], want, atol=1e-6)
    assert reply.headers[ATTRIBUTES] == f"request-id={reply.headers['x-request-id']}"
    both = invoke(client, {"input": "x", "task": "classification"}, given=given)
    want = encoder.encode("x", task="classification", dim=8)
    np.testing.assert_allclose(vectors_of(both.json())[0], want, atol=1e-6)
    lines = invoke(client, jsonl({"input": "x"}), LINES, given="dimensions=8")
    assert len(json.loads(lines.text)["data"][0]["embedding"]) == 8
    assert invoke(client, {"input": "x"}, given="a0b1-no-pairs").status_code == 200
    assert "whole number" in refusal(invoke(client, {"input": "x"}, given="dimensions=x"), 422)


def test_the_default_task_is_for_those_that_name_none(encoder: Encoder) -> None:
    with (
        serving(encoder, default_task="clustering") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        for body, task in (
            ({}, "separation"),
            ({"task": None}, None),
            ({"task": "text-matching"}, "text-matching"),
            ({"model": "tiny@text-matching"}, "text-matching"),
        ):
            got = vectors_of(invoke(client, {"input": "x"} | body).json())[0]
            np.testing.assert_allclose(got, encoder.encode("x", task=task), atol=1e-6)
        plain = client.post("/v1/embeddings", json={"model": "tiny", "input": "x"})
        np.testing.assert_allclose(vectors_of(plain.json())[0], encoder.encode("x"), atol=1e-6)
    with pytest.raises(InputError, match="unknown task 'x'"):
        create_app(encoder, default_task="x")


def test_keys_are_asked_for_but_not_by_the_ping(encoder: Encoder) -> None:
    with (
        serving(encoder, keys=["k" * 16]) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("/ping").status_code == 200
        refusal(invoke(client, {"input": "x"}), 401)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_ping_is_empty_and_tells_of_the_end(
    http_server: Server, client: httpx.Client, method: str
) -> None:
    reply = client.request(method, "/ping")
    assert (reply.status_code, reply.content) == (200, b"")
    http_server.app.state.service.draining = True
    assert client.request(method, "/ping").status_code == 503
    http_server.app.state.service.draining = False


def test_bodies_of_all_invocations_have_a_bound(encoder: Encoder) -> None:
    with limited(encoder, body_bytes=2000, bodies_bytes=3000) as client:
        place = (client.base_url.host, client.base_url.port)
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(place) as half:
            half.sendall(head + b"Content-Length: 1900\r\n\r\n" + b" " * 1500)
            until(lambda: "taskvec_body_bytes 1500.0" in client.get("/metrics").text)
            reply = invoke(client, {"input": "x" * 1700})
            assert "bodies of 3000 bytes" in refusal(reply, 429)
            assert int(reply.headers["Retry-After"]) >= 1
            assert client.get("/ping").status_code == 200
            assert invoke(client, {"input": "x"}).status_code == 200


def test_an_invocation_that_is_cut_off_at_the_end_is_told_so(encoder: Encoder) -> None:
    with (
        serving(encoder, grace_s=0.2) as server,
        held(encoder),
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        waits = pool.submit(invoke, client, jsonl({"input": "x"}, {"input": "y"}), LINES)
        until(lambda: encoder.stats().lanes["query"].queued_rows == 2)
        server.http.should_exit = True
        assert "the server ends" in refusal(waits.result(), 503)
        until(lambda: encoder.stats().lanes["query"].queued_rows == 0)


def test_a_client_that_hangs_up_while_it_sends_is_no_failure(
    encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    # A server of its own: another test's failure makes the shared one suspect.
    with serving(encoder) as server, caplog.at_level("INFO", "taskvec.server"):
        place, service = httpx.URL(server.url), server.app.state.service
        with socket.create_connection((place.host, place.port)) as half:
            half.sendall(head + b"Content-Length: 100\r\n\r\n{")
            until(lambda: service.held_bytes == 1)
        # A test before may have left its server at work, whose lines are of other statuses.
        until(lambda: any(getattr(r, "taskvec", {}).get("status") == 499 for r in caplog.records))
        assert not [line for line in caplog.records if line.levelname in ("WARNING", "ERROR")]
        assert not service.suspect


class Broken:
    """An encoder whose model fails, as one does on a device that is lost, while `failing`."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.failing = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    async def aencode(self, *given: Any, **options: Any) -> Any:
        if self.failing:
            raise RuntimeError("device lost")
        return await self._encoder.aencode(*given, **options)


def test_the_ping_of_an_encoder_that_fails_is_503_until_it_works(encoder: Encoder) -> None:
    broken = Broken(encoder)
    with serving(broken) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/ping").status_code == 200, "nothing has failed yet"
        refusal(invoke(client, {"input": "x"}), 500)
        assert client.get("/ping").status_code == 503
        broken.failing = False
        assert client.get("/ping").status_code == 200
        broken.failing = True
        assert client.get("/ping").status_code == 200, "it is looked at once for each failure"


def packed(folder: Path, **variables: str) -> dict[str, str]:
    return {"SM_MODEL_DIR": str(folder), "SAGEMAKER_BIND_TO_PORT": "0"} | variables


def test_settings_come_from_the_environment(checkpoint: Path) -> None:
    read = Settings.read(packed(checkpoint))
    assert (read.model, read.name, read.grace_s) == (str(checkpoint), "taskvec", 24)
    assert read.limits == Limits(deadline_s=55)
    given = Settings.read(
        packed(
            checkpoint,
            TASKVEC_MODEL="starter",
            TASKVEC_NAME="docs",
            TASKVEC_DEVICE="cpu",
            TASKVEC_DTYPE="float32",
            TASKVEC_DEFAULT_TASK="separation",
            TASKVEC_MAX_BODY="10",
            TASKVEC_MAX_QUEUED_TOKENS="4096",
            TASKVEC_DEADLINE="7.5",
            TASKVEC_DRAIN="0",
            TASKVEC_LOG_LEVEL="debug",
            TASKVEC_PAUSE="",
        )
    )
    assert given == Settings(
        model="starter", name="docs", device="cpu", dtype="float32", default_task="separation",
        limits=Limits(body_bytes=10, deadline_s=7.5), queue_tokens=4096, drain_s=0, port=0,
        log_level="debug",
    )  # fmt: skip
    batch = {"SAGEMAKER_BATCH": "true", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "100"}
    limits = Settings.read(packed(checkpoint, **batch)).limits
    size = 100 << 20
    assert limits == Limits(deadline_s=3600, body_bytes=size, tokens=size, items=1 << 17)
    large = Settings.read(packed(checkpoint, TASKVEC_MAX_BODY=str(1 << 30))).limits
    assert large.bodies_bytes == 1 << 30
    both = {"TASKVEC_MAX_BODY": "10", "TASKVEC_MAX_BODIES": "20"}
    assert Settings.read(packed(checkpoint, **both)).limits.bodies_bytes == 20


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TASKVEC_MAXBODY", "1", "TASKVEC_MAXBODY is no setting of the container: use"),
        ("TASKVEC_API_KEYS", "k" * 16, "TASKVEC_API_KEYS is no setting of the container"),
        ("TASKVEC_MAX_BODY", "0", "TASKVEC_MAX_BODY is '0': expected a whole number above 0"),
        ("TASKVEC_MAX_BODY", "1e3", "TASKVEC_MAX_BODY is '1e3'"),
        ("TASKVEC_DEADLINE", "soon", "TASKVEC_DEADLINE is 'soon'"),
        ("TASKVEC_DEADLINE", "nan", "TASKVEC_DEADLINE is 'nan'"),
        ("TASKVEC_API_KEYS", "k" * 16, "-e TASKVEC_API_KEYS=… IMAGE serve starter --host 0.0.0.0`"),
        (
            "TASKVEC_API_KEY",
            "",
            "TASKVEC_API_KEY is no setting of the container: SageMaker sends no",
        ),
        ("TASKVEC_DRAIN", "-1", "TASKVEC_DRAIN is '-1'"),
        ("TASKVEC_LOG_LEVEL", "loud", "TASKVEC_LOG_LEVEL is 'loud': expected one of"),
        ("TASKVEC_MODEL", "http://x", "TASKVEC_MODEL is a URL"),
        ("SAGEMAKER_BIND_TO_PORT", "70000", "expected a port"),
    ],
)
def test_a_setting_that_is_none_is_named(
    checkpoint: Path, name: str, value: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        Settings.read(packed(checkpoint, **{name: value}))
    assert message in str(caught.value)


def test_a_folder_without_a_checkpoint_says_how_to_pack_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint: pack config\.json"):
        Settings.read(packed(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="pack what is in 'mine', and not that folder"):
        Settings.read(packed(tmp_path))


def served(environ: dict[str, str], urls: list[str], errors: list[Exception]) -> threading.Thread:
    """A thread that serves an environment."""

    def run() -> None:
        try:
            serve_sagemaker(environ, on_listening=urls.append)
        except TaskvecError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_model_that_cannot_be_loaded_ends_the_server_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    urls: list[str] = []
    errors: list[Exception] = []
    served(packed(tmp_path), urls, errors).join(60)
    assert isinstance(errors[0], CheckpointError), errors


def test_until_the_model_is_loaded_the_answer_is_503(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load, load = threading.Event(), Encoder.load
    servers: list[HttpServer] = []

    def slow(*given: Any, **options: Any) -> Encoder:
        assert may_load.wait(60)
        return load(*given, **options)

    class Noted(HttpServer):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            servers.append(self)

    monkeypatch.setattr(sagemaker.Encoder, "load", slow)
    monkeypatch.setattr(sagemaker, "HttpServer", Noted)
    urls: list[str] = []
    thread = served(packed(checkpoint, TASKVEC_DTYPE="float32"), urls, [])
    try:
        end = time.monotonic() + 30
        while not urls:
            assert time.monotonic() < end
            time.sleep(0.01)
        url = urls[0].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        reply = httpx.get(f"{url}/ping")
        assert (reply.status_code, reply.content) == (503, b"")
        refused = httpx.post(f"{url}/invocations", json={"input": "x"})
        assert refused.status_code == 503
        assert "being loaded" in refused.json()["detail"]
        may_load.set()
        while httpx.get(f"{url}/ping").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert httpx.post(f"{url}/invocations", json={"input": "x"}).status_code == 200
    finally:
        may_load.set()
        servers[0].should_exit = True
        thread.join(30)
