"""The contenders: what they are called, where they run, and the settings that each tries."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """How a contender batches: texts per batch (0: its own way) and batches side by side."""

    batch: int = 0
    streams: int = 1

    def __str__(self) -> str:
        batch = f"batch {self.batch}" if self.batch else "defaults"
        return f"{batch}, {self.streams} streams" if self.streams > 1 else batch


@dataclass(frozen=True)
class Spec:
    """What a contender loads. cache: a folder for what it makes of the model."""

    folder: Path
    dtype: str
    device: str
    threads: int
    cache: Path


class Peer(Protocol):
    """A loaded contender."""

    def encode(self, texts: list[str], tasks: list[str], setting: Setting) -> Vectors:
        """(B, D) unit vectors, tokenizing included."""

    def facts(self) -> dict[str, Any]:
        """What a reader should know of how it runs."""


@dataclass(frozen=True)
class Entry:
    """A contender before it is loaded; on a card it tries settings of their own, if any."""

    title: str
    target: str
    dtypes: tuple[str, ...]
    settings: tuple[Setting, ...]
    devices: tuple[str, ...] = ("cpu",)
    card_settings: tuple[Setting, ...] = ()

    def settings_on(self, device: str) -> tuple[Setting, ...]:
        """What it tries there."""
        return self.card_settings or self.settings if device == "cuda" else self.settings


def batches(*sizes: int, streams: int = 1) -> tuple[Setting, ...]:
    """A setting per batch size."""
    return tuple(Setting(size, streams) for size in sizes)


OURS = "taskvec"
FLOATS = ("float32", "bfloat16")
CPUS = os.cpu_count() or 1
EVERYWHERE = ("cpu", "cuda")
PEERS = {
    OURS: Entry(
        "**taskvec**",
        "benchmarks.peers.ours:Ours",
        (*FLOATS, "int8"),
        (Setting(),),
        EVERYWHERE,
    ),
    "peft": Entry(
        "transformers + PEFT, LoRA live",
        "benchmarks.peers.transformers:WithPeft",
        FLOATS,
        batches(1, 4, 8, 16, 64),
        EVERYWHERE,
        batches(32, 64, 128, 256, 512),
    ),
    "transformers": Entry(
        "transformers, LoRA merged",
        "benchmarks.peers.transformers:Merged",
        FLOATS,
        batches(1, 4, 8, 16, 64),
        EVERYWHERE,
        batches(32, 64, 128, 256, 512),
    ),
    "sentence-transformers": Entry(
        "sentence-transformers, LoRA merged",
        "benchmarks.peers.sentence_transformers:Merged",
        FLOATS,
        batches(1, 4, 8, 16, 64),
        EVERYWHERE,
        batches(32, 64, 128, 256, 512),
    ),
    "onnxruntime": Entry(
        "ONNX Runtime, LoRA merged",
        "benchmarks.peers.onnxruntime:Merged",
        ("float32", "int8"),
        batches(1, 4, 8, 16, 64),
    ),
    "openvino": Entry(
        "OpenVINO, LoRA merged",
        "benchmarks.peers.openvino:Merged",
        (*FLOATS, "int8"),
        batches(1, 4, 8, 16) + batches(1, 4, streams=CPUS),
    ),
}
