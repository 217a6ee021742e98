"""Requests to a server under test, and what it answers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from taskvec.core import Encoder
from taskvec.integrations.server import Limits
from tests.remote_server import NAME, serving

AS_JSON = {"Content-Type": "application/json"}

release = threading.Event()


@contextmanager
def limited(encoder: Encoder, **limits: Any) -> Iterator[httpx.Client]:
    """A client of a server with limits of its own."""
    with (
        serving(encoder, limits=Limits(**limits)) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def post(client: httpx.Client, path: str = "/v1/embeddings", **body: Any) -> httpx.Response:
    return client.post(path, json={"model": NAME, **body})


def refusal(response: httpx.Response, status: int) -> str:
    """The message of an error in both APIs' forms."""
    assert response.status_code == status, response.text[:500]
    error: dict[str, str] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.json()["detail"] == error["message"]
    assert response.headers["x-request-id"]
    return error["message"]


@contextmanager
def held(encoder: Encoder) -> Iterator[None]:
    """The encoder's model, kept from running until `release` is set or the block ends."""
    release.clear()
    holding = threading.Event()

    def hold() -> None:
        with encoder._engine.exclusively():  # as a change of tasks does
            holding.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    try:
        yield
    finally:
        release.set()
        thread.join()


def until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def scraped(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
