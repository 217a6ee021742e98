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
from taskvec.core.errors import CheckpointError
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

    def own(self, u: Tensor, ranks: tuple[int, ...]) -> Tensor:
        """u, with zeros where a rank is not of the token's task. u: (T, R); ranks: of each task."""
        if ranks not in self._masks:
            owners = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks))
            self._masks[ranks] = self.tokens[:, None] != owners.to(self.tokens.device)
        # Not a product: what another task's LoRA overflows to must not become NaN here.
        return u.masked_fill(self._masks[ranks], 0)


class LoraStack:
    """The LoRAs of all tasks on one layer. a: (R, in); b: (R, out), scaling folded in."""

    def __init__(self, loras: Sequence[Lora], module: str, shape: Shape, like: Tensor) -> None:
        """`shape` is the layer's (out, in); `like` gives dtype and device."""
        none = torch.zeros(0, shape[1]), torch.zeros(shape[0], 0)
        pairs = [lora.pairs.get(module, none) for lora in loras]
        self.ranks = tuple(a.shape[0] for a, _ in pairs)
        scaled = [b.T.float() * lora.scaling for lora, (_, b) in zip(loras, pairs, strict=True)]
        self.a = finite(torch.cat([a.to(like) for a, _ in pairs]), f"LoRA A of {module}")
        self.b = finite(torch.cat(scaled).to(like), f"LoRA B of {module}")

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
        return y.addmm_(mix.own(x @ self.a.T, self.ranks), self.b)


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
        return y.addmm_(mix.own(rows, self._stack.ranks), self._stack.b)


def finite(tensor: Tensor, name: str) -> Tensor:
    """The tensor. Raises CheckpointError if it holds NaN or infinity, or overflows its dtype."""
    if not tensor.sum(dtype=torch.float32).isfinite():
        raise CheckpointError(f"{name} holds values that are not finite in {tensor.dtype}")
    return tensor
