"""The LoRAs of all tasks at once, so that one batch may mix tasks freely.

For a layer with weight W the tasks' A matrices are stacked to A_all (R, in) and their B matrices
to B_all (R, out), R being the ranks of all tasks together. u = x @ A_all.T gives every token R
numbers; a mask leaves it those of its own task. What they add is one more product, folded into
one that runs anyway: `Wide` reads u as further columns of its input, `Onto` adds u @ B_all to the
residual that its product is added to. A batch of one task costs what a mixed one costs.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from taskvec.core.checkpoint import Lora
from taskvec.core.dense import Dense
from taskvec.core.errors import CheckpointError
from taskvec.core.quantized import Quantized
from taskvec.core.tensors import Shape

FINITE_BLOCK = 1 << 20  # elements
BLOCK = 32  # matrix kernels want widths that are multiples of this


class Mix:
    """Which task each token of a batch belongs to."""

    def __init__(self, tasks: Tensor) -> None:
        """`tasks` are the indices of tasks, (T,), BASE for none."""
        self.tasks = tasks
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def split(self, block: int) -> list["Mix"]:
        """The tokens in blocks."""
        return [self] if block >= len(self.tasks) else list(map(Mix, self.tasks.split(block)))

    def own(self, u: Tensor, ranks: tuple[int, ...]) -> Tensor:
        """u, changed in place to zeros where a rank is not of the token's task.

        u: (T, R), or wider by columns that are zero already; ranks: of each task.
        """
        if ranks not in self._masks:
            self._masks[ranks] = self.tasks[:, None] != _owners(ranks, self.tasks.device)
        # Not a product: what another task's LoRA overflows to must not become NaN here.
        return u.masked_fill_(self._masks[ranks][:, : u.shape[1]], 0)


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

    def delta(self, task: int) -> Tensor:
        """What a task adds to the layer's weight, (out, in) float32."""
        start = sum(self.ranks[:task])
        own = slice(start, start + self.ranks[task])
        return self.b[own].float().T @ self.a[own].float()


class Wide:
    """[x, u] @ [W, B].T + bias: a layer whose LoRAs are further columns of its input.

    In int8 those columns would be rounded by a range that is not theirs: there the LoRAs are added
    to the product, and GELU comes after.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, stack: LoraStack | None = None, *, int8: bool = False
    ) -> None:
        """`weight` is (out, in), `bias` (out,)."""
        self._ranks = stack.ranks if stack and any(stack.ranks) else ()
        self._up = stack.b if stack and int8 else None
        if stack and self._ranks:
            rank = -len(stack.a) % BLOCK + len(stack.a) if not int8 else len(stack.a)
            self._down = Dense(_taller(stack.a, rank))
            if not int8:
                weight = torch.cat([weight, _taller(stack.b, rank).T], dim=1)
        self._dense = Quantized(weight, bias) if int8 else Dense(weight, bias)

    def __call__(self, x: Tensor, mix: Mix) -> Tensor:
        """x: (T, in). Returns (T, out)."""
        if not self._ranks:
            return self._dense(x)
        u = mix.own(self._down(x), self._ranks)
        if self._up is None:
            return self._dense(torch.cat((x, u), dim=1))
        return self._dense(x).addmm_(u, self._up)

    def gelu(self, x: Tensor, mix: Mix) -> Tensor:
        """Exact GELU of the same. x: (T, in). Returns (T, out)."""
        if not self._ranks:
            return self._dense.gelu(x)
        if self._up is None:
            u = mix.own(self._down(x), self._ranks)
            return self._dense.gelu(torch.cat((x, u), dim=1))
        return F.gelu(self(x, mix))


class Onto:
    """residual + u @ B + x @ W.T + bias: a layer whose LoRAs are added to the residual first."""

    def __init__(
        self, weight: Tensor, bias: Tensor, stack: LoraStack | None = None, *, int8: bool = False
    ) -> None:
        """`weight` is (out, in), `bias` (out,)."""
        self._ranks = stack.ranks if stack and any(stack.ranks) else ()
        if stack and self._ranks:
            self._down, self._up = Dense(stack.a), stack.b
        self._dense = Quantized(weight, bias) if int8 else Dense(weight, bias)

    def __call__(self, residual: Tensor, x: Tensor, mix: Mix) -> Tensor:
        """residual: (T, out); x: (T, in). Returns (T, out)."""
        if self._ranks:
            u = mix.own(self._down(x), self._ranks)
            residual = torch.addmm(residual, u, self._up)
        return self._dense.onto(residual, x)


class TableLora:
    """The LoRAs of all tasks on an embedding table. a: (V, R); b: (R, D)."""

    def __init__(self, stack: LoraStack) -> None:
        self._ranks, self._a, self._b = stack.ranks, stack.a.T.contiguous(), stack.b

    def add(self, y: Tensor, ids: Tensor, mix: Mix) -> Tensor:
        """Add each token's LoRA to y in place. ids: (T,); y: (T, D)."""
        return y.addmm_(mix.own(self._a[ids], self._ranks), self._b)


def finite(tensor: Tensor, name: str) -> Tensor:
    """The tensor. Raises CheckpointError if it holds NaN or infinity, or overflows its dtype."""
    rows = max(1, FINITE_BLOCK // max(1, tensor[:1].numel()))
    # Block by block: a sum in float32 first copies all that it adds up.
    if not all(block.sum(dtype=torch.float32).isfinite() for block in tensor.split(rows)):
        raise CheckpointError(f"{name} holds values that are not finite in {tensor.dtype}")
    return tensor


@functools.lru_cache(maxsize=64)
def _owners(ranks: tuple[int, ...], device: torch.device) -> Tensor:
    """The task of each rank, (R,), and as many more as `_taller` adds."""
    owners = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks))
    return F.pad(owners, (0, -len(owners) % BLOCK), value=len(ranks)).to(device)


def _taller(rows: Tensor, count: int) -> Tensor:
    """The rows, and rows of zeros up to a count."""
    return F.pad(rows, (0, 0, 0, count - len(rows)))
