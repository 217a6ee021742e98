"""Rows of token ids laid end to end: no pad token is ever computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from taskvec.core.tokenizer import Ids


@dataclass(frozen=True)
class Packed:
    """A batch of B rows as one line of T tokens.

    ids, positions: (T,) on the model's device. lengths: tokens per row. offsets: (B + 1,) int32,
    where each row starts, on the model's device. runs: (rows, length) of neighbouring rows of
    equal length, in order.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    offsets: Tensor
    runs: tuple[tuple[int, int], ...]


def pack(rows: Sequence[Ids], device: torch.device) -> Packed:
    """Pack rows in the given order; rows sorted by length attend in fewer, larger calls."""
    lengths = tuple(len(row) for row in rows)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    return Packed(
        ids=torch.from_numpy(np.concatenate(rows)).to(device),
        positions=torch.from_numpy(positions).to(device),
        lengths=lengths,
        offsets=torch.from_numpy(starts).to(device),
        runs=_runs(lengths),
    )


def _runs(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((len(list(same)), length) for length, same in groupby(lengths))
