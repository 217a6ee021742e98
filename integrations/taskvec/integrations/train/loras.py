"""LoRAs on a model: made, tied, started and saved through PEFT."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import JinaEmbeddingsV3Model

from taskvec.core.errors import InputError, TaskError
from taskvec.core.layout_hf import task_folder
from taskvec.integrations.train.settings import lora_folder

TIED = ("q_proj", "k_proj", "v_proj")
TARGETS = (*TIED, "o_proj", "fc1", "fc2")
TABLES = ("word_embeddings", "token_type_embeddings")


def lora_name(task: str) -> str:
    """A task's name as PEFT and the published layout spell it: `retrieval.query` has a dot."""
    return lora_folder(task)


def with_loras(
    body: JinaEmbeddingsV3Model,
    tasks: Sequence[str],
    *,
    rank: int,
    alpha: float,
) -> PeftModel:
    """The body, frozen, with an untrained LoRA per task on every linear layer and table.

    q, k and v of a layer share one A, as the original layout's fused Wqkv demands.
    """
    # PEFT takes a whole number; a fraction is as good in its arithmetic.
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=[*TARGETS, *TABLES],
    )
    model = cast(PeftModel, get_peft_model(body, config, adapter_name=lora_name(tasks[0])))
    for task in tasks[1:]:
        model.add_adapter(lora_name(task), config)
    for task in tasks:
        _tie(model, lora_name(task))
    return model


def _tie(model: PeftModel, name: str) -> None:
    for path, attention in model.named_modules():
        if path.endswith(".self_attn"):
            parts = [attention.get_submodule(f"{part}.lora_A.{name}") for part in TIED]
            for part in parts[1:]:
                part.weight = parts[0].weight


def start_from(model: PeftModel, name: str, folder: Path, task: str) -> None:
    """Give a LoRA the effect of a task's, in a model's folder of transformers' layout.

    Raises TaskError where the folder has no such task, InputError where its rank is another, or
    not the same everywhere, or its q, k and v do not share their A.
    """
    source = folder / task_folder(task)
    if not (source / "adapter_config.json").exists():
        raise TaskError(f"the model has no task {task!r} to start from")
    described = LoraConfig.from_pretrained(str(source))
    config = cast(LoraConfig, model.peft_config[lora_name(name)])
    if described.r != config.r or described.rank_pattern or described.alpha_pattern:
        raise InputError(f"the LoRA of {task!r} has rank {described.r}, or several: use that rank")
    ratio = (described.lora_alpha / described.r) / (config.lora_alpha / config.r)
    own = dict(model.named_parameters(remove_duplicate=False))
    written: set[int] = set()
    with torch.no_grad():
        for path, value in load_file(source / "adapter_model.safetensors").items():
            target = own[_named(path, lora_name(name))]
            wanted = value.to(target.dtype) * (ratio if "_B" in path else 1)
            if id(target) in written and not torch.equal(target, wanted):
                raise InputError(f"the LoRA of {task!r} has an A each for q, k and v: start afresh")
            target.copy_(wanted)
            written.add(id(target))


def _named(path: str, name: str) -> str:
    # PEFT's file leaves the LoRA's name out: "….lora_A.weight", "….lora_embedding_A".
    for part in ("lora_embedding_A", "lora_embedding_B"):
        if path.endswith(part):
            return f"{path}.{name}"
    return path.removesuffix("weight") + f"{name}.weight"


def parameters_of(model: PeftModel, tasks: Sequence[str]) -> dict[str, Tensor]:
    """The tasks' own weights by name, tied ones once, made trainable."""
    names = {lora_name(task) for task in tasks}
    return {
        path: parameter.requires_grad_(True)
        for path, parameter in model.named_parameters()
        if "lora_" in path and names.intersection(path.split("."))
    }


def save_loras(
    model: PeftModel, tasks: Sequence[str], folder: Path, *, strength: float = 1.0
) -> None:
    """Write each task's LoRA, times strength, to a subfolder of its name: PEFT's files, float32."""
    model.save_pretrained(str(folder), selected_adapters=[lora_name(task) for task in tasks])
    for task in tasks:
        path = folder / lora_name(task) / "adapter_model.safetensors"
        tensors = {
            name: value.float() * (strength if "_B" in name else 1)
            for name, value in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
