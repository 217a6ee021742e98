"""The layout of jinaai/jina-embeddings-v3-hf: transformers' model, a PEFT folder per task."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from taskvec.core.checkpoint import Checkpoint, Lora, tensor_shapes
from taskvec.core.config import ModelConfig, sizes_json
from taskvec.core.errors import CheckpointError
from taskvec.core.layout_jina import original_name
from taskvec.core.peft_format import LINEARS, QKV, TABLES, read_peft, write_peft
from taskvec.core.tensors import TensorFiles
from taskvec.core.writing import write_tensors

NORMS = {"norm1": "post_attention_layernorm", "norm2": "post_mlp_layernorm"}
FOLDERS = {
    "retrieval.query": "retrieval_query",
    "retrieval.passage": "retrieval_passage",
    "separation": "separation",
    "classification": "classification",
    "text-matching": "text_matching",
}


ADAPTER_CONFIG = "adapter_config.json"
OWN = "task_"
# Names that a task's folder must not have, because something else in the checkpoint does.
TAKEN = {
    *FOLDERS.values(),
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
}


class HfCheckpoint:
    """A checkpoint folder in transformers' own layout."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.config = config
        self._files = TensorFiles.of_model(folder)
        self._shapes = tensor_shapes(config)
        # A model saved with a task head has a prefix, and transformers saves what it converted
        # from the original names under those again.
        self._prefix = (
            "roberta." if any(name.startswith("roberta.") for name in self._files) else ""
        )
        self._original = f"{self._prefix}emb_ln.weight" in self._files
        self._adapters = _adapters(folder, config.tasks)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that have a PEFT folder."""
        return tuple(self._adapters)

    def tensor(self, name: str) -> Tensor:
        """A weight or bias by our name; q, k and v are fused."""
        shape = self._shapes[name]
        stems = [original_name(name)] if self._original else _stems(name)
        part = (shape[0] // len(stems), *shape[1:])
        tensors = [self._files.get(self._prefix + stem, part, apart=True) for stem in stems]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def lora(self, task: str) -> Lora:
        """The LoRA of one task's PEFT folder."""
        return read_peft(self._adapters[task], self.config)


def save_hf(
    folder: Path, checkpoint: Checkpoint, loras: Mapping[str, Lora], prompts: Mapping[str, str]
) -> None:
    """Write the base model and one PEFT folder per task, as transformers and PEFT load them."""
    config = checkpoint.config
    tensors: dict[str, Tensor] = {}
    for name in tensor_shapes(config):
        stems = _stems(name)
        tensors |= zip(stems, checkpoint.tensor(name).chunk(len(stems)), strict=True)
    write_tensors(folder / "model.safetensors", tensors)
    dtype = next(iter(tensors.values())).dtype
    described = _config_json(config, tuple(loras), prompts, str(dtype).removeprefix("torch."))
    (folder / "config.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
    for task, lora in loras.items():
        write_peft(folder / task_folder(task), lora, config)


def task_folder(task: str) -> str:
    """The subfolder of a task's LoRA: no two tasks share one."""
    return FOLDERS.get(task) or (f"{OWN}{task}" if task in TAKEN or task.startswith(OWN) else task)


def _adapters(folder: Path, listed: tuple[str, ...]) -> dict[str, Path]:
    """The PEFT folders of the tasks that the config lists, or else of the published ones.

    Other folders, such as a trainer's checkpoints, are none of the model's tasks.
    """
    places = {task: folder / task_folder(task) for task in listed or FOLDERS}
    found = {task: path for task, path in places.items() if (path / ADAPTER_CONFIG).exists()}
    missing = [task for task in listed if task not in found]
    if missing:
        raise CheckpointError(f"{places[missing[0]] / ADAPTER_CONFIG} of a listed task is missing")
    return found


def _stems(name: str) -> list[str]:
    """The file's names of one of our base tensors: three for the fused projection."""
    module, _, part = name.rpartition(".")
    if module == "norm":
        return [f"embeddings.LayerNorm.{part}"]
    if module in TABLES:
        return [f"{TABLES[module]}.{part}"]
    _, layer, kind = module.split(".")
    theirs = QKV if kind == "qkv" else (NORMS.get(kind) or LINEARS[kind],)
    return [f"layers.{layer}.{stem}.{part}" for stem in theirs]


def _config_json(
    config: ModelConfig, tasks: tuple[str, ...], prompts: Mapping[str, str], dtype: str
) -> dict[str, object]:
    return {
        "architectures": ["JinaEmbeddingsV3Model"],
        "model_type": "jina_embeddings_v3",
        "dtype": dtype,
        **sizes_json(config),
        "rope_parameters": {"rope_theta": config.rope_base, "rope_type": "default"},
        "lora_adaptations": list(tasks),
        "task_instructions": {task: prompts.get(task, "") for task in tasks},
        "matryoshka_dimensions": list(config.dims),
    }
