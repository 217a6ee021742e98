"""The example that deploys, against SageMaker's two APIs on loopback."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ParamValidationError

from taskvec.core import Encoder
from tests.sagemaker_runtime import ENDPOINT, Runtime, endpoint, settings

EXAMPLE = Path(__file__).parents[2] / "examples" / "sagemaker_deploy.py"
MAKING = ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
CLEANUP = ["DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel"]
GIVEN = ["--image", "i", "--role", "arn:aws:iam::123456789012:role/taskvec", "--model", "s3://b/m/"]


class Control:
    """SageMaker's own API. asked: operations and their parameters. failing: one that is refused."""

    def __init__(self, failing: str | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.failing = failing

    def answer(self, operation: str, parameters: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append((operation, parameters))
        if operation == self.failing:
            return 400, {"__type": "ResourceLimitExceeded", "message": "no instances left"}
        if operation == "DescribeEndpoint":
            return 200, {"EndpointStatus": "InService", "EndpointName": ENDPOINT}
        return 200, {}


@contextmanager
def answering(control: Control) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            operation = self.headers["X-Amz-Target"].removeprefix("SageMaker.")
            status, reply = control.answer(operation, body)
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def runtime(encoder: Encoder) -> Iterator[Runtime]:
    with endpoint(encoder) as running:
        yield running


def deploy(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *options],
        env=environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_makes_asks_and_takes_down_an_endpoint(runtime: Runtime) -> None:
    control = Control()
    with answering(control) as url:
        variables = settings(runtime.url) | {"AWS_ENDPOINT_URL_SAGEMAKER": url}
        options = ["--deploy", *GIVEN, "--name", ENDPOINT, "--env", "TASKVEC_DTYPE=float32"]
        run = deploy(*options, **variables)
    assert run.returncode == 0, run.stderr
    assert [name for name, _ in control.asked] == [*MAKING, "DescribeEndpoint", *CLEANUP]
    container = control.asked[0][1]["PrimaryContainer"]
    assert container["Environment"] == {"TASKVEC_DTYPE": "float32"}
    source = {"S3Uri": "s3://b/m/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    assert container["ModelDataSource"] == {"S3DataSource": source}
    assert "how do I parse JSON? " in run.stdout


def test_what_was_made_before_a_failure_is_taken_down(runtime: Runtime) -> None:
    control = Control(failing="CreateEndpoint")
    with answering(control) as url:
        variables = settings(runtime.url) | {"AWS_ENDPOINT_URL_SAGEMAKER": url}
        run = deploy("--deploy", *GIVEN, "--name", ENDPOINT, **variables)
    assert "no instances left" in run.stderr
    assert [name for name, _ in control.asked] == [*MAKING, *CLEANUP[1:]]


def test_a_dry_run_shows_requests_of_the_apis_shape_and_needs_no_account() -> None:
    run = deploy("--dry-run", "--model", "s3://b/m.tar.gz", "--env", "TASKVEC_DTYPE=float32")
    assert run.returncode == 0, run.stderr
    assert '"CompressionType": "Gzip"' in run.stdout
    assert run.stdout.startswith(f"{MAKING[0]} {{")
    assert all(f"{operation} {{" in run.stdout for operation in [*MAKING, *CLEANUP])


def test_a_request_of_another_shape_is_refused() -> None:
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLE)))
    with pytest.raises(ParamValidationError, match="ModelName"):
        example.check("CreateModel", {"ModelName": 7})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--deploy"], "--deploy needs --image, such as 1234"),
        (["--model", "./my-model"], "--model './my-model': expected s3://…/ of a folder, or s3"),
        (["--model", "s3://b/x"], "--model 's3://b/x': expected"),
        (["--role", "nope"], "CreateModel would be refused: Parameter validation failed: "),
        (["--env", "X"], "--env 'X': expected NAME=VALUE"),
        (["--deploy", "--dry-run"], "not allowed with argument"),
    ],
)
def test_what_lacks_is_named(options: list[str], message: str) -> None:
    run = deploy(*options)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr
