"""The network: one packed forward pass in which every row may have its own task.

Rows of a batch lie end to end, (T, D), with no pad token between them. Sources: arXiv:2409.10173
for the architecture, arXiv:2104.09864 for the rotary positions.

Letters: B rows, T tokens, D hidden, H heads, R LoRA ranks.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from taskvec.core.attention import attend
from taskvec.core.checkpoint import Checkpoint, linear_shapes
from taskvec.core.config import ModelConfig
from taskvec.core.dense import Dense
from taskvec.core.embedder import Array
from taskvec.core.errors import TaskError
from taskvec.core.lora import BASE, LoraStack, Mix, TableLora, finite
from taskvec.core.packing import Packed, pack
from taskvec.core.tasks import Task
from taskvec.core.windows import Window

Rope: TypeAlias = tuple[Tensor, Tensor]  # cos and sin, [T, 1, D/H/2] each


class Linear:
    """y = x @ W.T + bias, and each token's LoRA."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """`weight` is [out, in], `bias` [out]."""
        self.dense = Dense(weight, bias)
        self.lora: LoraStack | None = None

    def __call__(self, x: Tensor, mix: Mix) -> Tensor:
        """x: (T, in). Returns (T, out)."""
        y = self.dense(x)
        return self.lora.add(y, x, mix) if self.lora else y


class Norm:
    """LayerNorm whose parameters and statistics are float32 whatever the model's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self.weight = weight.float()
        self.bias = bias.float()
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, D). Returns the same shape and dtype."""
        # Only the CPU's kernel takes float32 parameters beside an input of another dtype.
        wide = x if x.device.type == "cpu" else x.float()
        return F.layer_norm(wide, self.weight.shape, self.weight, self.bias, self.eps).to(x.dtype)


class Layer:
    """One encoder layer: attention and feed-forward, each followed by its norm."""

    def __init__(self, linears: Mapping[str, Linear], norms: Sequence[Norm], heads: int) -> None:
        self.qkv, self.out = linears["qkv"], linears["out"]
        self.fc1, self.fc2 = linears["fc1"], linears["fc2"]
        self.norm1, self.norm2 = norms
        self.heads = heads

    def __call__(self, x: Tensor, packed: Packed, rope: Rope, mix: Mix) -> Tensor:
        """x: (T, D). Returns (T, D)."""
        q, k, v = self.qkv(x, mix).unflatten(-1, (3, self.heads, -1)).unbind(1)  # [T, H, D/H]
        mixed = attend(rotate(q, rope), rotate(k, rope), v, packed)
        x = self.norm1(x + self.out(mixed.flatten(1), mix))
        return self.norm2(x + self.fc2(F.gelu(self.fc1(x, mix)), mix))


class Model:
    """The encoder on one device. Not thread-safe: one thread at a time may use it."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        self.config = checkpoint.config
        self.device, self.dtype = device, dtype

        def read(name: str) -> Tensor:
            return finite(checkpoint.tensor(name).to(device, dtype), name)

        def norm(name: str) -> Norm:
            weight, bias = (checkpoint.tensor(f"{name}.{part}") for part in ("weight", "bias"))
            finite(weight, name), finite(bias, name)
            return Norm(weight.to(device), bias.to(device), self.config.norm_eps)

        self._linears = {
            module: Linear(read(f"{module}.weight"), read(f"{module}.bias"))
            for module in linear_shapes(self.config)
            if module.startswith("layers.")
        }
        self._word = read("word.weight")  # [V, D]
        self._type = read("type.weight")  # [1, D]
        self._norm = norm("norm")
        self._layers = [
            Layer(
                {
                    name: self._linears[f"layers.{i}.{name}"]
                    for name in ("qkv", "out", "fc1", "fc2")
                },
                [norm(f"layers.{i}.norm1"), norm(f"layers.{i}.norm2")],
                self.config.heads,
            )
            for i in range(self.config.layers)
        ]
        self._rope = rope_table(self.config, device, dtype)
        self._tables: dict[str, TableLora] = {}
        self._tasks: tuple[Task, ...] = ()

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Replace the tasks that the model serves.

        Raises CheckpointError for a LoRA that is not finite in the model's dtype; the former
        tasks stay then.
        """
        loras = [task.lora for task in tasks]
        shapes = linear_shapes(self.config)
        stacks = {
            module: LoraStack(loras, module, shape, self._word) if loras else None
            for module, shape in shapes.items()
        }
        self._tasks = tuple(tasks)
        self._tables = {}
        for module, stack in stacks.items():
            if module in self._linears:
                self._linears[module].lora = stack
            elif stack:
                self._tables[module] = TableLora(stack)

    def piece_sums(self, windows: Sequence[Window], tasks: Sequence[Task | None]) -> Array:
        """Sums of the token vectors of every piece of every window, in order, (P, D) float32.

        windows, tasks: (B,); None for base weights. Raises TaskError for a task that is served no
        more. After an out-of-memory error the GPU's cached memory is released.
        """
        try:
            return self._piece_sums(windows, tasks)
        except torch.OutOfMemoryError as error:
            # The frames of its traceback hold the batch's tensors.
            failure = error.with_traceback(None)
        torch.cuda.empty_cache()
        raise failure

    def _piece_sums(self, windows: Sequence[Window], tasks: Sequence[Task | None]) -> Array:
        packed = pack([window.ids for window in windows], self.device)
        return _sum_pieces(self.forward(packed, tasks), windows)

    @torch.inference_mode()
    def forward(self, packed: Packed, tasks: Sequence[Task | None]) -> Tensor:
        """Token vectors of a packed batch, (T, D). tasks: (B,), None for base weights.

        Raises TaskError for a task that is served no more.
        """
        mix = Mix([self._index(task) for task in tasks], packed.lengths, self.device)
        x = self._embed(packed, mix)
        rope = (self._rope[0][packed.positions], self._rope[1][packed.positions])
        for layer in self._layers:
            x = layer(x, packed, rope, mix)
        return x

    def _index(self, task: Task | None) -> int:
        if task is None:
            return BASE
        if task not in self._tasks:
            raise TaskError(f"task {task.name!r} was removed before its text was encoded")
        return self._tasks.index(task)

    def _embed(self, packed: Packed, mix: Mix) -> Tensor:
        x = self._word[packed.ids] + self._type
        for module, ids in (("word", packed.ids), ("type", torch.zeros_like(packed.ids))):
            if module in self._tables:
                x = self._tables[module].add(x, ids, mix)
        return self._norm(x)


def _sum_pieces(hidden: Tensor, windows: Sequence[Window]) -> Array:
    """Sums of each window's pieces, copied at once. hidden: (T, D). Returns (P, D) float32."""
    sums, offset = [], 0
    for window in windows:
        for start, end, _ in window.pieces:
            sums.append(hidden[offset + start : offset + end].sum(dim=0, dtype=torch.float32))
        offset += len(window.ids)
    stacked: Array = torch.stack(sums).cpu().numpy()
    return stacked


def rope_table(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Rope:
    """Cosines and sines of every position, (max_tokens, 1, D/H/2) each."""
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    # Written as the model's authors do: in float32 another form moves distant positions.
    frequencies = 1.0 / (config.rope_base**pairs)
    angles = torch.outer(torch.arange(config.max_tokens).float(), frequencies)
    table = angles[:, None].to(device)
    return table.cos().to(dtype), table.sin().to(dtype)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn each head's first and second half against each other. x: (T, H, D/H)."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
