"""RemoteEncoder against a real HTTP server on loopback."""

import asyncio
import base64
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.core import Embedder, Encoder, RemoteEncoder, shared_encoder
from taskvec.core.embedder import Array
from taskvec.core.errors import (
    BusyError,
    InputError,
    LengthError,
    SizeError,
    TaskError,
    TaskvecError,
)
from taskvec.integrations.server import Limits
from tests.checkpoints import TASKS
from tests.remote_server import Server, serving

KEY = "a-key-of-the-tests"
WANTED = r"wants an API key \(401\): give RemoteEncoder\(url, api_key=…\), or set TASKVEC_API_KEY"
TEXTS = ["read the file", "", "a thread lock\x00", "query \ud800"]


@pytest.fixture(scope="module")
def server(encoder: Encoder) -> Iterator[Server]:
    with serving(encoder) as running:
        yield running


@pytest.fixture
def remote(server: Server) -> Iterator[RemoteEncoder]:
    server.seen.clear()
    server.keys.clear()
    with RemoteEncoder(server.url) as made:
        yield made
    server.answers.clear()


async def test_it_answers_as_the_encoder_behind_it(encoder: Encoder, remote: RemoteEncoder) -> None:
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
    np.testing.assert_allclose(
        remote.encode_chunks("read the file", spans, dim=8), chunks, atol=1e-6
    )
    awaited = await remote.aencode_chunks("read the file", spans, dim=8)
    np.testing.assert_allclose(awaited, chunks, atol=1e-6)
    assert remote.encode_chunks("text", []).shape == (0, 32)
    for task in (None, *TASKS):
        assert remote.fingerprint(task, 8) == encoder.fingerprint(task, 8)
    await remote.aclose()


def test_long_lists_are_split_and_keep_their_order(encoder: Encoder, server: Server) -> None:
    work = [f"file {i}" for i in range(25)]
    server.seen.clear()
    with RemoteEncoder(server.url, batch_size=4) as remote:
        got = remote.encode(work, task=["separation", "classification"] * 12 + [None])
    want = encoder.encode(work, task=["separation", "classification"] * 12 + [None])
    np.testing.assert_allclose(got, want, atol=1e-6)
    sizes = [len(asked["input"]) for path, asked in server.seen if path == "/v1/embeddings"]
    assert sizes == [4, 4, 4, 4, 4, 4, 1]


def test_a_busy_server_is_asked_again(remote: RemoteEncoder, server: Server) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    server.failures[:] = [429, 503]
    assert remote.encode("text").shape == (32,)
    assert len(server.seen) == 4


async def test_a_busy_server_is_asked_again_when_awaited(
    remote: RemoteEncoder, server: Server
) -> None:
    server.failures[:] = [429, 502]
    assert (await remote.aencode("text")).shape == (32,)
    await remote.aclose()


def test_a_server_that_stays_busy_is_given_up(server: Server) -> None:
    with RemoteEncoder(server.url, retries=1) as remote:
        server.failures[:] = [429, 429]
        with pytest.raises(BusyError, match="busy"):
            remote.encode("text")
    assert not server.failures


async def test_a_server_that_took_too_long_is_not_asked_again(
    remote: RemoteEncoder, server: Server
) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    server.failures[:] = [504, 504]
    with pytest.raises(BusyError, match=r"took too long \(504\)"):
        remote.encode("text")
    with pytest.raises(BusyError, match="took too long"):
        await remote.aencode("text")
    assert not server.failures
    await remote.aclose()


def test_refusals_and_failures_are_told_apart(remote: RemoteEncoder, server: Server) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    with pytest.raises(TaskError, match="unknown task 'x'"):
        remote.encode("text", task="x")
    assert len(server.seen) == 1, "bad input is refused here, not there"
    server.failures[:] = [500]
    with pytest.raises(TaskvecError, match="500") as caught:
        remote.encode("text")
    assert not isinstance(caught.value, InputError | LengthError)


def test_the_key_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.keys.clear()
    with RemoteEncoder(server.url, api_key="secret") as remote:
        remote.encode("text")
        assert "secret" not in repr(remote)
    monkeypatch.setenv("TASKVEC_API_KEY", "other")
    with RemoteEncoder(server.url) as remote:
        remote.encode("text")
    assert server.keys == ["Bearer secret"] * 2 + ["Bearer other"] * 2


async def test_a_key_that_is_put_right_counts_at_once(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TASKVEC_API_KEY", raising=False)
    with serving(encoder, keys=[KEY]) as server:
        for awaited in (False, True):
            early = TaskvecEmbeddings(model=server.url)
            with pytest.raises(TaskvecError, match=WANTED) as caught:
                early.embed_query("text")
            assert "Bearer" not in str(caught.value)
            monkeypatch.setenv("TASKVEC_API_KEY", KEY)
            late = TaskvecEmbeddings(model=server.url)
            made = await late.aembed_query("text") if awaited else late.embed_query("text")
            assert len(made) == 32
            shared = shared_encoder(server.url)
            assert shared is shared_encoder(server.url)
            assert KEY not in repr(shared)
            monkeypatch.delenv("TASKVEC_API_KEY")
        await shared.loaded.aclose()  # type: ignore[attr-defined]
        shared.loaded.close()  # type: ignore[attr-defined]
        shared_encoder(server.url).loaded.close()  # type: ignore[attr-defined]


def test_a_wrong_key_is_told_apart_from_none(encoder: Encoder) -> None:
    with (
        serving(encoder, keys=[KEY]) as server,
        RemoteEncoder(server.url, api_key="S3CRET") as remote,
        pytest.raises(TaskvecError, match=r"does not know the API key \(401\): give") as caught,
    ):
        remote.encode("text")
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize("adapter", [TaskvecEmbeddings, TaskvecEmbedding])
def test_an_adapter_says_where_a_key_goes_and_does_not_show_it(adapter: type) -> None:
    with pytest.raises(ValidationError, match=r"embedder=RemoteEncoder\(url, api_key=…") as caught:
        adapter(model="http://127.0.0.1:9", api_key=KEY)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.errors())
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_white_space_around_a_key_is_left_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.keys.clear()
    with RemoteEncoder(server.url, api_key="\tsecret \r\n") as remote:
        remote.encode("text")
    monkeypatch.setenv("TASKVEC_API_KEY", "other\n")
    with RemoteEncoder(server.url, api_key=" ") as remote:
        remote.encode("text")
    assert server.keys == ["Bearer secret"] * 2 + ["Bearer other"] * 2


@pytest.mark.parametrize("key", ["S3CRET\nx", "S3CRET x", "S3CRET\x00", "S3CRET\u20ac", b"S3CRET"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(
    key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"^api_key is .*expected") as caught:
        RemoteEncoder("http://127.0.0.1:9", api_key=key)
    assert "S3CRET" not in str(caught.value)
    monkeypatch.setenv("TASKVEC_API_KEY", "S3CRET x")
    with pytest.raises(InputError, match=r"^TASKVEC_API_KEY is none: expected") as caught:
        RemoteEncoder("http://127.0.0.1:9")
    assert "S3CRET" not in str(caught.value)


async def test_a_request_that_breaks_the_protocol_is_not_repeated_nor_shown(
    server: Server,
) -> None:
    bad = {"Authorization": "Bearer S3CRET\n"}
    with RemoteEncoder(server.url, retries=99) as remote:
        remote._client.headers.update(bad)
        remote._options["headers"] = bad
        with pytest.raises(TaskvecError, match="cannot be asked") as caught:
            remote.encode("text")
        with pytest.raises(TaskvecError, match="cannot be asked") as awaited:
            await remote.aencode("text")
        await remote.aclose()
    for error in (caught.value, awaited.value):
        assert "S3CRET" not in "".join(traceback.format_exception(error))


BAD_REPLIES = {
    "no data": {},
    "null": {"data": None},
    "no index": {"data": [{"embedding": ""}]},
    "too few": {"data": []},
    "floats": {"data": [{"index": 0, "embedding": [0.1]}]},
    "bad base64": {"data": [{"index": 0, "embedding": "?"}]},
    "other dim": {"data": [{"index": 0, "embedding": base64.b64encode(bytes(4)).decode()}]},
    "NaN": {"data": [{"index": 0, "embedding": base64.b64encode(b"\xff" * 128).decode()}]},
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_reply_that_does_not_fit_is_refused(
    remote: RemoteEncoder, server: Server, name: str
) -> None:
    remote.tasks  # noqa: B018 - asks for the model's card
    for path in ("/v1/embeddings", "/v1/chunks", "/v1/fingerprint"):
        server.answers[path] = BAD_REPLIES[name]
    for call in (
        lambda: remote.encode(["text"]),
        lambda: remote.encode_chunks("text", [(0, 4)]),
        remote.fingerprint,
    ):
        with pytest.raises(TaskvecError, match="no taskvec server"):
            call()


@pytest.mark.parametrize("card", [{}, {"data": [{"id": 5}]}, {"data": [{"id": "a"}]}])
def test_a_server_of_another_kind_is_refused(
    remote: RemoteEncoder, server: Server, card: dict[str, object]
) -> None:
    server.answers["/v1/models"] = card
    with pytest.raises(TaskvecError, match="no taskvec"):
        remote.encode("text")


def test_vectors_are_put_in_order(remote: RemoteEncoder, server: Server, encoder: Encoder) -> None:
    want = encoder.encode(["one", "two", "three"])
    rows = [base64.b64encode(row.tobytes()).decode() for row in want]
    data = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
    server.answers["/v1/embeddings"] = {"data": data[::-1]}
    np.testing.assert_array_equal(remote.encode(["one", "two", "three"]), want)


def test_a_url_with_the_version_is_told_to_leave_it_out(server: Server) -> None:
    with (
        RemoteEncoder(f"{server.url}/v1/") as remote,
        pytest.raises(InputError, match=r"/v1 refused the request \(404\): leave out /v1"),
    ):
        remote.encode("text")


def test_a_closed_one_says_so(server: Server) -> None:
    remote = RemoteEncoder(server.url)
    remote.close()
    with pytest.raises(BusyError, match="closed"):
        remote.encode("text")


def test_a_password_in_the_url_is_shown_nowhere() -> None:
    url = "http://bob:S3CRET@127.0.0.1:9/?api_key=S3CRET"
    with RemoteEncoder(url, retries=0) as remote:
        assert "S3CRET" not in repr(remote)
        with pytest.raises(TaskvecError) as caught:
            remote.encode("text")
    assert "http://127.0.0.1:9 cannot be reached" in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_nobody_there_is_said_so() -> None:
    with (
        RemoteEncoder("http://127.0.0.1:9", retries=0) as remote,
        pytest.raises(TaskvecError, match="cannot be reached"),
    ):
        remote.encode("text")


@pytest.mark.parametrize("url", ["ftp://host", "host:80", "", None])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="expected http"):
        RemoteEncoder(url)


@pytest.mark.parametrize(
    "option", [{"retries": -1}, {"batch_size": 0}, {"timeout_s": 0}, {"timeout_s": None}]
)
def test_bad_options_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected a (whole )?number"):
        RemoteEncoder("http://127.0.0.1:9", **option)


def test_it_waits_longer_than_a_server_works() -> None:
    with RemoteEncoder("http://127.0.0.1:9") as remote:
        timeout = remote._client.timeout
    assert timeout.read is not None
    assert timeout.connect is not None
    assert timeout.read > Limits().deadline_s + timeout.connect
    with RemoteEncoder("http://127.0.0.1:9", timeout_s=2) as remote:
        assert remote._client.timeout == httpx.Timeout(2)


def test_lists_of_long_texts_stay_within_a_servers_limits(encoder: Encoder) -> None:
    texts = ["file " * 12_000, "lock", "read " * 50_000, "socket " * 12_000] * 4
    limits = Limits(tokens=60_000, body_bytes=300_000)
    with serving(encoder, limits=limits) as server, RemoteEncoder(server.url) as remote:
        got = remote.encode(texts)
    np.testing.assert_allclose(got, encoder.encode(texts), atol=1e-6)


@pytest.mark.parametrize("limits", [Limits(items=10), Limits(tokens=60), Limits(body_bytes=400)])
async def test_a_batch_beyond_a_servers_limits_is_halved(encoder: Encoder, limits: Limits) -> None:
    texts = [f"file {i}" for i in range(45)]
    tasks = ["separation"] * 20 + ["text-matching"] * 25
    with serving(encoder, limits=limits) as server, RemoteEncoder(server.url) as remote:
        got = remote.encode(texts, task=tasks)
        awaited = await remote.aencode(texts, task=tasks)
        await remote.aclose()
        want = encoder.encode(texts, task=tasks)
        np.testing.assert_allclose(got, want, atol=1e-6)
        np.testing.assert_allclose(awaited, want, atol=1e-6)
        embeddings = TaskvecEmbeddings(embedder=remote)
        assert len(embeddings.embed_documents(texts)) == len(texts)


async def test_a_text_that_is_too_long_is_told_in_pythons_words(
    server: Server, encoder: Encoder
) -> None:
    texts = ["file", "lock", "the file " * 2000]
    words = (
        rf"texts\[2\] has 4\d+ tokens, the context holds {encoder.max_tokens}: send less, "
        'or overflow="truncate", or use encode_chunks$'
    )
    with RemoteEncoder(server.url, batch_size=2) as remote:
        with pytest.raises(LengthError, match=words):
            remote.encode(texts, overflow="error")
        with pytest.raises(LengthError, match=words):
            await remote.aencode(texts, overflow="error")
        await remote.aclose()


def test_what_no_halving_mends_is_asked_once(encoder: Encoder) -> None:
    limits = Limits(tokens=60, items=10)
    with serving(encoder, limits=limits) as server, RemoteEncoder(server.url) as remote:
        with pytest.raises(SizeError, match="tokens or more: a request may have 60"):
            remote.encode("file " * 100)
        with pytest.raises(SizeError, match="input has 11 chunks: a request may have 10"):
            remote.encode_chunks("a text", [(0, 4)] * 11)
        assert [path for path, _ in server.seen].count("/v1/embeddings") == 1


def test_an_unknown_model_names_what_is_served(server: Server) -> None:
    with (
        RemoteEncoder(server.url, model="large") as remote,
        pytest.raises(InputError, match=r"unknown model 'large'.*tiny"),
    ):
        remote.encode("text")


def test_a_shared_encoder_of_a_url_is_remote(server: Server, encoder: Encoder) -> None:
    shared = shared_encoder(server.url)
    np.testing.assert_allclose(shared.encode("text"), encoder.encode("text"), atol=1e-6)
    shared.loaded.close()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="options are the server's own"):
        shared_encoder(server.url, dtype="float32").encode("text")


def test_threads_and_loops_share_one(remote: RemoteEncoder, encoder: Encoder) -> None:
    want = encoder.encode(["text"] * 32)

    async def many() -> Array:
        got = await asyncio.gather(*(remote.aencode("text") for _ in range(8)))
        await remote.aclose()
        return np.stack(got)

    with ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(remote.encode, ["text"] * 32))
    np.testing.assert_allclose(np.stack(threads), want, atol=1e-6)
    for _ in range(2):
        np.testing.assert_allclose(asyncio.run(many()), want[:8], atol=1e-6)
