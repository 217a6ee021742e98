"""The student's five LoRAs: made, tied, run and saved through PEFT."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import JinaEmbeddingsV3Model

from taskvec.core.errors import InputError, TaskError
from taskvec.core.layout_hf import task_folder
from taskvec.integrations.train.distil import collate
from taskvec.integrations.train.settings import lora_folder
from taskvec.integrations.train.transplant import mean_pool

RANK = 4
ALPHA = 1
TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
PROMPTS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
TIED = ("q_proj", "k_proj", "v_proj")
TARGETS = (*TIED, "o_proj", "fc1", "fc2")
TABLES = ("word_embeddings", "token_type_embeddings")
CHUNK_TOKENS = 4096


def lora_name(task: str) -> str:
    """A task's name as PEFT and the published layout spell it: `retrieval.query` has a dot."""
    return lora_folder(task)


def with_loras(
    student: JinaEmbeddingsV3Model,
    tasks: Sequence[str] = TASKS,
    *,
    rank: int = RANK,
    alpha: float = ALPHA,
) -> PeftModel:
    """The student, frozen, with an untrained LoRA per task on every linear layer and table.

    q, k and v of a layer share one A, as the original layout's fused Wqkv demands.
    """
    # PEFT takes a whole number; a fraction is as good in its arithmetic.
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=[*TARGETS, *TABLES],
    )
    model = cast(PeftModel, get_peft_model(student, config, adapter_name=lora_name(tasks[0])))
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


class TaskEncoder:
    """Texts to vectors with one task's LoRA on, prompt included; gradients flow."""

    def __init__(self, model: PeftModel, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.model = model
        self.trained: tuple[str, ...] = ()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def train(self, *tasks: str) -> dict[str, Tensor]:
        """The weights, by name, of the tasks that are now trained."""
        self.trained = tasks
        return parameters_of(self.model, tasks)

    def __call__(self, texts: Sequence[str], task: str | None) -> Tensor:
        """Pooled, not normalised: (B, D) float32. task None: the base weights."""
        if task is None:
            with self.model.disable_adapter():
                return self._pooled(texts)
        self.model.set_adapter(lora_name(task))
        # Choosing a LoRA freezes the others, one of which may be trained in the same step.
        parameters_of(self.model, self.trained)
        return self._pooled([PROMPTS.get(task, "") + text for text in texts])

    def _pooled(self, texts: Sequence[str]) -> Tensor:
        return pooled(self.model.get_base_model(), self.tokenizer, texts, self.max_tokens)


def pooled(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    max_tokens: int,
    ids: Tensor | None = None,
) -> Tensor:
    """Mean-pooled last hidden states, (B, D) float32, in chunks of like length.

    ids: the model's id of each of the tokenizer's, where they differ (the teacher).
    """
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    rows = [row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    parts, start = [], 0
    while start < len(order):
        size = max(1, CHUNK_TOKENS // len(rows[order[start]]))
        batch = collate([rows[i] for i in order[start : start + size]])
        inputs = batch.ids if ids is None else ids[batch.ids]
        hidden = model(input_ids=inputs, attention_mask=batch.mask).last_hidden_state
        parts.append(mean_pool(hidden, batch.mask))
        start += size
    return torch.cat(parts)[torch.tensor(order).argsort()]


def save_loras(
    model: PeftModel, tasks: Sequence[str], folder: Path, *, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write each task's LoRA to a subfolder of its name, in PEFT's files."""
    model.save_pretrained(str(folder), selected_adapters=[lora_name(task) for task in tasks])
    for task in tasks:
        path = folder / lora_name(task) / "adapter_model.safetensors"
        tensors = {name: value.to(dtype) for name, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
