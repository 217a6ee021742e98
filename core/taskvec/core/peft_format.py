"""A LoRA in PEFT's files: adapter_config.json and adapter_model.safetensors."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from taskvec.core.checkpoint import EMBEDDINGS, Lora, LoraPair, linear_shapes
from taskvec.core.config import ModelConfig, read_json
from taskvec.core.errors import CheckpointError
from taskvec.core.tensors import Shape, TensorFiles
from taskvec.core.writing import write_tensors

PREFIX = "base_model.model."
TABLES = {"word": "embeddings.word_embeddings", "type": "embeddings.token_type_embeddings"}
LINEARS = {"out": "self_attn.o_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
# What PEFT can do beside plain LoRA and would be wrong to ignore.
UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable tokens",
    "use_qalora": "QA-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "lora_bias": "a LoRA with biases",
    "fan_in_fan_out": "fan_in_fan_out",
    "target_parameters": "target_parameters",
}


def read_peft(folder: Path, config: ModelConfig) -> Lora:
    """The LoRA in a PEFT folder, for a base of this config.

    Raises CheckpointError for a LoRA of another base, another method than LoRA, or a tensor that
    no module of the base owns.
    """
    described = read_json(folder / "adapter_config.json")
    _check_method(folder, described)
    path = folder / "adapter_model.safetensors"
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder} holds a pickled LoRA (adapter_model.bin), which taskvec never opens: "
            "save it again with PEFT's safe_serialization"
        )
    source = _PeftTensors(TensorFiles([path]), described)
    pairs = {module: source.pair(module, shape) for module, shape in linear_shapes(config).items()}
    source.check_all_used()
    if not any(pairs.values()):
        raise CheckpointError(f"{path} holds no LoRA")
    return Lora(source.scaling, {module: pair for module, pair in pairs.items() if pair})


def write_peft(folder: Path, lora: Lora, config: ModelConfig) -> None:
    """Write a LoRA as PEFT does, q, k and v apart."""
    # PEFT takes seconds to import, and only writing needs it.
    from peft import LoraConfig  # noqa: PLC0415

    tensors: dict[str, Tensor] = {}
    for module, pair in lora.pairs.items():
        for stem, (a, b) in _split(module, pair, config):
            kind = "lora_embedding_{}" if module in EMBEDDINGS else "lora_{}.weight"
            tensors[f"{PREFIX}{stem}.{kind.format('A')}"] = a
            tensors[f"{PREFIX}{stem}.{kind.format('B')}"] = b
    ranks = {_stem_of(name): tensor.shape[0] for name, tensor in tensors.items() if "_A" in name}
    common = max(ranks.values(), key=list(ranks.values()).count)
    other = {stem: rank for stem, rank in ranks.items() if rank != common}
    described = LoraConfig(
        r=common,
        # PEFT types it as a whole number, and takes any: scaling is alpha / r.
        lora_alpha=lora.scaling * common,  # type: ignore[arg-type]
        rank_pattern={re.escape(stem): rank for stem, rank in other.items()},
        alpha_pattern={re.escape(stem): lora.scaling * rank for stem, rank in other.items()},
        target_modules=sorted(ranks),
        lora_dropout=0.0,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    described.save_pretrained(str(folder))
    write_tensors(folder / "adapter_model.safetensors", tensors)


class _PeftTensors:
    """Tensors of one PEFT file, by the name of the module that they belong to."""

    def __init__(self, files: TensorFiles, described: Mapping[str, Any]) -> None:
        self._files = files
        self._described = described
        self._names = {_stem_of(name, whole=True): name for name in files}
        self._unused = {
            name for short, name in self._names.items() if not short.startswith("pooler.")
        }
        self.scaling = self._scaling("")

    def pair(self, module: str, shape: Shape) -> LoraPair | None:
        """A and B of one of our modules; None where the LoRA leaves it alone."""
        if module in TABLES:
            return self._stem(TABLES[module], "lora_embedding_{}", shape)
        _, layer, name = module.split(".")
        if name != "qkv":
            return self._stem(f"layers.{layer}.{LINEARS[name]}", "lora_{}.weight", shape)
        third = (shape[0] // 3, shape[1])
        parts = [self._stem(f"layers.{layer}.{part}", "lora_{}.weight", third) for part in QKV]
        return _fuse(parts, third)

    def check_all_used(self) -> None:
        """Refuse tensors that no module took. Raises CheckpointError."""
        if self._unused:
            raise CheckpointError(
                f"{self._files.path}: tensor {min(self._unused)!r} fits no module of the base"
            )

    def _stem(self, stem: str, kind: str, shape: Shape) -> LoraPair | None:
        names = [self._names.get(f"{stem}.{kind.format(side)}") for side in "AB"]
        if names == [None, None]:
            return None
        a_name, b_name = (
            name or f"{PREFIX}{stem}.{kind.format(side)}"
            for name, side in zip(names, "AB", strict=True)
        )
        rank = self._rank(stem)
        try:
            a = self._files.get(a_name, (rank, shape[1]))
            b = self._files.get(b_name, (shape[0], rank))
        except CheckpointError as error:
            raise CheckpointError(f"{error} (a LoRA of another base?)") from None
        self._unused -= {a_name, b_name}
        ratio = self._scaling(stem) / self.scaling
        return a, b if ratio == 1 else b.float() * ratio

    def _rank(self, stem: str) -> int:
        return int(_by_pattern(self._described.get("rank_pattern"), stem, self._described["r"]))

    def _scaling(self, stem: str) -> float:
        alpha = _by_pattern(
            self._described.get("alpha_pattern"), stem, self._described["lora_alpha"]
        )
        rank = self._rank(stem)
        return float(alpha) / (rank**0.5 if self._described.get("use_rslora") else rank)


def _check_method(folder: Path, described: Mapping[str, Any]) -> None:
    path = folder / "adapter_config.json"
    if described.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type {described.get('peft_type')!r} is not 'LORA'")
    for key, name in UNSUPPORTED.items():
        if described.get(key):
            raise CheckpointError(f"{path}: {name} is not supported, only plain LoRA")
    if described.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: a LoRA with trained biases is not supported")
    if not _is_positive(described.get("r"), int):
        raise CheckpointError(f"{path}: 'r' must be a positive whole number")
    if not _is_positive(described.get("lora_alpha"), int | float):
        raise CheckpointError(f"{path}: 'lora_alpha' must be a positive number")
    for key, kind in (("rank_pattern", int), ("alpha_pattern", int | float)):
        pattern = described.get(key) or {}
        values = pattern.values() if isinstance(pattern, dict) else [None]
        if not all(_is_positive(value, kind) for value in values):
            raise CheckpointError(f"{path}: {key!r} must map modules to positive numbers")


def _is_positive(value: object, kind: Any) -> bool:
    good = isinstance(value, kind) and not isinstance(value, bool)
    return good and 0 < cast("float", value) < math.inf


def _by_pattern(pattern: Mapping[str, float] | None, stem: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of a module's name decides."""
    for key, value in (pattern or {}).items():
        try:
            matched = re.match(rf"(.*\.)?({key})$", stem)
        except re.error as error:
            raise CheckpointError(f"adapter_config.json: {key!r} is no pattern: {error}") from None
        if matched:
            return value
    return default


def _stem_of(name: str, *, whole: bool = False) -> str:
    """A tensor's module, or its whole name, without what PEFT and task heads put before it."""
    short = name.removeprefix(PREFIX).removeprefix("roberta.")
    return short if whole else short.partition(".lora_")[0]


def _fuse(parts: list[LoraPair | None], shape: Shape) -> LoraPair | None:
    """LoRAs of q, k and v as one of the fused projection.

    One A for all three where they share it, as in the jina layout; otherwise their A's stacked,
    with B block-diagonal.
    """
    given = [part for part in parts if part is not None]
    if not given:
        return None
    first = given[0][0]
    shared = len(given) == len(parts) and all(torch.equal(a, first) for a, _ in given)
    if shared:
        return first, torch.cat([b for _, b in given])
    b = torch.zeros(
        shape[0] * len(parts), sum(a.shape[0] for a, _ in given), dtype=given[0][1].dtype
    )
    column = 0
    for row, part in enumerate(parts):
        if part is not None:
            rank = part[0].shape[0]
            b[row * shape[0] : (row + 1) * shape[0], column : column + rank] = part[1]
            column += rank
    return torch.cat([a for a, _ in given]), b


def _split(module: str, pair: LoraPair, config: ModelConfig) -> list[tuple[str, LoraPair]]:
    """The inverse of `_fuse`, and of our names."""
    if module in TABLES:
        return [(TABLES[module], pair)]
    _, layer, name = module.split(".")
    if name != "qkv":
        return [(f"layers.{layer}.{LINEARS[name]}", pair)]
    a, b = pair
    split = []
    for row, part in enumerate(QKV):
        block = b[row * config.hidden : (row + 1) * config.hidden]
        own = block.any(dim=0)
        used = own if own.any() else ~own
        split.append((f"layers.{layer}.{part}", (a[used], block[:, used])))
    return split
