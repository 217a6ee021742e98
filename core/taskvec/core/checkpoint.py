"""A checkpoint in our own names, whichever published layout it was read from.

Modules are named `word`, `type`, and `layers.{i}.qkv|out|fc1|fc2`; norms are `norm` and
`layers.{i}.norm1|norm2`. A module's tensors are `{module}.weight` and `{module}.bias`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from taskvec.core.config import ModelConfig
from taskvec.core.tensors import Shape

# A is (R, in) and B is (out, R), for an embedding table too: there `in` is the vocabulary.
LoraPair: TypeAlias = tuple[Tensor, Tensor]

EMBEDDINGS = ("word", "type")


@dataclass(frozen=True)
class Lora:
    """The LoRA of one task: W' = W + scaling · B @ A, for the modules that have one."""

    scaling: float
    pairs: Mapping[str, LoraPair]

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max((a.shape[0] for a, _ in self.pairs.values()), default=0)


class Checkpoint(Protocol):
    """Weights on disk, read on demand."""

    config: ModelConfig

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the checkpoint holds a LoRA for, in its order."""

    def tensor(self, name: str) -> Tensor:
        """A weight or bias by our name. Raises CheckpointError naming the file's tensor."""

    def lora(self, task: str) -> Lora:
        """The LoRA of one of `tasks`."""


def linear_shapes(config: ModelConfig) -> dict[str, Shape]:
    """(out, in) of every module, embedding tables as the linear maps of one-hot rows they are."""
    hidden, ffn = config.hidden, config.ffn
    per_layer = {
        "qkv": (3 * hidden, hidden),
        "out": (hidden, hidden),
        "fc1": (ffn, hidden),
        "fc2": (hidden, ffn),
    }
    shapes: dict[str, Shape] = {"word": (hidden, config.vocab), "type": (hidden, 1)}
    for i in range(config.layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in per_layer.items()}
    return shapes


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shape of every base tensor by our name."""
    norm = (config.hidden,)
    shapes: dict[str, Shape] = {"norm.weight": norm, "norm.bias": norm}
    for module, (rows, columns) in linear_shapes(config).items():
        if module in EMBEDDINGS:
            shapes[f"{module}.weight"] = (columns, rows)
        else:
            shapes |= {f"{module}.weight": (rows, columns), f"{module}.bias": (rows,)}
    for i in range(config.layers):
        for name in ("norm1", "norm2"):
            shapes |= {f"layers.{i}.{name}.{part}": norm for part in ("weight", "bias")}
    return shapes


def base_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of the base weights' values, the same in either layout and storage dtype."""
    config = checkpoint.config
    digest = hashlib.sha256(f"{config.heads} {config.norm_eps} {config.rope_base}".encode())
    for name in sorted(tensor_shapes(config)):
        _update(digest, name, checkpoint.tensor(name))
    return digest.hexdigest()


def lora_digest(lora: Lora) -> str:
    """SHA-256 of what a LoRA adds; modules and ranks that add nothing do not count."""
    digest = hashlib.sha256()
    for module in sorted(lora.pairs):
        a, b = lora.pairs[module]
        live = a.any(dim=1) & b.any(dim=0)
        if live.any():
            _update(digest, f"{module}.a", a[live])
            _update(digest, f"{module}.b", b[:, live].float() * lora.scaling)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)}".encode())
    for block in _blocks(tensor):
        digest.update(block.contiguous().float().numpy().tobytes())


def _blocks(tensor: Tensor, elements: int = 1 << 22) -> Iterator[Tensor]:
    """Row blocks of bounded size, so that hashing a large table needs little memory."""
    rows = max(1, elements // max(1, tensor[0].numel()))
    return iter(torch.split(tensor, rows))
