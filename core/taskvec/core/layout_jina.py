"""The layout of jinaai/jina-embeddings-v3: one safetensors file, every task's LoRA stacked."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from taskvec.core.checkpoint import Checkpoint, Lora, LoraPair, linear_shapes, tensor_shapes
from taskvec.core.config import ModelConfig, sizes_json
from taskvec.core.errors import CheckpointError
from taskvec.core.tensors import SCALE, TensorFiles, rows_in_int8
from taskvec.core.writing import write_tensors

RENAMES = {"qkv": "mixer.Wqkv", "out": "mixer.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
TABLES = {
    "word": "roberta.embeddings.word_embeddings",
    "type": "roberta.embeddings.token_type_embeddings",
    "norm": "roberta.emb_ln",
}


class JinaCheckpoint:
    """A checkpoint folder in the original layout."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.config = config
        self._files = TensorFiles.of_model(folder)
        self._shapes = tensor_shapes(config)
        if config.tasks and config.lora_rank < 1:
            raise CheckpointError(f"{folder / 'config.json'}: 'lora_rank' is missing")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order of the stacked LoRA tensors."""
        return self.config.tasks

    def tensor(self, name: str) -> Tensor:
        """A weight or bias by our name."""
        return self._files.get(_key(name), self._shapes[name], apart=True)

    def lora(self, task: str) -> Lora:
        """One task's slice of the stacked LoRA tensors."""
        row = self.tasks.index(task)
        scaling = self.config.lora_alpha / self.config.lora_rank
        # Copied: the pages between them, read along, would stay in memory with them.
        files = self._files.reopened()
        modules = linear_shapes(self.config)
        pairs = {module: self._pair(files, module, row) for module in modules}
        return Lora(scaling, {module: (a.clone(), b.clone()) for module, (a, b) in pairs.items()})

    def _pair(self, files: TensorFiles, module: str, row: int) -> LoraPair:
        out, width = linear_shapes(self.config)[module]
        rank, tasks = self.config.lora_rank, len(self.tasks)
        a_key, b_key = _lora_keys(module)
        if module in TABLES:
            # Tables are stored the other way round: A (vocab, R), B (R, hidden).
            a = files.get(a_key, (tasks, width, rank))[row].T
            return a, files.get(b_key, (tasks, rank, out))[row].T
        a = files.get(a_key, (tasks, rank, width))[row]
        return a, files.get(b_key, (tasks, out, rank))[row]


def save_jina(
    folder: Path,
    checkpoint: Checkpoint,
    loras: Mapping[str, Lora],
    prompts: Mapping[str, str],
    *,
    int8: bool = False,
) -> None:
    """Write config.json and model.safetensors of this layout into a folder.

    int8: base matrices as int8, with a factor for each row beside them; the rest as it is.

    Ranks that differ between tasks or modules are padded with zeros to the largest one, which
    changes no product.
    """
    config = checkpoint.config
    rank = max((lora.rank for lora in loras.values()), default=1)
    scaling = next((lora.scaling for lora in loras.values()), 1.0)
    tensors: dict[str, Tensor] = {}
    for name in tensor_shapes(config):
        tensor = checkpoint.tensor(name)
        if int8 and tensor.dim() > 1:
            tensor, tensors[_key(name) + SCALE] = rows_in_int8(tensor)
        tensors[_key(name)] = tensor
    for module, (out, width) in linear_shapes(config).items() if loras else ():
        pairs = [_padded(lora, module, rank, scaling, (out, width)) for lora in loras.values()]
        a, b = (_stacked(part) for part in zip(*pairs, strict=True))
        if module in TABLES:
            a, b = a.transpose(1, 2), b.transpose(1, 2)
        a_key, b_key = _lora_keys(module)
        tensors |= {a_key: a, b_key: b}
    write_tensors(folder / "model.safetensors", tensors)
    described = _config_json(config, tuple(loras), prompts, rank, scaling * rank)
    (folder / "config.json").write_text(json.dumps(described, indent=2), encoding="utf-8")


def original_name(name: str) -> str:
    """The original name of one of our base tensors where no LoRA is folded into the file."""
    module, _, part = name.rpartition(".")
    return f"{_stem(module).removeprefix('roberta.')}.{part}"


def _key(name: str) -> str:
    """The file's name of one of our base tensors."""
    module, _, part = name.rpartition(".")
    stem = _stem(module)
    is_plain = part == "bias" or "norm" in module
    return f"{stem}.{part}" if is_plain else f"{stem}.parametrizations.weight.original"


def _lora_keys(module: str) -> tuple[str, str]:
    stem = f"{_stem(module)}.parametrizations.weight.0"
    return f"{stem}.lora_A", f"{stem}.lora_B"


def _stem(module: str) -> str:
    if module in TABLES:
        return TABLES[module]
    _, layer, name = module.split(".")
    return f"roberta.encoder.layers.{layer}.{RENAMES.get(name, name)}"


def _padded(lora: Lora, module: str, rank: int, scaling: float, shape: tuple[int, ...]) -> LoraPair:
    """A pair of the wanted rank and scaling; zeros for a module that the task leaves alone."""
    out, width = shape
    none = torch.zeros(0, width, dtype=torch.bfloat16), torch.zeros(out, 0, dtype=torch.bfloat16)
    a, b = lora.pairs.get(module, none)
    ratio = lora.scaling / scaling
    b = b if ratio == 1 else b.float() * ratio
    missing = rank - a.shape[0]
    return torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing))


def _stacked(tensors: tuple[Tensor, ...]) -> Tensor:
    """One tensor of all tasks', in a dtype that holds each exactly."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return torch.stack([tensor.to(dtype) for tensor in tensors])


def _config_json(
    config: ModelConfig,
    tasks: tuple[str, ...],
    prompts: Mapping[str, str],
    rank: int,
    alpha: float,
) -> dict[str, object]:
    return {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        **sizes_json(config),
        "position_embedding_type": "rotary",
        "rotary_emb_base": config.rope_base,
        "lora_adaptations": list(tasks),
        "lora_rank": rank,
        "lora_alpha": alpha,
        "lora_dropout_p": 0.0,
        "task_instructions": {task: prompts.get(task, "") for task in tasks},
        "matryoshka_dimensions": list(config.dims),
    }
