"""The server as a process of its own: its command line, its end under load, and odd requests."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from taskvec.core import Encoder, RemoteEncoder
from taskvec.integrations.cli import main
from taskvec.integrations.cli.commands.serve import names_of
from taskvec.integrations.cli.parser import run_command_line
from taskvec.integrations.server import Limits
from taskvec.integrations.server.embeddings import listing
from taskvec.integrations.server.metrics import Metrics
from taskvec.integrations.server.running import HttpServer
from tests.remote_server import NAME, Server

KEY = "key-of-the-command-line-tests"
TEXTS = ["read the file " * 100, "close the socket"] * 8  # long enough to be in progress


@contextmanager
def process(*options: str, **environment: str) -> Iterator[tuple[Any, str]]:
    """`taskvec serve …` and the URL that it answers at."""
    command = [sys.executable, "-m", "taskvec.integrations.cli", "serve", "--port", "0", *options]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running: Any
    with subprocess.Popen(command, env=os.environ | environment, **pipes) as running:
        try:
            line = running.stdout.readline()
            found = re.search(r"http://\S+?(?=/v1)", line)
            assert found, line + running.stderr.read()
            yield running, found[0]
        finally:
            running.kill()


class Load:
    """Threads that ask again and again, until they are refused a connection.

    answered: ids of the requests that got a whole reply, which is checked.
    """

    def __init__(self, url: str, want: np.ndarray) -> None:
        self.answered: list[str] = []
        self._url = f"{url}/v1/embeddings"
        self._want = want
        self._threads = [threading.Thread(target=self._ask) for _ in range(8)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        body = {"model": NAME, "input": TEXTS}
        with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as client:
            while True:
                try:
                    reply = client.post(self._url, json=body)
                except httpx.TransportError:
                    return  # not served, as the server's log must agree
                assert reply.status_code == 200, reply.text
                data = [one["embedding"] for one in reply.json()["data"]]
                np.testing.assert_allclose(np.array(data, np.float32), self._want, atol=1e-5)
                self.answered.append(reply.headers["x-request-id"])

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_the_end_under_load_loses_no_request(
    checkpoint: Path, encoder: Encoder, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# clients\n{KEY}\n")
    options = (str(checkpoint), "--name", NAME, "--api-key-file", str(keys), "--dtype", "float32")
    with process(*options, "--drain", "0.5") as (running, url):
        load = Load(url, encoder.encode(TEXTS))
        end = time.monotonic() + 30
        while len(load.answered) < 24:
            assert time.monotonic() < end
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        log = running.stderr.read()
        assert running.wait(30) == 0
        load.join()
    lines = [json.loads(line) for line in log.splitlines()]
    served = [line["id"] for line in lines if line.get("route") == "/v1/embeddings"]
    assert sorted(served) == sorted(load.answered)
    assert {line["status"] for line in lines if "status" in line} == {200}
    assert KEY not in log
    assert TEXTS[1] not in log


def test_keys_of_the_environment_and_a_second_signal(checkpoint: Path) -> None:
    environment = {"TASKVEC_API_KEYS": KEY, "TASKVEC_API_KEY": KEY}
    with process(str(checkpoint), "--log-level", "warning", **environment) as (running, url):
        with RemoteEncoder(url, api_key=KEY) as remote:
            assert remote.encode("text").shape == (32,)
        assert httpx.get(f"{url}/v1/models").status_code == 401
        place = httpx.URL(url)
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        head += b"Content-Type: application/json\r\n"
        with socket.create_connection((place.host, place.port)) as half:
            half.sendall(head + f"Authorization: Bearer {KEY}\r\n\r\n".encode())
            time.sleep(0.2)
            running.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(1)
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0


def test_the_first_line_tells_of_names_and_keys(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpServer, "serve_until_told", lambda self: self._on_listening(self.url))
    monkeypatch.delenv("TASKVEC_API_KEYS", raising=False)
    monkeypatch.setenv("TASKVEC_API_KEY", KEY)
    options = ["serve", str(checkpoint), "--port", "0", "--name", "a", "--name", "b"]

    assert main(options) == 0
    said = capsys.readouterr()
    assert re.match(r"serving 'a', 'b' at http://127.0.0.1:\d+/v1, without API keys;", said.out)
    assert "TASKVEC_API_KEY is what clients send" in json.loads(said.err)["event"]

    monkeypatch.setenv("TASKVEC_API_KEYS", f"{KEY} {KEY}2")
    assert main([*options, "--playground", "--host", "0.0.0.0"]) == 0  # noqa: S104
    said = capsys.readouterr()
    assert re.search(r"http://0.0.0.0:\d+/v1, with 2 API keys;", said.out)
    assert re.search(r"try it at http://127.0.0.1:\d+/playground\n", said.out)
    assert said.err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines: give API keys (--api"),  # noqa: S104
        (["--port", "70000"], "'70000' is not a port"),
        (["--prot", "1"], "--prot: did you mean --port? (see taskvec serve --help)"),
        (["starter", "colour"], "unrecognized arguments: colour (see taskvec serve --help)"),
        (["--max-items", "0"], "'0' is not a whole number"),
        (["--deadline", "-1"], "'-1' is not a number above 0"),
        (["http://127.0.0.1:9"], "a URL: a server serves weights"),
        (["missing"], "no model 'missing': give 'starter', a folder, or a hub id such as 'jina"),
        (["."], ". holds no checkpoint: expected config.json, tokenizer.json and *.safetensors"),
        (["~nobody/x"], "no model '~nobody/x': give"),
        (["outer"], "outer holds no checkpoint: give 'outer/inner'"),
        (["--api-key-file", "nowhere"], "nowhere: no such file"),
        (["--port", "0", "nowhere"], "nowhere"),
        (["--port", "0", "--dtype", "float8"], "float8"),
    ],
)
def test_what_cannot_be_started_says_why(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "config.json").touch()
    assert main(["serve", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("taskvec: ")
    assert err.count("\n") == 1
    assert message in err


def test_the_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command_line(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    names = {
        "body_bytes": "max-body",
        "bodies_bytes": "max-bodies",
        "deadline_s": "deadline",
        "pause_s": "pause",
    }
    for name, default in asdict(Limits()).items():
        option = names.get(name, f"max-{name}")
        assert re.search(rf"--{option} (N|SECONDS) [^-]*\(default: {default:g}\)|"
                         rf"--{option} N [^-]*\(default: {default}\)", shown), option  # fmt: skip


def test_a_model_is_called_by_the_last_part_of_its_name(checkpoint: Path) -> None:
    assert names_of("starter") == ["starter"]
    assert names_of(str(checkpoint)) == [checkpoint.name]
    assert names_of("jinaai/jina-embeddings-v3") == [
        "jina-embeddings-v3",
        "jinaai/jina-embeddings-v3",
    ]


def test_no_request_of_the_schema_breaks_the_server(http_server: Server) -> None:
    schema: Any = schemathesis.openapi.from_url(f"{http_server.url}/openapi.json")
    answered = set()
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            # What has no body can hardly be wrong.
            for mode in list(GenerationMode)[: 2 if operation.method == "post" else 1]:

                @settings(
                    max_examples=10,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def check(case: Any) -> None:
                    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                        case.body["model"] = NAME  # which no example would hit upon
                    reply = case.call_and_validate(checks=[not_a_server_error], session=session)
                    answered.add((case.path, reply.status_code))

                check()
    assert {("/v1/embeddings", 200), ("/v1/embeddings", 422), ("/v1/chunks", 200)} <= answered


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 80_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_nothing_else_suffers(
    http_server: Server, sent: bytes
) -> None:
    place = httpx.URL(http_server.url)
    with socket.create_connection((place.host, place.port), timeout=10) as raw:
        raw.sendall(sent)
        assert raw.recv(12).startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{http_server.url}/healthz").status_code == 200


def test_connections_are_kept_for_the_next_request(http_server: Server) -> None:
    with httpx.Client(base_url=http_server.url) as client:
        streams = set()
        for _ in range(3):
            reply = client.post("/v1/embeddings", json={"model": NAME, "input": "one"})
            streams.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
            reply = client.post("/v1/embeddings", json={"model": NAME, "input": [1]})
            streams.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(streams) == 1


def test_the_text_of_a_large_reply_is_never_in_memory_as_a_whole() -> None:
    vectors = np.random.default_rng(0).standard_normal((1000, 1024), np.float32)
    pieces: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        pieces.append(len(message.get("body", b"")))

    reply = listing("tiny", vectors, "float", 1)
    tracemalloc.start()
    asyncio.run(reply({}, None, send))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(pieces) > 8e6
    assert peak < 2e6


def test_metrics_of_two_servers_are_apart(encoder: Encoder) -> None:
    one, two = Metrics(encoder), Metrics(encoder)
    one.in_progress.set(1)
    assert b"taskvec_requests_in_progress 1.0" in one.text()
    assert b"taskvec_requests_in_progress 0.0" in two.text()
