"""Small batches written into the fixed places that a recording reads, and recordings themselves."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from taskvec.core import Encoder
from taskvec.core.graphs import ROWS, blank, place
from taskvec.core.packing import BASE, Packed, pack
from tests.checkpoints import TASKS, tiny_checkpoint

CPU = torch.device("cpu")
gpu = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def batch(*lengths: int, task: int) -> Packed:
    rows = [np.arange(1, length + 1, dtype=np.int32) for length in lengths]
    return pack(rows, [task] * len(rows), CPU)


def test_a_batch_is_placed_before_one_row_of_filler() -> None:
    into = blank(32, CPU)
    assert into.tasks.tolist() == [BASE] * 32
    place(batch(9, 4, 11, task=2), into)
    place(batch(5, 3, task=1), into)
    assert into.ids[:8].tolist() == [1, 2, 3, 4, 5, 1, 2, 3]
    assert into.positions[:8].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert into.tasks[:8].tolist() == [1] * 8
    assert into.offsets.tolist() == [0, 5, 8] + [32] * (ROWS - 2)


def test_weights_go_with_the_last_reference_without_the_collector(tmp_path: Path) -> None:
    encoder = Encoder.load(tiny_checkpoint(tmp_path / "model"), device="cpu")
    encoder.encode("read the file", task="separation")
    model = weakref.ref(encoder._models[0])
    gc.collect()
    gc.disable()
    try:
        encoder.close()
        del encoder
        assert model() is None
    finally:
        gc.enable()


@gpu
@needs_cuda
def test_recorded_queries_have_the_vectors_of_a_large_batch(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    texts = ["file", "read the file", "a thread lock " * 9, "the file " * 60]
    bulk = [*texts, *["a thread lock " * 40] * 40]
    with Encoder.load(folder, device="cuda", dtype="bfloat16") as encoder:
        for task in TASKS:
            want = encoder.encode(bulk, task=task)[: len(texts)]
            for _ in range(2):  # recorded, then replayed
                alone = np.stack([encoder.encode(text, task=task) for text in texts])
                assert (alone * want).sum(axis=1).min() > 0.999
        assert not any(model._graphs._failed for model in encoder._models)
        assert all(model._graphs._recordings for model in encoder._models)


@gpu
@needs_cuda
def test_recordings_are_made_anew_for_other_tasks(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "hf", "hf")
    with Encoder.load(folder, device="cuda", dtype="bfloat16") as encoder:
        before = encoder.encode("read the file", task="separation")
        encoder.add_task("own", folder / "classification")
        own = encoder.encode("read the file", task="own")
        assert own @ encoder.encode("read the file", task="classification") > 0.999
        assert before @ encoder.encode("read the file", task="separation") > 0.999
