"""Rows of token ids in batches of like length and a token budget, as a dataset of whole batches."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

Row = list[int]


class Batch(NamedTuple):
    """Token ids and mask, both (B, T) int64, padded on the right."""

    ids: Tensor
    mask: Tensor


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Rows of token ids, padded on the right to (B, T)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return Batch(ids, (torch.arange(width) < lengths[:, None]).long())


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[Row]:
    """Token ids of each text, specials included, the end cut off after max_tokens."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    return [row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]] for row in rows]


class BatchedRows(Dataset[list[Row]]):
    """Batches of rows of like length, each of at most a budget of tokens, padding included.

    An item is one batch, so that a trainer's own sampler shuffles batches, resumes among them
    and deals them out to several devices. Which rows meet follows from the seed.
    """

    def __init__(self, rows: Sequence[Row], token_budget: int, seed: int) -> None:
        order = random.Random(seed)  # noqa: S311
        indices = sorted(range(len(rows)), key=lambda i: (len(rows[i]), order.random()))
        self._groups: list[list[Row]] = []
        for index in indices:
            row = rows[index]
            if not self._groups or (len(self._groups[-1]) + 1) * len(row) > token_budget:
                self._groups.append([])
            self._groups[-1].append(row)

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> list[Row]:
        return self._groups[index]
