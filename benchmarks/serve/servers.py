"""Servers in processes of their own, on CPUs of their own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.options import TUNED_MALLOC
from benchmarks.worker import ROOT

START_S, END_S = 300.0, 60.0
NAME = "bench"
HOST = "127.0.0.1"


class ServerError(Exception):
    """A server did not start; the message says which, and its last words."""


@dataclass(frozen=True)
class Place:
    """Where servers run. cpus: that they may use, none for all. folder: of their logs."""

    threads: int
    cpus: Collection[int]
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables of their processes."""
        threads = str(self.threads)
        chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        return {**os.environ, **chosen, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Running:
    """A server that answers. url: of its embeddings. body: what its requests have beside input."""

    title: str
    base: str
    url: str
    pid: int
    body: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """How a server is started. health: where it answers once it is up.

    environment: variables beside those that all have.
    """

    title: str
    command: Sequence[str]
    port: int
    health: str = "/healthz"
    environment: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, str] = field(default_factory=lambda: {"model": NAME})

    @property
    def base(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"


def taskvec(folder: Path, *, dtype: str, task: str | None = None) -> Recipe:
    """`taskvec serve` with its defaults. task: of all requests."""
    port = free_port()
    command = [sys.executable, "-m", "taskvec.integrations.cli", "serve", str(folder)]
    options = ["--name", NAME, "--port", str(port), "--dtype", dtype, "--device", "cpu"]
    body = {"model": NAME} | ({"task": task} if task else {})
    return Recipe("taskvec", [*command, *options, "--log-level", "warning"], port, body=body)


def wrapper(merged: Path) -> Recipe:
    """sentence-transformers behind FastAPI, see `benchmarks.serve.wrapper`."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.serve.wrapper", str(merged), str(port)]
    title = "sentence-transformers + FastAPI"
    return Recipe(title, command, port, environment=TUNED_MALLOC)


def infinity(program: Path, folder: Path) -> Recipe:
    """infinity-emb, from an environment of its own. program: its `infinity_emb`."""
    port = free_port()
    model = ["--model-id", str(folder), "--served-model-name", NAME, "--dtype", "float32"]
    ways = ["--engine", "torch", "--device", "cpu", "--url-prefix", "/v1", "--no-model-warmup"]
    listen = ["--host", HOST, "--port", str(port), "--log-level", "warning"]
    command = [str(program), "v2", *model, *ways, *listen]
    return Recipe("infinity-emb", command, port, "/health", TUNED_MALLOC)


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.create_server((HOST, 0)) as found:
        port: int = found.getsockname()[1]
    return port


@contextmanager
def pinned(cpus: Collection[int]) -> Iterator[None]:
    """This process, and those that it starts meanwhile, on some CPUs; none leaves all as it is."""
    if not cpus:
        yield
        return
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


@contextmanager
def running(recipe: Recipe, place: Place) -> Iterator[Running]:
    """A server for the time of the block. Raises ServerError where it does not start."""
    log = place.folder / f"{recipe.title.partition(' ')[0]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, pinned(place.cpus):
        process = subprocess.Popen(
            recipe.command,
            cwd=ROOT,
            env={**place.environment, **recipe.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(recipe, process, log)
        url = f"{recipe.base}/v1/embeddings"
        yield Running(recipe.title, recipe.base, url, process.pid, recipe.body)
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(recipe: Recipe, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(recipe.base + recipe.health, timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "no output"
    raise ServerError(f"{recipe.title} did not start: {last} (see {log})")
