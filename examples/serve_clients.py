"""One server, and clients of three kinds that share its model: runs by itself, offline.

pip install 'taskvec[server,remote,langchain]' openai
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
from langchain_core.vectorstores import InMemoryVectorStore

from taskvec.adapters.langchain import TaskvecEmbeddings

PASSAGES = [
    "gzip.open() opens a compressed file in binary or text mode.",
    "heapq.nlargest() finds the n largest items.",
    "socket.create_connection() connects to a TCP service.",
]
QUESTION = "How do I read a compressed file?"


@contextmanager
def server(model: str) -> Iterator[str]:
    """The URL of `taskvec serve`, which would otherwise run in a terminal of its own."""
    command = [sys.executable, "-m", "taskvec.integrations.cli", "serve", model, "--port", "0"]
    with subprocess.Popen(  # noqa: S603
        [*command, "--log-level", "warning"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield line.partition(" at ")[2].partition("/v1")[0]
        finally:
            process.terminate()


def with_httpx(url: str) -> str:
    """Any language can: JSON in Jina's form, which names the task."""

    def ask(texts: list[str], task: str) -> list[list[float]]:
        body = {"model": "starter", "input": texts, "task": task, "dimensions": 128}
        reply = httpx.post(f"{url}/v1/embeddings", json=body).raise_for_status().json()
        return [one["embedding"] for one in reply["data"]]

    return best(ask([QUESTION], "retrieval.query")[0], ask(PASSAGES, "retrieval.passage"))


def with_openai(url: str) -> str:
    """OpenAI's client has no word for tasks, so the model's name has one."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:

        def ask(texts: list[str], task: str) -> list[list[float]]:
            reply = client.embeddings.create(model=f"starter@{task}", input=texts)
            return [one.embedding for one in reply.data]

        return best(ask([QUESTION], "retrieval.query")[0], ask(PASSAGES, "retrieval.passage"))


def with_langchain(url: str) -> str:
    """An adapter takes the URL where it would take a model; so do the other three."""
    store = InMemoryVectorStore(TaskvecEmbeddings(model=url, dim=128))
    store.add_texts(PASSAGES)
    return store.similarity_search(QUESTION, k=1)[0].page_content


def late_chunks(url: str) -> list[str]:
    """The server cuts a document, reads it as a whole, and sends the chunks' vectors."""
    document = "Ada joined the team in May. She wrote the parser. It handles nested tables."
    body = {"model": "starter", "input": document, "task": "retrieval.passage",
            "split": {"by": "sentence"}, "embedding_type": "base64"}  # fmt: skip
    reply = httpx.post(f"{url}/v1/chunks", json=body).raise_for_status().json()
    return [document[slice(*one["span"])] for one in reply["data"][0]["chunks"]]


def best(query: list[float], passages: list[list[float]]) -> str:
    """The passage whose vector is nearest to the query's."""
    scores = [sum(a * b for a, b in zip(query, passage, strict=True)) for passage in passages]
    return PASSAGES[scores.index(max(scores))]


if __name__ == "__main__":
    with server("starter") as url:
        print(QUESTION)
        for ask in (with_httpx, with_openai, with_langchain):
            print(f"  {ask.__name__:<15} {ask(url)}")
        print("late chunks:", *late_chunks(url), sep="\n  ")
