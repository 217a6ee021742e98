"""The LoRAs of all tasks at once, so that one batch may mix tasks freely.

For a layer with weight W the tasks' A matrices are stacked to A_all (R, in) and their B matrices
to B_all (R, out), R being the ranks of all tasks together. A token's own task is picked by a
mask over R: y = x @ W.T + ((x @ A_all.T) · mask) @ B_all. A batch of one task takes that task's
slice of both instead.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from taskvec.core.checkpoint import Lora
from taskvec.core.tensors import Shape

BASE = -1  # the index that stands for "no task": base weights alone


class Mix:
    """Which task each token of a batch belongs to."""

    def __init__(self, tasks: Sequence[int], lengths: Sequence[int], device: torch.device) -> None:
        """`tasks` and `lengths` are per row; BASE for a row without a task."""
        self.only = tasks[0] if len(set(tasks)) == 1 else None
        rows = torch.tensor(tasks, device=device)
        self.tokens = rows.repeat_interleave(torch.tensor(lengths, device=device))  # [T]
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def mask(self, ranks: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """(T, R) ones where a rank is of the token's own task. ranks: of each task."""
        if ranks not in self._masks:
            owners = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks))
            owners = owners.to(self.tokens.device)
            self._masks[ranks] = (self.tokens[:, None] == owners).to(dtype)
        return self._masks[ranks]


class LoraStack:
    """The LoRAs of all tasks on one layer. a: (R, in); b: (R, out), scaling folded in."""

    def __init__(self, loras: Sequence[Lora], module: str, shape: Shape, like: Tensor) -> None:
        """`shape` is the layer's (out, in); `like` gives dtype and device."""
        none = torch.zeros(0, shape[1]), torch.zeros(shape[0], 0)
        pairs = [lora.pairs.get(module, none) for lora in loras]
        self.ranks = tuple(a.shape[0] for a, _ in pairs)
        scaled = [b.T.float() * lora.scaling for lora, (_, b) in zip(loras, pairs, strict=True)]
        self.a = torch.cat([a.to(like) for a, _ in pairs])
        self.b = torch.cat(scaled).to(like)

    def slice(self, task: int) -> slice:
        """Where a task's ranks lie in R."""
        start = sum(self.ranks[:task])
        return slice(start, start + self.ranks[task])

    def add(self, y: Tensor, x: Tensor, mix: Mix) -> Tensor:
        """Add each token's LoRA to y in place. x: (T, in); y: (T, out)."""
        if mix.only == BASE:
            return y
        if mix.only is not None:
            own = self.slice(mix.only)
            return y.addmm_(x @ self.a[own].T, self.b[own])
        return y.addmm_((x @ self.a.T) * mix.mask(self.ranks, x.dtype), self.b)


class TableLora:
    """The LoRAs of all tasks on an embedding table. a: (V, R); b: (R, D)."""

    def __init__(self, stack: LoraStack) -> None:
        self._stack = stack
        self.a = stack.a.T.contiguous()
        stack.a = stack.a[:0]

    def add(self, y: Tensor, ids: Tensor, mix: Mix) -> Tensor:
        """Add each token's LoRA to y in place. ids: (T,); y: (T, D)."""
        if mix.only == BASE:
            return y
        rows = self.a[ids]
        if mix.only is not None:
            own = self._stack.slice(mix.only)
            return y.addmm_(rows[:, own], self._stack.b[own])
        return y.addmm_(rows * mix.mask(self._stack.ranks, y.dtype), self._stack.b)
