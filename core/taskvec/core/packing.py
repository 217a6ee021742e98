"""Rows of token ids laid end to end: no row is padded, only a batch's end on a CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from taskvec.core.tokenizer import Ids

BASE = -1  # the index that stands for "no task": base weights alone
# Tokens of a batch on a CPU, and the multiple that a batch of no more than that is filled up to.
FILLED = ((32, 4), (256, 16))
COARSE = 64
# A CPU takes a batch of more than WHOLE tokens, by default one long row, BLOCK tokens at a time
# wherever tokens do not see each other: the C library asks the kernel for every tensor of 32 MiB
# anew, and page faults then take a fifth of the time.
WHOLE, BLOCK = 2048, 1024


@dataclass(frozen=True)
class Packed:
    """A batch of B rows as one line of T tokens, on a CPU filled up to a size that recurs.

    line: (3, T) int32 on the model's device: ids, positions and tasks, which are indices, BASE for
    none. lengths: tokens per row. offsets: (B + 1,) int32, where each row starts, on the model's
    device. runs: (rows, length) of neighbouring rows of equal length, in order. fill: tokens at
    the end that belong to no row and attend to nothing. block: how many tokens to take at a time
    where they do not see each other.
    """

    line: Tensor
    lengths: tuple[int, ...]
    offsets: Tensor
    runs: tuple[tuple[int, int], ...]
    fill: int
    block: int

    @property
    def tokens(self) -> int:
        """T, filler included."""
        return self.line.shape[1]

    @property
    def ids(self) -> Tensor:
        """(T,)."""
        return self.line[0]

    @property
    def positions(self) -> Tensor:
        """(T,), from 0 in each row."""
        return self.line[1]

    @property
    def tasks(self) -> Tensor:
        """(T,), the index of each token's task."""
        return self.line[2]


def pack(rows: Sequence[Ids], tasks: Sequence[int], device: torch.device) -> Packed:
    """Pack rows in the given order; rows sorted by length attend in fewer, larger calls.

    tasks: the index of each row's task, BASE for none.
    """
    lengths = tuple(len(row) for row in rows)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = int(starts[-1])
    on_cpu = device.type == "cpu"
    fill = _fill(tokens) if on_cpu else 0
    line = np.zeros((3, tokens + fill), dtype=np.int32)
    ids, positions, owners = line
    np.concatenate(rows, out=ids[:tokens])
    np.concatenate([np.arange(length) for length in lengths], out=positions[:tokens])
    owners[:] = np.repeat([*tasks, BASE], [*lengths, fill])
    whole = not on_cpu or tokens <= WHOLE
    return Packed(
        line=move(torch.from_numpy(line), device),
        lengths=lengths,
        offsets=move(torch.from_numpy(starts), device),
        runs=_runs(lengths),
        fill=fill,
        block=tokens + fill if whole else BLOCK,
    )


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a CUDA device fetches it while this process goes on."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _runs(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((len(list(same)), length) for length, same in groupby(lengths))


def _fill(tokens: int) -> int:
    """How many tokens are missing to a size that recurs.

    oneDNN compiles its kernels anew for every number of tokens, which takes longer than running
    them; but what is computed for nothing delays a single query most.
    """
    multiple = next((multiple for most, multiple in FILLED if tokens <= most), COARSE)
    return -tokens % multiple
