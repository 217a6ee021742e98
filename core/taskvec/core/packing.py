"""Rows of token ids laid end to end: no row is padded, only a batch's end on a CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from taskvec.core.tokenizer import Ids

FINE, FINE_UP_TO, COARSE = 16, 256, 64


@dataclass(frozen=True)
class Packed:
    """A batch of B rows as one line of T tokens, on a CPU filled up to a size that recurs.

    ids, positions: (T,) on the model's device. lengths: tokens per row. offsets: (B + 1,) int32,
    where each row starts, on the model's device. runs: (rows, length) of neighbouring rows of
    equal length, in order. fill: tokens at the end that belong to no row and attend to nothing.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    offsets: Tensor
    runs: tuple[tuple[int, int], ...]
    fill: int


def pack(rows: Sequence[Ids], device: torch.device) -> Packed:
    """Pack rows in the given order; rows sorted by length attend in fewer, larger calls."""
    lengths = tuple(len(row) for row in rows)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    fill = _fill(int(starts[-1])) if device.type == "cpu" else 0
    filler = np.zeros(fill, dtype=np.int32)
    positions = [*(np.arange(length, dtype=np.int32) for length in lengths), filler]
    return Packed(
        ids=torch.from_numpy(np.concatenate([*rows, filler])).to(device),
        positions=torch.from_numpy(np.concatenate(positions)).to(device),
        lengths=lengths,
        offsets=torch.from_numpy(starts).to(device),
        runs=_runs(lengths),
        fill=fill,
    )


def _runs(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((len(list(same)), length) for length, same in groupby(lengths))


def _fill(tokens: int) -> int:
    """How many tokens are missing to a size that recurs.

    oneDNN compiles its kernels anew for every number of tokens, which takes longer than running
    them. At most 15 tokens are computed for nothing, or 63 in a batch of more than 256.
    """
    return -tokens % (FINE if tokens <= FINE_UP_TO else COARSE)
