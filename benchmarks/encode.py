"""Tokens per second of the encoder beside transformers + PEFT, as ratios of one run.

Run with `make bench`. Every contender encodes the same texts with the same weights; runs are
interleaved, so that a noisy machine is noisy for all, and the median of each counts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.models import SMALL, WIDE, Size, write_model
from benchmarks.peers import TransformersPeft
from benchmarks.workloads import TASKS, log_normal_lengths, texts
from taskvec.core import Encoder
from taskvec.core.embedder import Array

ONE_TASK, MIXED = "one task", "five tasks mixed"
BATCHES = (1, 8, 32)


def main() -> None:
    """Print one table per model and dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=64)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU\n")
    for size in (WIDE, SMALL):
        with tempfile.TemporaryDirectory() as folder:
            path = write_model(Path(folder) / "model", size)
            for dtype in ("bfloat16", "float32"):
                compare(path, size, dtype, repeats=options.repeats, count=options.texts)


def compare(folder: Path, size: Size, dtype: str, *, repeats: int, count: int) -> None:
    """Print the table of one model in one dtype."""
    work = texts(log_normal_lengths(count))
    tasks = {
        ONE_TASK: ["separation"] * count,
        MIXED: [TASKS[i % len(TASKS)] for i in range(count)],
    }
    with Encoder.load(folder, device="cpu", dtype=dtype) as encoder:
        total = sum(encoder.count_tokens(work))
        runs: dict[tuple[str, str], Callable[[], object]] = {
            ("taskvec", mix): lambda t=t: encoder.encode(work, task=t)  # type: ignore[misc]
            for mix, t in tasks.items()
        }
        for batch in BATCHES:
            peer = TransformersPeft(folder, getattr(torch, dtype), batch=batch)
            for mix, t in tasks.items():
                name = f"transformers + PEFT, batch {batch}"
                runs[name, mix] = lambda peer=peer, t=t: peer.encode(work, t)  # type: ignore[misc]
            check_same(peer.encode(work, tasks[MIXED]), encoder.encode(work, task=tasks[MIXED]))
        seconds = measure(runs, repeats)
    print(f"**{size.name}, {dtype}**, {count} texts, {total} tokens\n")
    print("| contender | batch mix | tokens/s | taskvec is |\n|---|---|---|---|")
    for (name, mix), taken in seconds.items():
        ratio = taken / seconds["taskvec", mix]
        print(f"| {name} | {mix} | {total / taken:,.0f} | {ratio:.2f} times as fast |")
    print(
        f"\n{share_of_ceiling(size, dtype, total / seconds['taskvec', ONE_TASK]):.0%} of ", end=""
    )
    print("the speed of `linear` alone at the model's shapes\n")


def check_same(theirs: torch.Tensor, ours: Array) -> None:
    """A ratio of speeds means nothing between different answers."""
    worst = float((theirs.numpy() * ours).sum(axis=1).min())
    if worst < 0.99:
        raise SystemExit(f"the contenders' vectors differ: cosine {worst:.4f}")


def measure(
    runs: dict[tuple[str, str], Callable[[], object]], repeats: int
) -> dict[tuple[str, str], float]:
    """Median seconds of each run; one warm-up first."""
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for turn in range(repeats + 1):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                taken[key].append(time.perf_counter() - start)
    return {key: statistics.median(times) for key, times in taken.items()}


def share_of_ceiling(size: Size, dtype: str, tokens_per_s: float) -> float:
    """Useful multiply-adds as a share of what one large linear layer reaches here."""
    kind = getattr(torch, dtype)
    x, weight = torch.randn(2048, size.hidden).to(kind), torch.randn(size.ffn, size.hidden).to(kind)
    run: dict[tuple[str, str], Callable[[], object]] = {
        ("linear", ""): lambda: torch.nn.functional.linear(x, weight)
    }
    ceiling = 2 * 2048 * size.hidden * size.ffn / measure(run, 20)["linear", ""]
    return tokens_per_s * size.flops_per_token / ceiling


if __name__ == "__main__":
    main()
