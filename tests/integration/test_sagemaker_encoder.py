"""SageMakerEncoder against the runtime API on loopback, and the real server behind it."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config

from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.core import Embedder, Encoder, SageMakerEncoder, shared_encoder
from taskvec.core.errors import (
    BusyError,
    InputError,
    LengthError,
    SizeError,
    TaskError,
    TaskvecError,
)
from taskvec.core.source import find
from taskvec.integrations.server import Limits
from tests.asking import held, release, until
from tests.checkpoints import TASKS
from tests.remote_server import Server
from tests.sagemaker_runtime import (
    BROKEN,
    ENDPOINT,
    LATE,
    OTHERS,
    REGION,
    Runtime,
    endpoint,
    settings,
)

TEXTS = ["read the file", "", "a thread lock\x00", "query \ud800"]


def test_the_documented_client_asks_a_container_here(http_server: Server, encoder: Encoder) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sagemaker.md").read_text()
    code = page.partition("## Trying it here")[2].partition("```py\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8080", http_server.url), found)  # noqa: S102 - our own page
    with found["encoder"] as here:
        got, want = (one.encode(TEXTS[0], dim=16) for one in (here, encoder))
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.fixture(scope="module")
def running(encoder: Encoder) -> Iterator[Runtime]:
    with endpoint(encoder, default_task="separation") as runtime:
        yield runtime


@pytest.fixture
def runtime(running: Runtime, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    for name, value in settings(running.url).items():
        monkeypatch.setenv(name, value)
    running.seen.clear()
    running.asked = 0
    return running


@pytest.fixture
def remote(runtime: Runtime) -> Iterator[SageMakerEncoder]:
    with SageMakerEncoder(ENDPOINT) as made:
        yield made
    runtime.container.answers.clear()


async def test_it_answers_as_the_encoder_behind_it(
    encoder: Encoder, runtime: Runtime, remote: SageMakerEncoder
) -> None:
    assert isinstance(remote, Embedder)
    assert (remote.tasks, remote.dims, remote.dim) == (encoder.tasks, encoder.dims, encoder.dim)
    assert remote.max_tokens == encoder.max_tokens
    tasks = [None, *TASKS[:3]]
    want = encoder.encode(TEXTS, task=tasks, dim=16)
    np.testing.assert_allclose(remote.encode(TEXTS, task=tasks, dim=16), want, atol=1e-6)
    np.testing.assert_allclose(await remote.aencode(TEXTS, task=tasks, dim=16), want, atol=1e-6)
    assert remote.encode("one").shape == (32,)
    assert remote.encode([], dim=8).shape == (0, 8)
    spans = [(0, 4), (4, 9)]
    chunks = encoder.encode_chunks("read the file", spans, dim=8)
    made = remote.encode_chunks("read the file", spans, dim=8)
    np.testing.assert_allclose(made, chunks, atol=1e-6)
    awaited = await remote.aencode_chunks("read the file", spans, dim=8)
    np.testing.assert_allclose(awaited, chunks, atol=1e-6)
    assert repr(remote) == f"<SageMakerEncoder sagemaker://{ENDPOINT}>"
    assert runtime.headers["content-type"] == runtime.headers["accept"] == "application/json"
    assert f"/{REGION}/sagemaker/aws4_request" in runtime.headers["authorization"]


@pytest.mark.parametrize("task", [None, *TASKS])
def test_the_fingerprint_is_the_encoders_whatever_the_container_takes_by_default(
    encoder: Encoder, remote: SageMakerEncoder, task: str | None
) -> None:
    assert remote.fingerprint(task, 8) == encoder.fingerprint(task, 8)


def test_no_task_is_none_though_the_container_has_one(
    encoder: Encoder, remote: SageMakerEncoder
) -> None:
    np.testing.assert_allclose(remote.encode("text"), encoder.encode("text"), atol=1e-6)


def test_long_lists_are_split_and_keep_their_order(encoder: Encoder, runtime: Runtime) -> None:
    work = [f"file {i}" for i in range(10)] + ["x" * 40_000, "y" * 40_000]
    with SageMakerEncoder(ENDPOINT, batch_size=4) as remote:
        got = remote.encode(work, task="separation")
    np.testing.assert_allclose(got, encoder.encode(work, task="separation"), atol=1e-5)
    assert [len(asked["input"]) for asked in runtime.seen[1:]] == [4, 4, 3, 1]


AGAIN = [
    "ThrottlingException", "ModelNotReadyException", "ServiceUnavailable", "InternalFailure",
    "InternalDependencyException", "BadGateway", BROKEN,
]  # fmt: skip


@pytest.mark.parametrize("code", AGAIN)
async def test_what_may_pass_is_asked_again(
    runtime: Runtime, remote: SageMakerEncoder, code: str
) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    runtime.asked = 0
    runtime.failures[:] = [code]
    assert remote.encode("text").shape == (32,)
    assert runtime.asked == 2, "botocore's own retries are off"
    runtime.failures[:] = [code]
    assert (await remote.aencode("text")).shape == (32,)
    assert runtime.asked == 4


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_busy_container_is_asked_again(
    runtime: Runtime, remote: SageMakerEncoder, status: int
) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    runtime.asked = 0
    runtime.container.failures[:] = [status]
    assert remote.encode("text").shape == (32,)
    assert runtime.asked == 2


def test_a_container_that_took_too_long_is_not_asked_to_do_it_again(
    runtime: Runtime, remote: SageMakerEncoder
) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    runtime.asked = 0
    runtime.container.failures[:] = [504]
    with pytest.raises(BusyError, match=r"took too long \(504\): told to fail"):
        remote.encode("text")
    runtime.failures[:] = [LATE]
    with pytest.raises(BusyError, match=r"took too long .*: Your invocation timed out while"):
        remote.encode("text")
    assert runtime.asked == 2


def test_a_container_that_is_no_taskvec_server_is_heard_out(
    runtime: Runtime, remote: SageMakerEncoder
) -> None:
    runtime.failures[:] = [OTHERS]
    with pytest.raises(InputError, match=r"refused the request \(422\): <p>none of ours</p>"):
        remote.encode("text")


def test_the_sessions_token_is_not_told(
    runtime: Runtime, remote: SageMakerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    canonical = "POST\nx-amz-security-token:sesame\n"
    monkeypatch.setattr(runtime, "said", f"It does not match. It should have been\n{canonical}")
    runtime.failures[:] = ["SignatureDoesNotMatch"]
    with pytest.raises(TaskvecError, match=r"failed \(403\): SignatureDoesNotMatch") as caught:
        remote.encode("text")
    assert "sesame" not in "".join(traceback.format_exception(caught.value))


def test_a_forked_process_gets_threads_and_connections_of_its_own(
    encoder: Encoder, remote: SageMakerEncoder
) -> None:
    want = encoder.encode("text", task=TASKS[0])
    asyncio.run(remote.aencode(["text"] * 3))  # starts threads, which a fork does not copy
    mine, reading = remote._client, os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
        child = os.fork()
    if child == 0:
        try:
            got = asyncio.run(asyncio.wait_for(remote.aencode("text", task=TASKS[0]), 20))
            same = remote._client is mine or not np.allclose(got, want, atol=1e-6)
            os.write(reading[1], b"no" if same else b"ok")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(reading[1])
    assert os.read(reading[0], 2) == b"ok"
    os.close(reading[0])
    assert remote._client is mine


def test_one_that_stays_busy_is_given_up(runtime: Runtime) -> None:
    with SageMakerEncoder(ENDPOINT, retries=1) as remote:
        runtime.container.failures[:] = [429, 429]
        with pytest.raises(BusyError, match=rf"sagemaker://{ENDPOINT} is busy \(429\): told to"):
            remote.encode("text")
    assert (runtime.asked, runtime.container.failures) == (2, [])


def test_a_client_that_retries_by_itself_is_not_retried_again(runtime: Runtime) -> None:
    retrying = Config(retries={"total_max_attempts": 2, "mode": "standard"})
    client = boto3.client("sagemaker-runtime", config=retrying)
    with SageMakerEncoder(ENDPOINT, client=client) as remote:
        remote.tasks  # noqa: B018 - asks for the model's card
        runtime.asked = 0
        runtime.failures[:] = ["ServiceUnavailable"] * 2
        with pytest.raises(BusyError, match="ServiceUnavailable"):
            remote.encode("text")
        assert runtime.asked == 2
        runtime.container.failures[:] = [429]
        assert remote.encode("text").shape == (32,), "botocore retries no ModelError"
        for code in ("ModelNotReadyException", "InternalDependencyException", BROKEN):
            runtime.asked, runtime.failures[:] = 0, [code]
            assert remote.encode("text").shape == (32,), code
            assert runtime.asked == 2
    client.close()


def test_boto3s_own_default_is_not_retried_again(runtime: Runtime) -> None:
    legacy = Config(retries={"mode": "legacy", "total_max_attempts": 2})
    client = boto3.client("sagemaker-runtime", config=legacy)
    with SageMakerEncoder(ENDPOINT, client=client) as remote:
        remote.tasks  # noqa: B018 - asks for the model's card
        runtime.asked, runtime.failures[:] = 0, ["ModelNotReadyException"] * 2
        with pytest.raises(BusyError, match="ModelNotReadyException"):
            remote.encode("text")
    assert runtime.asked == 2
    client.close()


def test_a_client_without_retries_gets_ours(runtime: Runtime) -> None:
    client = boto3.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
    with SageMakerEncoder(ENDPOINT, client=client) as remote:
        runtime.failures[:] = ["ServiceUnavailable"]
        assert remote.encode("text").shape == (32,)
    reply = client.invoke_endpoint(
        EndpointName=ENDPOINT, Body=b'{"input": "x"}', ContentType="application/json"
    )
    assert len(json.loads(reply["Body"].read())["data"]) == 1, "its owner closes it"
    client.close()


def test_refusals_and_failures_are_told_apart(runtime: Runtime, remote: SageMakerEncoder) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    runtime.asked = 0
    with pytest.raises(TaskError, match="unknown task 'x'"):
        remote.encode("text", task="x")
    assert runtime.asked == 0, "bad input is refused here, not there"
    with pytest.raises(LengthError, match=r"\(422\): texts\[0\] has \d+ tokens, the context holds"):
        remote.encode(["the file " * 2000], overflow="error")
    runtime.container.failures[:] = [500]
    with pytest.raises(TaskvecError, match=r"failed \(500\)") as caught:
        remote.encode("text")
    assert not isinstance(caught.value, InputError | BusyError)
    runtime.failures[:] = ["AccessDeniedException"]
    with pytest.raises(TaskvecError, match=r"failed \(403\): AccessDeniedException: told to fail"):
        remote.encode("text")
    with pytest.raises(InputError, match="unknown model 'other'"):
        SageMakerEncoder(ENDPOINT, model="other").encode("text")
    with pytest.raises(InputError, match="Endpoint nowhere of account 123456789012 not found"):
        SageMakerEncoder("nowhere").encode("text")


def test_no_reply_is_told_of_after_the_retries(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{port}")
    with (
        SageMakerEncoder(ENDPOINT, retries=1) as remote,
        pytest.raises(TaskvecError, match="cannot be reached: EndpointConnectionError"),
    ):
        remote.encode("text")


def test_without_keys_or_a_region_it_says_what_lacks(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(TaskvecError, match="cannot be asked: Unable to locate credentials"):
        SageMakerEncoder(ENDPOINT).encode("text")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(InputError, match="no region: give region="):
        SageMakerEncoder(ENDPOINT)


@pytest.mark.parametrize("answer", [{}, {"data": [{"index": 0, "embedding": "AAAA"}]}, [1]])
def test_what_is_no_reply_of_a_taskvec_server_is_refused(
    runtime: Runtime, remote: SageMakerEncoder, answer: Any
) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    runtime.container.answers["/invocations"] = answer
    with pytest.raises(TaskvecError, match="taskvec server"):
        remote.encode("text")


async def test_many_awaited_calls_each_get_their_own(
    encoder: Encoder, remote: SageMakerEncoder
) -> None:
    texts = [f"text {i}" for i in range(40)]
    got = await asyncio.gather(*(remote.aencode(text, task=TASKS[0]) for text in texts))
    np.testing.assert_allclose(got, encoder.encode(texts, task=TASKS[0]), atol=1e-5)


def test_callers_in_many_threads_keep_their_connections(
    encoder: Encoder, runtime: Runtime, remote: SageMakerEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    service = runtime.container.app.state.service
    with ThreadPoolExecutor(20) as pool, held(encoder):
        calls = [pool.submit(remote.encode, "text") for _ in range(20)]
        until(lambda: service.in_progress == 20)
        release.set()
        assert {call.result().shape for call in calls} == {(32,)}
    assert "urllib3.connectionpool" not in {record.name for record in caplog.records}


def test_events_of_a_url_that_is_none_show_no_more_than_its_scheme() -> None:
    payload = TaskvecEmbedding(model_name="sagemaker://user:sesame@[x").to_payload()
    assert payload["model_name"] == "sagemaker://…"


async def test_after_close_it_is_busy(runtime: Runtime) -> None:
    remote = SageMakerEncoder(ENDPOINT)
    await remote.aclose()
    with pytest.raises(BusyError, match="closed"):
        remote.encode("text")
    with pytest.raises(BusyError, match="closed"):
        await remote.aencode("text")


def test_its_url_is_a_model(encoder: Encoder, runtime: Runtime) -> None:
    shared = shared_encoder(f"sagemaker://{ENDPOINT}?region={REGION}&model=tiny")
    np.testing.assert_allclose(
        shared.encode("text", task=TASKS[0]), encoder.encode("text", task=TASKS[0]), atol=1e-6
    )
    assert runtime.seen[-1]["model"] == "tiny"
    with pytest.raises(InputError, match="are the server's own"):
        shared_encoder(f"sagemaker://{ENDPOINT}", device="cpu").encode("text")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sagemaker://", "endpoint_name is ''"),
        ("sagemaker://a_b", "endpoint_name is 'a_b'"),
        ("sagemaker://a/b", "endpoint_name is 'a/b'"),
        ("sagemaker://[a", r"endpoint_name is '\[a'"),
        ("sagemaker://a#b", "endpoint_name is 'a#b'"),
        ("sagemaker://a?region=", "sagemaker://a: give each option once, and a value with it"),
        ("sagemaker://a?model=x&model=y", "give each option once"),
        ("sagemaker://a?region=x.y/z", "doesn't match a supported format"),
        ("sagemaker://a?zone=x", r"has the options \['zone'\]: use \['inference_component'"),
    ],
)
def test_a_url_that_is_none_says_why(runtime: Runtime, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SageMakerEncoder.from_url(url)


def test_options_that_do_not_go_together_are_refused(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="give client or region"):
        SageMakerEncoder(ENDPOINT, client=object(), region=REGION)
    for options in ({"timeout_s": 0}, {"retries": -1}, {"batch_size": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            SageMakerEncoder(ENDPOINT, **options)
    with pytest.raises(TaskvecError, match="is a server: use RemoteEncoder, SageMakerEncoder"):
        find("sagemaker://x")


def test_without_boto3_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['boto3'] = sys.modules['botocore'] = None\n"
        "from taskvec.core import SageMakerEncoder\n"
        "try:\n    SageMakerEncoder('x')\n"
        "except ImportError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("pip install 'taskvec[sagemaker]'")


def test_a_list_beyond_the_containers_limits_is_halved(encoder: Encoder, runtime: Runtime) -> None:
    with endpoint(encoder, limits=Limits(items=2)) as small:
        client = boto3.client("sagemaker-runtime", endpoint_url=small.url)
        with SageMakerEncoder(ENDPOINT, client=client) as remote:
            made = remote.encode(["a", "b", "c"])  # in halves
            np.testing.assert_allclose(made, encoder.encode(["a", "b", "c"]), atol=1e-6)
            with pytest.raises(SizeError, match=r"\(422\): input has 3 chunks: a request may have"):
                remote.encode_chunks("a b c", [(0, 1), (2, 3), (4, 5)])
        client.close()
