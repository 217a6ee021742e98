"""Unmodified clients of Jina's and OpenAI's API against the server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.jinaai import JinaEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding

from taskvec.core import Encoder
from taskvec.integrations.server import Limits
from tests.asking import held
from tests.remote_server import NAME, Server, serving

KEY = "key-of-the-clients-tests"
QUERY, PASSAGE = "retrieval.query", "retrieval.passage"
TEXTS = ["read the file", "close the socket", "a thread lock"]


@pytest.fixture(scope="module")
def server(encoder: Encoder) -> Iterator[Server]:
    with serving(encoder, keys=[KEY]) as running:
        yield running


@pytest.fixture
def base(server: Server) -> str:
    server.seen.clear()
    return f"{server.url}/v1"


def close(got: object, want: object) -> None:
    np.testing.assert_allclose(np.array(got, np.float32), want, atol=1e-6)


@asynccontextmanager
async def connections() -> AsyncIterator[tuple[Any, Any]]:
    """HTTP clients that are closed at the end, which those of some frameworks never are."""
    with openai.DefaultHttpxClient() as client:
        async with openai.DefaultAsyncHttpxClient() as awaited:
            yield client, awaited


def sent(server: Server) -> dict[str, object]:
    """The last body that came."""
    return server.seen[-1][1]


def test_openai(base: str, server: Server, encoder: Encoder) -> None:
    with openai.OpenAI(base_url=base, api_key=KEY) as client:
        assert [model.id for model in client.models.list()][:2] == [NAME, f"{NAME}@{QUERY}"]
        assert client.models.retrieve(NAME).id == NAME
        reply = client.embeddings.create(model=f"{NAME}@{QUERY}", input=TEXTS, dimensions=16)
        assert sent(server)["encoding_format"] == "base64"
        close([one.embedding for one in reply.data], encoder.encode(TEXTS, task=QUERY, dim=16))
        assert reply.usage.total_tokens == sum(encoder.count_tokens(TEXTS, task=QUERY))
        floats = client.embeddings.create(model=NAME, input="one", encoding_format="float")
        close(floats.data[0].embedding, encoder.encode("one"))
        more = {"task": PASSAGE, "late_chunking": True}
        late = client.embeddings.create(model=NAME, input=["one ", "two"], extra_body=more)
        want = encoder.encode_chunks("one two", [(0, 4), (4, 7)], task=PASSAGE)
        close([one.embedding for one in late.data], want)


async def test_openai_awaited(base: str, encoder: Encoder) -> None:
    async with openai.AsyncOpenAI(base_url=base, api_key=KEY) as client:
        calls = (client.embeddings.create(model=NAME, input=[text]) for text in TEXTS * 4)
        replies = await asyncio.gather(*calls)
    close([reply.data[0].embedding for reply in replies], encoder.encode(TEXTS * 4))


def test_openai_asks_once_where_the_deadline_was_not_enough(encoder: Encoder) -> None:
    with (
        serving(encoder, limits=Limits(deadline_s=0.2)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client,
        held(encoder),
    ):
        with pytest.raises(openai.InternalServerError, match=r"no answer within 0\.2 s"):
            client.embeddings.create(model=NAME, input="one")
        assert len(server.seen) == 1


def test_openais_errors(base: str) -> None:
    with openai.OpenAI(base_url=base, api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="unknown model 'gpt'"):
            client.embeddings.create(model="gpt", input="one")
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.embeddings.create(model=NAME, input="one", dimensions=5)
        assert caught.value.type == "invalid_request_error"
        with pytest.raises(openai.UnprocessableEntityError, match="token id"):
            client.embeddings.create(model=NAME, input=[1, 2, 3])
    with (
        openai.OpenAI(base_url=base, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="no valid API key"),
    ):
        client.embeddings.create(model=NAME, input="one")


def test_openai_comes_again_to_a_busy_server(base: str, server: Server) -> None:
    with openai.OpenAI(base_url=base, api_key=KEY) as client:
        server.failures[:] = [429]
        assert client.embeddings.create(model=NAME, input="one").data
    assert len(server.seen) == 2


async def test_langchain_openai(base: str, encoder: Encoder) -> None:
    async with connections() as own:

        def made(task: str) -> OpenAIEmbeddings:
            return OpenAIEmbeddings(
                model=f"{NAME}@{task}",
                base_url=base,
                api_key=KEY,
                check_embedding_ctx_length=False,
                http_client=own[0],
                http_async_client=own[1],
            )

        close(made(QUERY).embed_query(TEXTS[0]), encoder.encode(TEXTS[0], task=QUERY))
        want = encoder.encode(TEXTS, task=PASSAGE)
        close(made(PASSAGE).embed_documents(TEXTS), want)
        close(await made(PASSAGE).aembed_documents(TEXTS), want)


async def test_langchain_openai_with_token_ids_is_told_what_to_do(base: str) -> None:
    """What it sends with check_embedding_ctx_length=True, without fetching an encoding."""
    told = pytest.raises(openai.UnprocessableEntityError, match="check_embedding_ctx_length=False")
    async with connections() as (client, _):
        embeddings = OpenAIEmbeddings(model=NAME, base_url=base, api_key=KEY, http_client=client)
        with told:
            embeddings.client.create(input=[[15339, 1917]], **embeddings._invocation_params)


async def test_llama_index_openai(base: str, encoder: Encoder) -> None:
    async with connections() as own:
        embedding = OpenAIEmbedding(
            model_name=f"{NAME}@{PASSAGE}",
            api_base=base,
            api_key=KEY,
            dimensions=16,
            http_client=own[0],
            async_http_client=own[1],
        )
        want = encoder.encode(TEXTS, task=PASSAGE, dim=16)
        close(embedding.get_text_embedding_batch(TEXTS), want)
        close(await embedding.aget_text_embedding(TEXTS[0]), want[0])
        close(embedding.get_query_embedding(TEXTS[0]), want[0])


async def test_llama_index_jinaai(base: str, server: Server, encoder: Encoder) -> None:
    def made(**options: object) -> JinaEmbedding:
        embedding = JinaEmbedding(model=NAME, api_key=KEY, **options)
        embedding._api.api_url = f"{base}/embeddings"
        return embedding

    embedding = made(task=PASSAGE, dimensions=16)
    want = encoder.encode(TEXTS, task=PASSAGE, dim=16)
    close(embedding.get_text_embedding_batch(TEXTS), want)
    assert sent(server)["encoding_type"] == "float"
    close(await embedding.aget_text_embedding(TEXTS[0]), want[0])
    late = made(task=PASSAGE, late_chunking=True).get_text_embedding_batch(["one ", "two"])
    close(late, encoder.encode_chunks("one two", [(0, 4), (4, 7)], task=PASSAGE))
    for kind in ("binary", "ubinary"):
        bits = made(encoding_documents=kind).get_text_embedding(TEXTS[0])
        np.testing.assert_array_equal(bits, encoder.encode(TEXTS[0]) > 0)
    with pytest.raises(RuntimeError, match="unknown dim 5"):
        made(dimensions=5).get_text_embedding("one")
    embedding._api._session.close()


@pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")
def test_langchain_community_jina(
    base: str, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import langchain_community.embeddings.jina as community

    monkeypatch.setattr(community, "JINA_API_URL", f"{base}/embeddings")
    embeddings = community.JinaEmbeddings(model_name=f"{NAME}@{PASSAGE}", jina_api_key=KEY)
    want = encoder.encode(TEXTS, task=PASSAGE)
    close(embeddings.embed_documents(TEXTS), want)
    close(embeddings.embed_query(TEXTS[0]), want[0])
    embeddings.session.close()


def test_jina_haystack(base: str, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")  # read when it is imported
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.jina import (
        JinaDocumentEmbedder,
        JinaTextEmbedder,
    )

    own = {"api_key": Secret.from_token(KEY), "model": NAME, "base_url": f"{base}/embeddings"}
    of_queries = JinaTextEmbedder(task=QUERY, dimensions=16, **own)
    query = of_queries.run(TEXTS[0])
    close(query["embedding"], encoder.encode(TEXTS[0], task=QUERY, dim=16))
    documents = [Document(content=text) for text in TEXTS]
    of_documents = JinaDocumentEmbedder(task=PASSAGE, progress_bar=False, **own)
    found = of_documents.run(documents)
    want = encoder.encode(TEXTS, task=PASSAGE)
    close([document.embedding for document in found["documents"]], want)
