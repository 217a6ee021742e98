"""The benchmark of the server: what clients count, what is compared, and what counts as growth."""

import asyncio
import itertools
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from starlette.testclient import TestClient

from benchmarks.serve import lanes, load, memory, mix, peers, report, servers, wrapper
from benchmarks.serve.__main__ import _parse, main
from benchmarks.serve.asking import Answer, FaultError, ask, connections
from benchmarks.serve.memory import Memory
from benchmarks.serve.preparing import TINY, Maker, Model
from benchmarks.serve.report import Report
from benchmarks.serve.servers import NAME, Place, Recipe, Running, ServerError
from benchmarks.workloads import texts
from taskvec.core import Encoder
from tests.remote_server import Server, serving


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, on PEFT
        return Maker().make(folder, TINY, "text-matching")


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[Server]:
    with (
        Encoder.load(model.folder, device="cpu", dtype="float32") as encoder,
        serving(encoder, names=(NAME,)) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def running(server: Server) -> Running:
    return Running("taskvec", server.url, f"{server.url}/v1/embeddings", 0, {"model": NAME})


def asked(running: Running, **body: object) -> Answer:
    async def send() -> Answer:
        async with connections() as session:
            return await ask(session, running.url, {"model": NAME, **body}, "query")

    return asyncio.run(send())


def test_a_busy_server_is_asked_again_when_it_says(running: Running, server: Server) -> None:
    server.failures[:] = [429, 429]
    answer = asked(running, input=["one"])
    assert (answer.busy, answer.kind) == (2, "query")
    assert 0 < answer.seconds <= answer.waited
    assert answer.tokens > 0


@pytest.mark.parametrize(
    ("failures", "body", "fault"),
    [
        ([500], {"input": ["one"]}, "query: 500"),
        ([], {"input": [1]}, "query: 422 .*token id"),
    ],
)
def test_whatever_else_is_a_fault(
    running: Running, server: Server, failures: list[int], body: dict[str, object], fault: str
) -> None:
    server.failures[:] = failures
    with pytest.raises(FaultError, match=fault):
        asked(running, **body)


def test_the_mix_is_the_same_for_a_seed_and_has_all_kinds() -> None:
    def drawn(seed: int) -> list[tuple[str, mix.Body]]:
        return list(itertools.islice(mix.Mix().requests(seed), 200))

    assert drawn(1) == drawn(1) != drawn(2)
    assert {kind for kind, _ in drawn(1)} == set(mix.SHARES)


def test_load_counts_what_was_served_and_the_encoder_does_alone(
    running: Running, model: Model
) -> None:
    found = load.run(running.url, clients=6, seconds=1.0)
    assert not found.faults
    assert {answer.kind for answer in found.answers} >= {mix.QUERY, mix.PASSAGES}
    assert found.tokens_s > 0
    requests = [(dict(answer.body), answer.tokens) for answer in found.answers]
    found.alone = load.Alone(model.folder, "float32").tokens_s(requests, 0.2)
    told = report.markdown(Report(["head"], load=found))
    assert "faults: none" in told
    assert len(json.loads(json.dumps(report.as_json(Report([], load=found))))["load"]["answers"])
    assert f"**{found.tokens_s / found.alone:.2f}** of it" in told


def test_faults_of_the_load_fail_the_run(running: Running, server: Server) -> None:
    server.failures[:] = [500]
    found = load.run(running.url, clients=1, seconds=0.2)
    assert sum(found.faults.values()) == 1
    assert not Report([], load=found).kept


def test_lanes_measures_both_and_what_bulk_work_does(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SETTLING_S", 0.3)
    found = lanes.run(running, 0.4)
    assert len(found.alone) >= 2
    assert len(found.beside) >= 2
    assert found.bulk_tokens_s > 0
    assert 0 < found.pass_s < 30
    assert "p95 of a query" in report.markdown(Report([], lanes=found))
    assert json.dumps(report.as_json(Report([], lanes=found)))


def test_peers_are_compared_by_turns_and_only_with_the_same_vectors(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "WARM_UP_S", 0.0)
    twin = Running("twin", running.base, running.url, 0, running.body)
    rounds = peers.run([running, twin], [1, 2], 0.1)
    assert [one.server for one in rounds] == ["taskvec", "twin"] * 4
    assert all(one.requests_s > 0 for one in rounds)
    shown = report.markdown(Report([], peers=rounds))
    assert f"{rounds[0].requests_s / rounds[1].requests_s:.2f}" in shown
    assert json.dumps(report.as_json(Report([], peers=rounds)))
    other = Running("other", running.base, running.url, 0, {"model": f"{NAME}@separation"})
    with pytest.raises(peers.UnlikeError, match="vectors of other differ from taskvec's"):
        peers.run([running, other], [1], 0.1)


def grown(by: float) -> Memory:
    """Samples with noise, and so many MiB more by 10 000 requests after a warm-up."""
    noise = np.random.default_rng(0).normal(scale=0.3, size=200)
    numbers = list(range(500, 100_500, 500))
    return Memory(numbers, [100 + by * n / 1e4 + e for n, e in zip(numbers, noise, strict=True)])


def test_growth_is_told_from_noise() -> None:
    slope, error = grown(1.0).growth
    assert abs(slope - 1.0) < error < 0.1
    assert not grown(1.0).kept
    assert grown(0.0).kept
    assert not Report([], memory=grown(1.0)).kept
    failed = grown(0.0)
    failed.faults["500 where 200 was due"] = 1
    assert not failed.kept


def test_memory_counts_what_each_request_came_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SAMPLE", 20)
    url = f"{server.url}/v1/embeddings"
    found = memory.run(Running("taskvec", server.url, url, os.getpid(), {}), 400)
    assert not found.faults
    assert sum(found.answers.values()) == 400
    assert found.answers[0] == 400 // memory.GONE
    assert found.answers[422] > found.answers[404] > 0
    assert len(found.mib) == 20
    written = json.loads(json.dumps(report.as_json(Report([], memory=found))))["memory"]
    assert written["requests"][-1] == 400
    assert written["answers"]["200"] == found.answers[200]


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    broken = servers.taskvec(tmp_path / "nowhere", dtype="float32")
    place = Place(1, (), tmp_path)
    with (
        pytest.raises(ServerError, match=r"taskvec did not start: .*nowhere"),
        servers.running(Recipe(broken.title, broken.command, broken.port), place),
    ):
        pass


def test_peers_have_the_encoders_weights(model: Model) -> None:
    probes = texts([4, 30, 90])
    with Encoder.load(model.folder, device="cpu", dtype="float32") as encoder:
        want = encoder.encode(probes, task="text-matching")
        assert np.abs(want - encoder.encode(probes)).max() > 1e-3
    roformer = SentenceTransformer(str(model.roformer), device="cpu")
    np.testing.assert_allclose(roformer.encode(probes), want, atol=1e-5)
    client = TestClient(wrapper.create_app(wrapper.load(model.merged)))
    data = client.post("/v1/embeddings", json={"model": "x", "input": probes}).json()["data"]
    np.testing.assert_allclose([one["embedding"] for one in data], want, atol=1e-5)


def test_cpus_come_as_numbers_and_ranges() -> None:
    [cpu, *_] = own = sorted(os.sched_getaffinity(0))
    given = _parse(["--server-cpus", f"{cpu}-{cpu + 2},9", "--client-cpus", str(cpu)])
    assert given.server_cpus == (cpu, cpu + 1, cpu + 2, 9)
    with servers.pinned(given.client_cpus):
        assert os.sched_getaffinity(0) == {cpu}
    assert sorted(os.sched_getaffinity(0)) == own


@pytest.mark.parametrize(
    "arguments", [["--only", "speed"], ["--concurrency", "1,x"], ["--server-cpus", "0-"]]
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "use" in capsys.readouterr().err
    assert main(["--clients", "0"]) == 1
    assert "clients is 0" in capsys.readouterr().err
