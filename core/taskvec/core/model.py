"""The network: one packed forward pass in which every row may have its own task.

Rows of a batch lie end to end, (T, D), with no pad token between them. Sources: arXiv:2409.10173
for the architecture, arXiv:2104.09864 for the rotary positions.

Letters: B rows, T tokens, D hidden, H heads, R LoRA ranks.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, starmap
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from taskvec.core.attention import attend, attends_at_once
from taskvec.core.checkpoint import EMBEDDINGS, Checkpoint, linear_shapes
from taskvec.core.config import ModelConfig
from taskvec.core.embedder import Array
from taskvec.core.errors import TaskError
from taskvec.core.graphs import Graphs
from taskvec.core.lora import LoraStack, Mix, Onto, TableLora, Wide, finite
from taskvec.core.packing import BASE, Packed, move, pack
from taskvec.core.tasks import Task
from taskvec.core.tokenizer import Ids
from taskvec.core.windows import Window

Linears: TypeAlias = tuple[Wide, Onto, Wide, Onto]
LINEARS = ("qkv", "out", "fc1", "fc2")
# A model whose linear weights take no more than this holds them merged once for each task in use.
MERGED_BYTES = 64 << 20


class Norm:
    """LayerNorm whose parameters and statistics are float32 whatever the model's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        """`weight` and `bias` are (D,) float32."""
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, D). Returns the same shape and dtype."""
        # Only the CPU's kernel takes float32 parameters beside an input of another dtype.
        wide = x if x.device.type == "cpu" else x.float()
        return F.layer_norm(wide, self.weight.shape, self.weight, self.bias, self.eps).to(x.dtype)


class Layer:
    """One encoder layer: attention and feed-forward, each followed by its norm."""

    def __init__(self, linears: Linears, norms: Sequence[Norm], heads: int) -> None:
        self.qkv, self.out, self.fc1, self.fc2 = linears
        self.norm1, self.norm2 = norms
        self.heads = heads

    def __call__(self, x: Tensor, packed: Packed, rope: Tensor, mixes: Sequence[Mix]) -> Tensor:
        """x: (T, D); mixes: one per block of tokens. Returns (T, D)."""
        block = packed.block
        parts = zip(x.split(block), rope.split(block), mixes, strict=True)
        q, k, v = (joined(blocks) for blocks in zip(*starmap(self._qkv, parts), strict=True))
        mixed = attend(q, k, v, packed).flatten(1)
        parts = zip(x.split(block), mixed.split(block), mixes, strict=True)
        return joined(list(starmap(self._after, parts)))

    def _qkv(self, x: Tensor, rope: Tensor, mix: Mix) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a block, each (T, H, D/H)."""
        heads = self.qkv(x, mix).unflatten(1, (3 * self.heads, -1))  # [T, 3H, D/H]
        qk, v = heads.split((2 * self.heads, self.heads), dim=1)
        q, k = rotate(qk, rope).chunk(2, dim=1)
        return q, k, v

    def _after(self, x: Tensor, mixed: Tensor, mix: Mix) -> Tensor:
        """What attention mixed is added to a block, which then goes through the feed-forward."""
        x = self.norm1(self.out(x, mixed, mix))
        return self.norm2(self.fc2(x, self.fc1.gelu(x, mix), mix))


class Model:
    """The encoder on one device. Not thread-safe: one thread at a time may use it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        dtype: torch.dtype,
        int8: bool = False,
    ) -> None:
        """`set_tasks` comes next: the layers are built for the tasks that they serve.

        int8: the linear layers' weights are int8, and `dtype` is that of everything else.
        """
        self.config = checkpoint.config
        self.device, self.dtype, self.int8 = device, dtype, int8
        self._checkpoint = checkpoint
        self._word = self._read("word.weight")  # [V, D]
        self._type = self._types = self._read("type.weight")  # [1, D]
        self._norm = self._read_norm("norm")
        self._norms = [
            [self._read_norm(f"layers.{i}.norm{n}") for n in (1, 2)]
            for i in range(self.config.layers)
        ]
        self._rope = rope_table(self.config, device)
        shapes = linear_shapes(self.config)
        weights = sum(math.prod(shapes[name]) for name in shapes if name not in EMBEDDINGS)
        self._is_small = weights * (1 if int8 else dtype.itemsize) <= MERGED_BYTES
        self._tasks: tuple[Task, ...] = ()
        self._stacks: dict[str, LoraStack] = {}
        self._words: TableLora | None = None
        self._layers: list[Layer] = []
        self._merged: dict[int, list[Layer]] = {}
        self._graphs: Graphs[list[Layer]] = Graphs(device)
        self._records = attends_at_once(device, dtype)

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Replace the tasks that the model serves.

        Raises CheckpointError for a LoRA that is not finite in the model's dtype; the former
        tasks stay then.
        """
        loras = [task.lora for task in tasks]
        shapes = linear_shapes(self.config).items() if loras else ()
        stacks = {module: LoraStack(loras, module, shape, self._type) for module, shape in shapes}
        for module, stack in stacks.items():
            if module.endswith(".qkv"):
                stack.b = self._interleaved(stack.b.T).T
        deltas = [stacks["type"].delta(i).T for i in range(len(tasks))]
        types = [self._type.float() + delta for delta in deltas]
        self._types = torch.cat([*types, self._type.float()]).to(self.dtype)  # [tasks + 1, D]
        self._words = TableLora(stacks["word"]) if stacks else None
        self._tasks, self._stacks = tuple(tasks), stacks
        self._merged.clear()
        self._graphs.clear()
        del self._layers[:]  # before their successors are built, to hold the weights once
        self._layers += map(self._layer, range(self.config.layers))
        if not self._is_small:
            self._stacks = {}

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
        hidden = self.forward([window.ids for window in windows], tasks)
        return _sum_pieces(hidden, windows)

    @torch.inference_mode()
    def forward(self, rows: Sequence[Ids], tasks: Sequence[Task | None]) -> Tensor:
        """Token vectors of all rows end to end, (T, D), on CUDA valid until the next call.

        tasks: (B,), None for base weights. Raises TaskError for a task that is served no more.
        """
        indices = [self._index(task) for task in tasks]
        packed = pack(rows, indices, self.device)
        layers = self._layers_for(set(indices))
        x = self._graphs(self._run, packed, layers) if self._records else self._run(packed, layers)
        return x[: packed.tokens - packed.fill]

    def _run(self, packed: Packed, layers: list[Layer]) -> Tensor:
        """(T, D), filler included."""
        mix = Mix(packed.tasks)
        x = self._embed(packed, mix)
        rope = self._rope[packed.positions]
        mixes = mix.split(packed.block)
        for layer in layers:
            x = layer(x, packed, rope, mixes)
        return x

    def _layers_for(self, tasks: set[int]) -> list[Layer]:
        """The layers of all tasks; of a small model, those of a batch's one task, merged once.

        In a short pass of a small model the LoRAs' own products cost a third of the time, and the
        weights of all its tasks fit into memory.
        """
        if len(tasks) > 1 or not self._is_small:
            return self._layers
        [task] = tasks
        if task not in self._merged:
            layers = range(self.config.layers)
            self._merged[task] = [self._layer(i, merged=task) for i in layers]
        return self._merged[task]

    def _layer(self, i: int, *, merged: int | None = None) -> Layer:
        """A layer with all tasks' LoRAs, or with one merged into its weights (BASE for none)."""
        qkv, out, fc1, fc2 = (self._linear(f"layers.{i}.{name}", merged) for name in LINEARS)
        int8 = self.int8
        linears = (
            Wide(*qkv, int8=int8),
            Onto(*out, int8=int8),
            Wide(*fc1, int8=int8),
            Onto(*fc2, int8=int8),
        )
        return Layer(linears, self._norms[i], self.config.heads)

    def _linear(self, module: str, merged: int | None) -> tuple[Tensor, Tensor, LoraStack | None]:
        """Weight and bias of a module, and its LoRAs where they are not merged."""
        weight, bias = (self._read(f"{module}.{part}") for part in ("weight", "bias"))
        if module.endswith(".qkv"):
            weight, bias = self._interleaved(weight), self._interleaved(bias)
        stack = self._stacks.get(module)
        if merged is None or stack is None:
            return weight, bias, stack
        if merged != BASE:
            weight = (weight.float() + stack.delta(merged)).to(self.dtype)
        return weight, bias, None

    def _interleaved(self, rows: Tensor) -> Tensor:
        """Rows of q, k and v, each head's two halves of q and k shuffled into pairs.

        RoPE turns pairs (i, i + D/2H): next to each other they are complex numbers. Attention
        does not change when q and k are shuffled alike. rows: (3D, …).
        """
        qk, v = rows.split((2 * self.config.hidden, self.config.hidden))
        halves = qk.unflatten(0, (2 * self.config.heads, 2, -1))
        return torch.cat((halves.transpose(1, 2).flatten(0, 2), v))

    def _read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        stored = self._checkpoint.tensor(name)
        # What is small leaves the file's mapping; the word table stays in it where it can.
        tensor = stored.to(self.device, dtype or self.dtype, copy=stored.dim() == 1)
        return finite(tensor, name)

    def _read_norm(self, name: str) -> Norm:
        weight, bias = (self._read(f"{name}.{part}", torch.float32) for part in ("weight", "bias"))
        return Norm(weight, bias, self.config.norm_eps)

    def _index(self, task: Task | None) -> int:
        if task is None:
            return BASE
        if task not in self._tasks:
            raise TaskError(f"task {task.name!r} was removed before its text was encoded")
        return self._tasks.index(task)

    def _embed(self, packed: Packed, mix: Mix) -> Tensor:
        # The last row is the base's: what BASE, an index of -1, picks.
        x = self._word[packed.ids].add_(self._types[mix.tasks])
        if self._words:
            self._words.add(x, packed.ids, mix)
        return self._norm(x)


@torch.inference_mode()
def _sum_pieces(hidden: Tensor, windows: Sequence[Window]) -> Array:
    """Sums of each window's pieces, copied at once. hidden: (T, D). Returns (P, D) float32."""
    starts = accumulate((len(window.ids) for window in windows), initial=0)
    edges = [
        (offset + start, offset + end)
        for offset, window in zip(starts, windows, strict=False)
        for start, end, _ in window.pieces
    ]
    tokens = np.concatenate([np.arange(*edge) for edge in edges])
    bags = np.cumsum([0, *(end - start for start, end in edges[:-1])])
    if hidden.device.type == "mps":
        hidden = hidden.cpu()  # torch before 2.10 has no embedding_bag there
    tokens_, bags_ = (move(torch.from_numpy(part), hidden.device) for part in (tokens, bags))
    sums: Array = F.embedding_bag(tokens_, hidden.float(), bags_, mode="sum").cpu().numpy()
    return sums


def joined(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks of tokens as one tensor, copied only if there are several."""
    return torch.cat(list(blocks)) if len(blocks) > 1 else blocks[0]


def rope_table(config: ModelConfig, device: torch.device) -> Tensor:
    """A unit complex number per position and pair, (max_tokens, 1, D/2H)."""
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    # Written as the model's authors do: in float32 another form moves distant positions.
    frequencies = 1.0 / (config.rope_base**pairs)
    angles = torch.outer(torch.arange(config.max_tokens).float(), frequencies)
    return torch.polar(torch.ones_like(angles), angles)[:, None].to(device)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Turn each pair of neighbours by its position's angle. x: (T, H, D/H), changed in place."""
    wide = x.float()
    torch.view_as_complex(wide.unflatten(-1, (-1, 2))).mul_(rope)
    return wide.to(x.dtype)
