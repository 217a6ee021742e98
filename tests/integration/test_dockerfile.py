"""The image: what its Dockerfile says is run as it says it, in a tree that cannot be written."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from taskvec.core import Encoder

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
BIN = Path(sys.executable).parent
SOURCES = os.pathsep.join(str(ROOT / name) for name in ("core", "adapters", "integrations"))
# A namespace of mounts: the model where nothing else is, an empty /tmp, and the rest read-only.
# A checkout below /tmp, whose programs the image's stand for, is put back where it was.
# The interpreter may be in a home that is its owner's alone, so files may be read, not written.
READ_ONLY = """
set -e
mount -t tmpfs tmpfs /mnt && mkdir /mnt/model && mount --bind "$1" /mnt/model
mkdir /mnt/checkout && mount --bind "$3" /mnt/checkout
mount -t tmpfs -o mode=1777 tmpfs /tmp
if ! [ -e "$3" ]; then
  mkdir -p "$3" && mount --bind /mnt/checkout "$3" && mount -o remount,bind,ro "$3"
fi
mount -o remount,bind,ro / && mount -o remount,ro /mnt
user=$2; shift 3
exec setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups --no-new-privs \
  --inh-caps=-all,+dac_read_search --ambient-caps=+dac_read_search "$@"
"""


@pytest.fixture(scope="module")
def image() -> list[dict[str, Any]]:
    """The instructions of the last stage, each with its name and value."""
    found = DockerfileParser(path=str(DOCKERFILE)).structure
    last = max(number for number, one in enumerate(found) if one["instruction"] == "FROM")
    return found[last:]


def values(image: list[dict[str, Any]], name: str) -> list[str]:
    return [one["value"] for one in image if one["instruction"] == name]


def command(image: list[dict[str, Any]], name: str) -> list[str]:
    """An instruction's exec form, which alone lets signals through."""
    [value] = values(image, name)
    return json.loads(value.partition("CMD ")[2] if name == "HEALTHCHECK" else value)


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """The image's environment, with this one's programs where the image has its own."""
    parsed = DockerfileParser(path=str(DOCKERFILE), build_args={"PATH": "/usr/bin:/bin"})
    set_ = {name: value for name, value in parsed.envs.items() if name != "PATH"}
    return set_ | {"PATH": f"{BIN}:/usr/bin:/bin", "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}


def user(image: list[dict[str, Any]]) -> str:
    """The user that the image runs as, by the default of its argument."""
    [name] = values(image, "USER")
    defaults = dict(value.split("=", 1) for value in values(image, "ARG"))
    return defaults[name.strip("${}")]


def namespaces() -> bool:
    """Whether this process may make a namespace of mounts."""
    if os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


def test_hadolint_has_nothing_against_it() -> None:
    run = subprocess.run(
        [BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_its_base_is_pinned_its_user_is_not_root_and_its_labels_are_ocis(
    image: list[dict[str, Any]],
) -> None:
    parsed = DockerfileParser(path=str(DOCKERFILE))
    assert parsed.parent_images == ["python:3.12.11-slim-bookworm"] * 2
    assert parsed.is_multistage
    assert user(image) == "10001:10001"
    labels = parsed.labels
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert command(image, "CMD") == ["serve"], "what SageMaker passes, too"
    assert values(image, "EXPOSE") == ["8080"]


def test_what_it_copies_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    copied = {
        name
        for one in DockerfileParser(path=str(DOCKERFILE)).structure
        if one["instruction"] == "COPY" and "--from" not in one["value"]
        for name in one["value"].split()[:-1]
    }
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_a_change_of_the_sources_installs_no_dependency_again(tmp_path: Path) -> None:
    steps = [one["content"] for one in DockerfileParser(path=str(DOCKERFILE)).structure]
    sources = next(number for number, one in enumerate(steps) if one.startswith("COPY core"))
    later = [one for one in steps[sources:] if " pip " in one.replace("/opt/venv/bin/", " ")]
    assert len(later) == 2, "the wheel is made, and installed"
    assert all("--no-deps" in one for one in later)
    [listing] = [one for one in steps[:sources] if "tomllib" in one]
    code = listing.partition(' -c "')[2].partition('" >')[0]
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    run = subprocess.run(
        ["/bin/bash", "-c", f'{sys.executable} -c "{code}"'],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    listed = {Requirement(line).name for line in run.stdout.splitlines()}
    assert {"torch", "transformers", "safetensors", "fastapi", "uvicorn"} <= listed


@contextmanager
def container(
    image: list[dict[str, Any]], variables: dict[str, str], model: Path, **own: str
) -> Iterator[tuple[Any, dict[str, str]]]:
    """The image's command with `serve`, as its user and read-only where that can be arranged."""
    run = [*command(image, "ENTRYPOINT"), "serve"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = variables | {"SAGEMAKER_BIND_TO_PORT": str(port), "SM_MODEL_DIR": str(model)} | own
    if namespaces():
        inside = ["sh", "-c", READ_ONLY, "sh", str(model), user(image), str(ROOT)]
        run = ["unshare", "--mount", *inside, *run]
        environ["SM_MODEL_DIR"] = "/mnt/model"
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(run, env=environ, cwd="/", **pipes) as running:
        try:
            yield running, environ
        finally:
            running.kill()


def health(image: list[dict[str, Any]], environ: dict[str, str]) -> int:
    run = command(image, "HEALTHCHECK")
    return subprocess.run(run, env=environ, capture_output=True, check=False).returncode


def test_the_entrypoint_serves_as_sagemaker_wants_it_and_drains(
    image: list[dict[str, Any]], variables: dict[str, str], checkpoint: Path, encoder: Encoder
) -> None:
    with container(image, variables, checkpoint, TASKVEC_DTYPE="float32") as (running, environ):
        url = f"http://127.0.0.1:{environ['SAGEMAKER_BIND_TO_PORT']}"
        end, status = time.monotonic() + 120, 0
        while status != 200:
            assert running.poll() is None, running.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
            try:
                status = httpx.get(f"{url}/ping", timeout=5).status_code
            except httpx.TransportError:
                continue
            assert status in {200, 503}
        assert health(image, environ) == 0
        body = {"input": "read the file", "task": "retrieval.query"}
        reply = httpx.post(f"{url}/invocations", json=body, timeout=30)
        want = encoder.encode("read the file", task="retrieval.query")
        got = np.array(reply.json()["data"][0]["embedding"], np.float32)
        np.testing.assert_allclose(got, want, atol=1e-5)
        if namespaces():
            status_of = Path(f"/proc/{running.pid}/status").read_text(encoding="utf-8")
            assert f"Uid:\t{user(image).partition(':')[0]}\t" in status_of
            mounts = Path(f"/proc/{running.pid}/mounts").read_text(encoding="utf-8")
            [root] = [line for line in mounts.splitlines() if line.split()[1] == "/"]
            assert "ro" in root.split()[3].split(",")
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
        log = [json.loads(line) for line in running.stderr.read().splitlines()]
        assert {line.get("route") for line in log if line["event"] == "request"} == {"/invocations"}
        assert health(image, environ) == 1


def test_a_container_without_a_model_says_so_in_one_line(
    image: list[dict[str, Any]], variables: dict[str, str], tmp_path: Path
) -> None:
    with container(image, variables, tmp_path) as (running, _):
        out, err = running.communicate(timeout=120)
    assert (running.returncode, out) == (2, "")
    assert "holds no checkpoint: pack config.json" in err
    assert err.count("\n") == 1
