"""What every padded contender does before its model runs, at its best: sorted by length."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.models import prompts

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Rows of one task. rows: which texts; ids and mask: (B, T)."""

    task: str
    rows: list[int]
    ids: Ids
    mask: Ids


class Batcher:
    """Puts texts of one task and similar length into padded batches."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._prompts = prompts(folder)
        self._pad: int = json.loads((folder / "config.json").read_text())["pad_token_id"]

    def prompted(self, texts: Sequence[str], tasks: Sequence[str]) -> list[str]:
        """Each text with its task's prompt."""
        pairs = zip(texts, tasks, strict=True)
        return [self._prompts.get(task, "") + text for text, task in pairs]

    def batches(self, texts: Sequence[str], tasks: Sequence[str], size: int) -> Iterator[Batch]:
        """Batches of at most `size` texts, each of one task."""
        encodings = self._tokenizer.encode_batch_fast(self.prompted(texts, tasks))
        ids = [encoding.ids for encoding in encodings]
        for task in dict.fromkeys(tasks):
            own = [i for i, other in enumerate(tasks) if other == task]
            own.sort(key=lambda i: len(ids[i]))
            for start in range(0, len(own), size):
                rows = own[start : start + size]
                yield Batch(task, rows, *pad([ids[i] for i in rows], self._pad))


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Ids, Ids]:
    """Ids and mask, (B, longest) each."""
    shape = len(rows), max(map(len, rows))
    ids, mask = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask
