"""What the benchmarks measure on: texts of the promised lengths, and fair samples of them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors import safe_open

from benchmarks import memory, models, workloads
from benchmarks.models import Size
from benchmarks.peers.padding import Batcher, pad
from benchmarks.workloads import TASKS, one_task


def test_texts_have_the_tokens_that_were_asked_for() -> None:
    lengths = [3, 12, 100, 8192]
    assert one_task(workloads.texts(lengths)).lengths({}) == lengths


def test_log_normal_lengths_keep_their_median_and_edges() -> None:
    lengths = workloads.log_normal_lengths(2000)
    assert 90 < np.median(lengths) < 110
    assert max(lengths) == 512
    assert min(lengths) >= 4


def test_a_prompt_counts_as_tokens_of_its_text() -> None:
    work = one_task(["alpha"], "retrieval.query")
    assert work.lengths({"retrieval.query": "find this: "})[0] > work.lengths({})[0]


def test_mixed_tasks_take_turns() -> None:
    work = one_task([str(i) for i in range(100)]).mixed(5)
    assert Counter(work.tasks) == dict.fromkeys(TASKS, 20)


def test_a_sample_keeps_the_mix_of_tasks_and_of_lengths() -> None:
    work = one_task(workloads.texts(workloads.log_normal_lengths(200))).mixed(5)
    sample = work.every(4)
    assert Counter(sample.tasks) == dict.fromkeys(TASKS, 10)
    assert 0.8 < np.mean(sample.lengths({})) / np.mean(work.lengths({})) < 1.2


def test_a_probe_of_one_long_text_has_several_pieces_to_tell_apart() -> None:
    [document] = workloads.texts([8192])
    probe = one_task([document]).probe
    assert 4 <= len(probe.texts) <= workloads.PROBES
    assert all(text in document for text in probe.texts)
    assert len(set(probe.texts)) == len(probe.texts)


def test_docstrings_are_real_and_all_different() -> None:
    found = workloads.docstrings(50)
    assert len(set(found)) == 50
    assert any("Return" in text for text in found)


def test_flops_of_linear_layers_are_two_per_weight_and_token() -> None:
    size = Size("", "", layers=3, hidden=8, heads=2, ffn=32)
    weights = 3 * (4 * 8 * 8 + 2 * 8 * 32)
    assert size.linear_flops(5) == 2 * 5 * weights
    assert size.attention_flops([2, 3]) == 3 * 4 * 8 * (4 + 9)


def test_batches_hold_one_task_and_every_text_once(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((models.PACKAGED / "tokenizer.json").read_bytes())
    described = {"pad_token_id": 0, "task_instructions": {"classification": "which "}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    work = one_task(workloads.texts(workloads.near_lengths(23))).mixed(5)
    batches = list(Batcher(tmp_path).batches(work.texts, work.tasks, 3))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(23))
    assert all({work.tasks[row] for row in batch.rows} == {batch.task} for batch in batches)
    lengths = work.lengths({"classification": "which "})
    for batch in batches:
        assert batch.mask.sum(axis=1).tolist() == [lengths[row] for row in batch.rows]


def test_padding_is_masked() -> None:
    ids, mask = pad([[5, 6, 7], [8]], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_checkpoint_written_in_blocks_is_read_as_safetensors(tmp_path: Path) -> None:
    shapes = {"wide": (3000, 4096), "after": (7,)}  # the first is larger than a block
    memory.write_tensors(tmp_path / "model.safetensors", shapes)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        found = {name: file.get_tensor(name) for name in shapes}
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert 0.01 < float(found["wide"].float().std()) < 0.03


def test_peak_memory_remembers_what_was_freed() -> None:
    before = memory.peak_rss()
    block = np.ones(64 << 20, dtype=np.uint8)
    during = memory.peak_rss()
    del block
    slack = 1 << 20  # the kernel counts in batches
    assert during >= before - slack
    assert memory.peak_rss() >= during - slack
