"""Any thread, any loop, any neighbour: the same vectors, and nothing hangs."""

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from taskvec.core import Embedder, Encoder, shared_encoder
from taskvec.core.errors import BusyError, CheckpointError, TaskError
from tests.checkpoints import TASKS, WORDS, tiny_checkpoint

ALL_TASKS = (None, *TASKS)


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 60))) for _ in range(count)]


def test_64_threads_of_mixed_tasks_and_lanes_get_their_own_vectors(encoder: Encoder) -> None:
    work = texts(64)
    tasks = [ALL_TASKS[i % len(ALL_TASKS)] for i in range(64)]
    want = [encoder.encode(text, task=task) for text, task in zip(work, tasks, strict=True)]
    barrier = threading.Barrier(64)

    def call(i: int) -> float:
        barrier.wait()
        worst = 0.0
        for _ in range(5):
            lane = "query" if i % 2 else "bulk"
            got = encoder.encode(work[i], task=tasks[i], lane=lane)  # type: ignore[arg-type]
            worst = max(worst, float(np.abs(got - want[i]).max()))
            span = [(0, len(work[i]))]
            chunk = encoder.encode_chunks(work[i], span, task=tasks[i])
            worst = max(worst, float(np.abs(chunk[0] - want[i]).max()))
        return worst

    with ThreadPoolExecutor(64) as pool:
        assert max(pool.map(call, range(64))) < 1e-5


def test_64_threads_may_tokenize_at_once(encoder: Encoder) -> None:
    work = texts(40, seed=1)
    want = encoder.count_tokens(work)
    with ThreadPoolExecutor(64) as pool:
        counts = pool.map(lambda _: encoder.count_tokens(work), range(256))
        assert all(got == want for got in counts)


async def test_async_equals_sync_without_a_thread_per_call(encoder: Encoder) -> None:
    work = texts(200, seed=2)
    want = encoder.encode(work, task="separation", dim=16)
    calls = [encoder.aencode(text, task="separation", dim=16) for text in work]
    before = threading.active_count()
    running = asyncio.gather(*calls)
    await asyncio.sleep(0.01)
    assert threading.active_count() <= before + 2
    np.testing.assert_allclose(np.stack(await running), want, atol=1e-5)
    spans = [(0, 3), (3, len(work[0]))]
    chunks = await encoder.aencode_chunks(work[0], spans)
    np.testing.assert_array_equal(chunks, encoder.encode_chunks(work[0], spans))


async def test_awaiting_a_long_call_leaves_the_loop_free(encoder: Encoder) -> None:
    work = texts(3000, seed=3)
    running = asyncio.create_task(encoder.aencode(work, task="retrieval.passage"))
    longest = 0.0
    while not running.done():
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - start)
    assert (await running).shape == (3000, 32)
    assert longest < 1.0


async def test_cancelling_a_call_drops_its_rows(checkpoint: Path) -> None:
    with Encoder.load(checkpoint, dtype="float32", token_budget=64) as encoder:
        running = asyncio.create_task(encoder.aencode(texts(3000, seed=4)))
        await asyncio.sleep(0.3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        start = time.perf_counter()
        await encoder.aencode("after")
        assert time.perf_counter() - start < 1.0


async def test_bad_input_raises_when_awaited(encoder: Encoder) -> None:
    with pytest.raises(TaskError, match="unknown task 'x'"):
        await encoder.aencode("text", task="x")


def test_a_query_does_not_wait_for_a_bulk_job(checkpoint: Path) -> None:
    with (
        Encoder.load(checkpoint, dtype="float32", token_budget=256) as encoder,
        ThreadPoolExecutor(1) as pool,
    ):
        bulk = pool.submit(encoder.encode, texts(3000, seed=5))
        time.sleep(0.2)
        for _ in range(3):
            encoder.encode("how to read a file", task="retrieval.query", lane="query")
        assert not bulk.done()
        assert bulk.result().shape == (3000, 32)


def test_one_row_at_fault_fails_alone(checkpoint: Path) -> None:
    """Removing a task while its texts wait fails those calls, and no neighbour's."""
    with Encoder.load(checkpoint, dtype="float32", token_budget=128) as encoder:
        work = texts(1500, seed=6)
        with ThreadPoolExecutor(2) as pool:
            stays = pool.submit(encoder.encode, work, task="classification")
            goes = pool.submit(encoder.encode, work, task="separation")
            time.sleep(0.15)
            encoder.remove_task("separation")
            assert stays.result().shape == (1500, 32)
            with pytest.raises(TaskError, match="'separation'"):
                goes.result()


def test_a_replaced_task_never_mixes_with_its_successor(tmp_path: Path) -> None:
    """A call gets the old LoRA, the new one, or an error; never one's prompt with the other's."""
    folder = tiny_checkpoint(tmp_path / "hf", "hf")
    loras = [(folder / "separation", "read: "), (folder / "text_matching", "")]
    with Encoder.load(folder, dtype="float32", token_budget=128) as encoder:
        wanted = []
        for path, prompt in loras:
            encoder.add_task("own", path, prompt=prompt)
            wanted.append(encoder.encode("the file", task="own"))
            encoder.remove_task("own")
        encoder.add_task("own", loras[0][0], prompt=loras[0][1])
        stop = threading.Event()

        def call() -> tuple[int, float]:
            answered, worst = 0, 0.0
            while not stop.is_set():
                try:
                    got = encoder.encode(["the file"] * 20, task="own")
                except TaskError:
                    time.sleep(0.001)  # or four threads that only ask again leave no time to change
                    continue
                answered += 1
                off = [np.abs(got - want).max(axis=1) for want in wanted]
                worst = max(worst, float(np.minimum(*off).max()))
            return answered, worst

        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(call) for _ in range(4)]
            for turn in range(1, 60):
                time.sleep(0.01)
                encoder.remove_task("own")
                encoder.add_task("own", loras[turn % 2][0], prompt=loras[turn % 2][1])
            stop.set()
            results = [call.result() for call in calls]
    assert sum(answered for answered, _ in results) > 20
    assert max(worst for _, worst in results) < 1e-5


def test_a_progress_bar_that_fails_fails_its_own_call(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("tqdm.auto.tqdm.update", closed)
    with pytest.raises(BrokenPipeError):
        encoder.encode(["a", "b", "c"], show_progress=True)
    assert encoder.encode("after").shape == (32,)


def test_an_interrupted_call_drops_its_rows(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Encoder.load(checkpoint, dtype="float32", token_budget=64) as encoder:
        encoder.encode("warm")
        with monkeypatch.context() as patched:

            def interrupted(*_: object, **__: object) -> None:
                raise KeyboardInterrupt

            patched.setattr("concurrent.futures.Future.result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                encoder.encode(texts(3000, seed=8))
        start = time.perf_counter()
        encoder.encode("after")
        assert time.perf_counter() - start < 1.0


async def test_an_awaited_query_does_not_wait_for_bulk_tokens(encoder: Encoder) -> None:
    bulk = asyncio.create_task(encoder.aencode(texts(20_000, seed=9)))
    await asyncio.sleep(0.05)
    start = time.perf_counter()
    await encoder.aencode("how to read", task="retrieval.query", lane="query")
    assert not bulk.done()
    assert time.perf_counter() - start < 2.0
    bulk.cancel()


def test_an_encoder_is_not_copied_and_a_shared_one_travels(checkpoint: Path) -> None:
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        assert copy.deepcopy(encoder) is encoder
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(encoder)
    shared = shared_encoder(checkpoint, dtype="float32")
    assert copy.deepcopy(shared) is shared
    assert pickle.loads(pickle.dumps(shared)) is shared  # noqa: S301


def test_closing_finishes_what_is_queued_and_refuses_more(checkpoint: Path) -> None:
    encoder = Encoder.load(checkpoint, dtype="float32", token_budget=128)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(encoder.encode, texts(500))
        while not encoder.stats().lanes["bulk"].queued_rows:
            time.sleep(0.001)
        encoder.close()
        assert running.result().shape == (500, 32)
    encoder.close()
    with pytest.raises(BusyError, match="closed"):
        encoder.encode("more")
    with pytest.raises(BusyError, match="closed"):
        asyncio.run(encoder.aencode("more"))


def test_a_dropped_encoder_ends_its_thread(checkpoint: Path) -> None:
    encoder = Encoder.load(checkpoint)
    encoder.encode("text")
    [thread] = encoder._engine._threads
    gone = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_progress_goes_to_stderr_and_counts_texts(
    encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.encode(texts(7), show_progress=True)
    shown = capsys.readouterr()
    assert "7/7" in shown.err
    assert not shown.out


def test_shared_encoders_are_one_per_model_and_options(checkpoint: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        shared = list(pool.map(lambda _: shared_encoder(checkpoint), range(64)))
        assert len({id(embedder) for embedder in shared}) == 1
        assert shared_encoder(str(checkpoint)) is shared[0]
        assert shared_encoder(checkpoint, dtype="float32") is not shared[0]
        assert isinstance(shared[0], Embedder)
        vectors = list(pool.map(lambda embedder: embedder.encode("text"), shared))
    for vector in vectors:
        np.testing.assert_allclose(vector, vectors[0], atol=0.02)  # bfloat16, in any batch


async def test_a_shared_encoder_is_the_encoder(checkpoint: Path) -> None:
    shared = shared_encoder(checkpoint, dtype="float32")
    with Encoder.load(checkpoint, dtype="float32") as own:
        assert (shared.tasks, shared.dims, shared.dim) == (own.tasks, own.dims, own.dim)
        assert shared.max_tokens == own.max_tokens
        assert shared.fingerprint("separation", 8) == own.fingerprint("separation", 8)
        want = own.encode("text", task="separation", dim=8)
        np.testing.assert_array_equal(shared.encode("text", task="separation", dim=8), want)
        np.testing.assert_array_equal(await shared.aencode("text", task="separation", dim=8), want)
        chunks = own.encode_chunks("a text", [(0, 6)])
        np.testing.assert_array_equal(shared.encode_chunks("a text", [(0, 6)]), chunks)
        np.testing.assert_array_equal(await shared.aencode_chunks("a text", [(0, 6)]), chunks)


def test_a_shared_encoder_loads_at_first_use_and_may_try_again(tmp_path: Path) -> None:
    shared = shared_encoder(tmp_path / "later")
    with pytest.raises(CheckpointError, match="no model"):
        shared.encode("text")
    tiny_checkpoint(tmp_path / "later")
    assert shared.encode("text").shape == (32,)


FORKING = """
import os, sys
from taskvec.core import Encoder, shared_encoder
from taskvec.core.errors import TaskvecError
own, shared = Encoder.load(sys.argv[1]), shared_encoder(sys.argv[1])
own.encode("before"), shared.encode("before")
child = os.fork()
if child == 0:
    try:
        own.encode("after")
    except TaskvecError as error:
        if "fork" not in str(error) or shared_encoder(sys.argv[1]) is shared:
            os._exit(1)
    for call in (own.fingerprint, lambda: own.remove_task("separation"), own.close):
        try:
            call()
        except TaskvecError as error:
            if "fork" not in str(error):
                os._exit(3)
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_refuses_instead_of_hanging(checkpoint: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FORKING, checkpoint], timeout=60, check=False)
    assert run.returncode == 7


INTERRUPTED = """
import sys
from taskvec.core import Encoder
encoder = Encoder.load(sys.argv[1], token_budget=64)
print("ready", flush=True)
encoder.encode(["the file " * 100] * 20_000)
"""


def test_ctrl_c_ends_a_long_call_at_once(checkpoint: Path) -> None:
    import signal

    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, checkpoint],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in error
