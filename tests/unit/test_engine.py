"""Slices, a bounded queue, replicas and statistics, on a real model.

`paused` holds the engine between two batches, so that tests need no sleeping to find it busy.
"""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taskvec.core import Encoder, preparing, shared_encoder
from taskvec.core.embedder import Array
from taskvec.core.errors import BusyError, CheckpointError, InputError, LengthError, TaskError
from taskvec.core.placement import choose_devices
from taskvec.core.stats import LaneStats
from taskvec.core.tasks import Task
from taskvec.core.windows import Window
from tests.checkpoints import TASKS, WORDS, tiny_checkpoint

ALL_TASKS = (None, *TASKS)
TEXT = "the file"  # 4 tokens


def texts(count: int, seed: int = 0, longest: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(count)]


@contextmanager
def paused(encoder: Encoder) -> Iterator[None]:
    with encoder._engine.exclusively():
        yield


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def bulk(encoder: Encoder) -> LaneStats:
    return encoder.stats().lanes["bulk"]


@pytest.fixture
def bounded(checkpoint: Path) -> Iterator[Encoder]:
    with Encoder.load(checkpoint, dtype="float32", token_budget=64, queue_tokens=100) as loaded:
        yield loaded


# Slices


def test_a_call_of_many_slices_gives_every_text_its_own_vector(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = texts(200, seed=1)
    tasks = [ALL_TASKS[i % len(ALL_TASKS)] for i in range(200)]
    whole = encoder.encode(work, task=tasks, dim=16)
    monkeypatch.setattr(preparing, "SLICE_TEXTS", 7)
    monkeypatch.setattr(preparing, "SLICE_CHARACTERS", 900)
    np.testing.assert_allclose(encoder.encode(work, task=tasks, dim=16), whole, atol=1e-5)
    got = asyncio.run(encoder.aencode(work, task=tasks, dim=16))
    np.testing.assert_allclose(got, whole, atol=1e-5)


def test_an_error_in_a_late_slice_names_the_item_and_leaves_nothing_queued(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SLICE_TEXTS", 5)
    work = [TEXT] * 12 + ["the " * 50] + [TEXT] * 5
    with Encoder.load(checkpoint, dtype="float32", max_tokens=20) as encoder:
        with pytest.raises(LengthError, match=r"texts\[12\] has 53 tokens"):
            encoder.encode(work, overflow="error")
        lane = bulk(encoder)
        assert (lane.failed, lane.queued_rows, lane.queued_tokens) == (1, 0, 0)
        assert encoder.encode(TEXT).shape == (32,)


def test_the_whole_list_is_checked_before_anything_is_tokenized(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SLICE_TEXTS", 5)
    before = encoder.stats().requests
    with pytest.raises(InputError, match=r"texts\[49\] is int"):
        encoder.encode([TEXT] * 49 + [3])
    with pytest.raises(TaskError, match=r"task\[30\]"):
        encoder.encode([TEXT] * 31, task=[None] * 30 + ["x"])
    assert encoder.stats().requests == before


def test_a_long_call_is_tokenized_only_a_little_ahead(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SLICE_TEXTS", 10)
    with (
        Encoder.load(checkpoint, dtype="float32", token_budget=8) as encoder,
        ThreadPoolExecutor(1) as pool,
    ):
        with paused(encoder):
            running = pool.submit(encoder.encode, [TEXT] * 1000)
            until(lambda: bulk(encoder).queued_rows >= 20)
            assert bulk(encoder).queued_rows <= 30
        assert running.result().shape == (1000, 32)


async def test_a_cancelled_call_frees_its_rows_and_tokenizes_no_more(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SLICE_TEXTS", 10)
    with Encoder.load(checkpoint, dtype="float32", token_budget=8) as encoder:
        with paused(encoder):
            running = asyncio.create_task(encoder.aencode([TEXT] * 1000))
            await asyncio.to_thread(until, lambda: bulk(encoder).queued_rows)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            lane = bulk(encoder)
            assert (lane.queued_rows, lane.queued_tokens, lane.cancelled) == (0, 0, 1)
        await encoder.aencode(TEXT)
        assert encoder.stats().texts == 1


# The bound


def test_a_full_queue_refuses_who_will_not_wait(bounded: Encoder) -> None:
    with ThreadPoolExecutor(3) as pool:
        with paused(bounded):
            first = pool.submit(bounded.encode, [TEXT] * 20)  # 80 tokens
            until(lambda: bulk(bounded).queued_tokens == 80)
            with pytest.raises(BusyError, match="80 tokens wait, and its bound is 100"):
                bounded.encode([TEXT] * 10, wait=False)
            with pytest.raises(BusyError, match="bulk lane is full"):
                asyncio.run(bounded.aencode([TEXT] * 10, wait=False))
            chunks = (TEXT * 20, [(0, 8)])
            with pytest.raises(BusyError, match="bulk lane is full"):
                bounded.encode_chunks(*chunks, wait=False)
            with pytest.raises(BusyError, match="bulk lane is full"):
                asyncio.run(bounded.aencode_chunks(*chunks, wait=False))
            lane = bulk(bounded)
            assert (lane.queued_rows, lane.queued_tokens, lane.refused) == (20, 80, 4)
            fits = pool.submit(bounded.encode, [TEXT] * 5, wait=False)
            until(lambda: bulk(bounded).queued_tokens == 100)
            query = pool.submit(bounded.encode, TEXT, lane="query", wait=False)
        assert first.result(60).shape == (20, 32)
        assert fits.result(60).shape == (5, 32)
        assert query.result(60).shape == (32,)
        assert bounded.encode([TEXT] * 100, wait=False).shape == (100, 32)  # nothing waits


async def test_who_waits_for_room_gets_it_and_holds_no_thread(bounded: Encoder) -> None:
    want = bounded.encode(TEXT)
    threads = threading.active_count()
    with paused(bounded):
        calls = [asyncio.create_task(bounded.aencode([TEXT] * 10)) for _ in range(20)]
        await asyncio.to_thread(until, lambda: bulk(bounded).queued_requests >= 18)
        lane = bulk(bounded)
        assert (lane.queued_tokens, lane.queued_requests) == (100, 18)
        assert threading.active_count() <= threads + 2  # one tokenizes, one looks
    for got in await asyncio.gather(*calls):
        np.testing.assert_allclose(got, np.stack([want] * 10), atol=1e-5)
    assert bulk(bounded).queued_requests == 0


def test_a_text_longer_than_the_bound_passes(bounded: Encoder) -> None:
    assert bounded.encode("the " * 300, wait=False).shape == (32,)
    assert bounded.encode(["the " * 300] * 3).shape == (3, 32)


def test_closing_wakes_who_waits_for_room_and_finishes_what_is_queued(checkpoint: Path) -> None:
    encoder = Encoder.load(checkpoint, dtype="float32", token_budget=64, queue_tokens=40)
    with ThreadPoolExecutor(3) as pool:
        with paused(encoder):
            queued = pool.submit(encoder.encode, [TEXT] * 10)
            until(lambda: bulk(encoder).queued_tokens == 40)
            waiting = pool.submit(encoder.encode, [TEXT] * 10)
            until(lambda: bulk(encoder).queued_requests == 1)
            closing = pool.submit(encoder.close)
            with pytest.raises(BusyError, match="closed while"):
                waiting.result(60)
        assert queued.result(60).shape == (10, 32)
        closing.result(60)


def test_the_bound_is_an_option_of_a_shared_encoder_too(checkpoint: Path) -> None:
    shared = shared_encoder(checkpoint, queue_tokens=123)
    assert shared is not shared_encoder(checkpoint)
    assert shared.loaded.stats().queue_tokens == 123  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="queue_tokens is 0"):
        Encoder.load(checkpoint, queue_tokens=0)


# One at fault


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("out of memory")])
def test_only_the_call_whose_text_needs_too_much_memory_fails(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with Encoder.load(checkpoint, dtype="float32") as encoder, ThreadPoolExecutor(8) as pool:
        model = encoder._models[0]
        roomy = model.piece_sums

        def cramped(windows: Sequence[Window], tasks: Sequence[Task | None]) -> Array:
            if sum(len(window.ids) for window in windows) > 150:
                raise error
            return roomy(windows, tasks)

        monkeypatch.setattr(model, "piece_sums", cramped)
        with paused(encoder):
            short = [pool.submit(encoder.encode, [TEXT] * 20) for _ in range(6)]
            long = pool.submit(encoder.encode, [TEXT, "the " * 200])
            until(lambda: bulk(encoder).queued_rows == 122)
        want = encoder.encode(TEXT)
        for call in short:
            np.testing.assert_allclose(call.result(60), np.stack([want] * 20), atol=1e-5)
        with pytest.raises(type(error)):
            long.result(60)
        assert (bulk(encoder).failed, bulk(encoder).queued_rows) == (1, 0)


# Replicas


def test_replicas_give_the_vectors_of_one(checkpoint: Path, encoder: Encoder) -> None:
    work = texts(300, seed=2)
    tasks = [ALL_TASKS[i % len(ALL_TASKS)] for i in range(300)]
    long = " ".join(texts(60, seed=3))
    spans = [(i, i + 50) for i in range(0, len(long) - 50, 50)]
    with Encoder.load(checkpoint, device="cpu,cpu", dtype="float32", token_budget=128) as two:
        assert two.device == "cpu,cpu"
        got = two.encode(work, task=tasks)
        np.testing.assert_allclose(got, encoder.encode(work, task=tasks), atol=1e-5)
        np.testing.assert_allclose(
            two.encode_chunks(long, spans), encoder.encode_chunks(long, spans), atol=1e-5
        )


def test_both_replicas_work(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch on one waits until the other has one too."""
    with Encoder.load(checkpoint, device="cpu, cpu", dtype="float32", token_budget=8) as encoder:
        meeting = threading.Barrier(2, timeout=60)
        for model in encoder._models:

            def together(
                windows: Sequence[Window],
                tasks: Sequence[Task | None],
                run: Callable[..., Array] = model.piece_sums,
            ) -> Array:
                meeting.wait()
                return run(windows, tasks)

            monkeypatch.setattr(model, "piece_sums", together)
        assert encoder.encode([TEXT] * 8).shape == (8, 32)


def test_a_task_comes_and_goes_on_all_replicas_at_once(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "hf", "hf")
    with Encoder.load(folder, device="cpu,cpu", dtype="float32", token_budget=16) as encoder:
        want = encoder.encode(TEXT, task="separation")
        stop = threading.Event()

        def ask() -> float:
            worst = 0.0
            while not stop.is_set():
                try:
                    got = encoder.encode([TEXT] * 12, task="own")
                except TaskError:
                    time.sleep(0.001)
                    continue
                worst = max(worst, float(np.abs(got - want).max()))
            return worst

        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(ask) for _ in range(2)]
            for _ in range(20):
                encoder.add_task("own", folder / "separation")
                encoder.encode([TEXT] * 12, task="own")
                encoder.remove_task("own")
            stop.set()
            assert max(call.result() for call in asking) < 1e-5


def test_a_broken_task_is_refused_by_all_replicas(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "hf", "hf")
    path = folder / "separation" / "adapter_model.safetensors"
    broken = load_file(path)
    next(iter(broken.values())).fill_(float("inf"))
    with Encoder.load(folder, device="cpu,cpu", dtype="float32", token_budget=8) as encoder:
        want = encoder.encode([TEXT] * 20, task="classification")
        save_file(broken, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="not finite"):
            encoder.add_task("broken", folder / "separation")
        assert "broken" not in encoder.tasks
        got = encoder.encode([TEXT] * 20, task="classification")
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cpu,", "'cpu,': a name is missing"),
        (",", "a name is missing"),
        ("cpu,tpu", "unknown device 'tpu'"),
        ("cpu,cuda:99", "torch sees .* CUDA devices"),
        ("cuda:*,cpu", "give it alone"),
        ("cpu,auto,", "a name is missing"),
        ("", "unknown device ''"),
    ],
)
def test_bad_lists_of_devices_are_named(device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_devices(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are CUDA devices")
def test_all_cuda_devices_are_none_without_cuda() -> None:
    with pytest.raises(InputError, match=r"'cuda:\*': torch sees no CUDA device"):
        choose_devices("cuda:*")


# Statistics


def test_statistics_count_what_was_done(checkpoint: Path) -> None:
    with Encoder.load(checkpoint, dtype="float32", token_budget=16) as encoder:
        encoder.encode([TEXT] * 8)  # 32 tokens: two full batches
        encoder.encode(TEXT, lane="query")
        encoder.encode([])
        with pytest.raises(TaskError):
            encoder.encode(TEXT, task="x")
        stats = encoder.stats()
    assert (stats.requests, stats.texts, stats.tokens, stats.batches) == (3, 9, 36, 3)
    assert stats.mean_fill == pytest.approx(36 / 48)
    assert (stats.token_budget, stats.queue_tokens, stats.failed) == (16, 16 * 256, 0)
    query = stats.lanes["query"]
    assert (query.requests, query.texts, query.tokens, query.batches) == (1, 1, 4, 1)
    for seconds in (stats.tokenize_s, stats.wait_s, stats.model_s, query.model_s):
        assert 0 < seconds < 60
    with pytest.raises(FrozenInstanceError):
        stats.token_budget = 1  # type: ignore[misc]


def test_statistics_before_the_first_call(checkpoint: Path) -> None:
    with Encoder.load(checkpoint) as encoder:
        stats = encoder.stats()
    assert (stats.requests, stats.batches, stats.mean_fill, stats.wait_s) == (0, 0, 0.0, 0.0)


def test_callers_that_come_together_share_batches(checkpoint: Path) -> None:
    with Encoder.load(checkpoint, dtype="float32") as encoder, ThreadPoolExecutor(16) as pool:
        calls = pool.map(lambda text: encoder.encode(text, lane="query"), [TEXT] * 800)
        assert len(list(calls)) == 800
        assert encoder.stats().batches < 400


# Threads

OWN_THREADS = """
import os, sys, time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import torch
from taskvec.core import Encoder

def threads():
    return len(os.listdir("/proc/self/task"))

def settled(most):
    end = time.monotonic() + 10
    while threads() > most and time.monotonic() < end:
        time.sleep(0.01)
    return threads()

before = threads()
encoder = Encoder.load(sys.argv[1], dtype="float32")
encoder.fingerprint("separation")
encoder.save(sys.argv[2])
print(settled(before) - before)
encoder.encode(["the file " * 200] * 20)
print(settled(before + torch.get_num_threads()) - before <= torch.get_num_threads())
encoder.close()
print(settled(before) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="Linux counts threads there")
def test_torch_runs_on_no_callers_thread(tmp_path: Path) -> None:
    """A caller's thread that ran torch would have OpenMP workers of its own from then on."""
    # So many positions that torch shares their table out to its threads.
    folder = tiny_checkpoint(tmp_path / "long", max_positions=100_000)
    run = subprocess.run(
        [sys.executable, "-c", OWN_THREADS, folder, tmp_path / "saved"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["0", "True", "0"]


# Everything at once


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_any_mix_of_callers_gets_the_same_vectors(
    checkpoint: Path, encoder: Encoder, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 threads: tasks, lengths, lanes, slices, a bound, refusals and cancellations, mixed."""
    work = texts(64, seed=5, longest=120)
    tasks = [ALL_TASKS[i % len(ALL_TASKS)] for i in range(64)]
    want = encoder.encode(work, task=tasks)
    monkeypatch.setattr(preparing, "SLICE_TEXTS", 5)
    options = {"dtype": "float32", "token_budget": 256, "queue_tokens": 600}
    with Encoder.load(checkpoint, device=device, **options) as busy, ThreadPoolExecutor(64) as pool:

        def call(i: int) -> float:
            rng = np.random.default_rng(i)
            worst = 0.0
            for _ in range(6):
                chosen = rng.permutation(64)[: rng.integers(1, 20)]
                arguments = {
                    "texts": [work[j] for j in chosen],
                    "task": [tasks[j] for j in chosen],
                    "lane": rng.choice(["query", "bulk"]).item(),
                }
                kind = rng.integers(4)
                if kind == 0:
                    asyncio.run(_give_up(busy, arguments))
                    continue
                try:
                    got = busy.encode(**arguments, wait=bool(kind != 1))
                except BusyError:
                    assert kind == 1
                    continue
                worst = max(worst, float(np.abs(got - want[chosen]).max()))
            return worst

        assert max(pool.map(call, range(64))) < 1e-5
        stats = busy.stats()
        for lane in stats.lanes.values():
            assert (lane.queued_rows, lane.queued_tokens, lane.queued_requests) == (0, 0, 0)
        assert stats.failed == 0


async def _give_up(encoder: Encoder, arguments: dict[str, object]) -> None:
    running = asyncio.create_task(encoder.aencode(**arguments))
    await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
