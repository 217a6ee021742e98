"""The model that a run starts from, as transformers loads it; and what a run writes."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from taskvec.core import Encoder
from taskvec.core.config import read_config
from taskvec.core.errors import InputError
from taskvec.core.writing import new_folder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def as_transformers(model: str, folder: Path) -> Path:
    """A model of either layout as a folder of transformers' layout, kept for the next start.

    Every task's LoRA lies in a subfolder of its own.
    """
    if not folder.exists():
        with Encoder.load(model, device="cpu", dtype="float32") as encoder:
            encoder.save(folder, layout="hf")
    return folder


def config_for(
    folder: Path, rope_base: float | None, dropout: float = 0.0
) -> JinaEmbeddingsV3Config:
    """The config of a folder, with another base of the rotary positions where one is given.

    dropout: while training, in place of the folder's own.
    """
    config: JinaEmbeddingsV3Config = JinaEmbeddingsV3Config.from_pretrained(folder)
    for name, share in dropouts(dropout).items():
        setattr(config, name, share)
    if rope_base is not None:
        config.rope_parameters = {"rope_type": "default", "rope_theta": rope_base}
    return config


def dropouts(share: float) -> dict[str, float]:
    """Both of a config's dropouts."""
    return {"hidden_dropout_prob": share, "attention_probs_dropout_prob": share}


def load_body(folder: Path, dropout: float = 0.0) -> JinaEmbeddingsV3Model:
    """The base weights of such a folder, in float32, trainable. dropout: while they are trained."""
    body: JinaEmbeddingsV3Model = JinaEmbeddingsV3Model.from_pretrained(
        folder,
        config=config_for(folder, None, dropout),
        add_pooling_layer=False,
        dtype=torch.float32,
    )
    return body


def soften(body: nn.Module, start: Path, strength: float) -> None:
    """Go back towards a folder's weights: 1 stays here, 0 is all the way back.

    Of what was learned most is kept, and of what was lost beside it less. Source of the mean of
    weights: arXiv:2109.01903.
    """
    if strength == 1:
        return
    before = load_body(start).state_dict()
    with torch.no_grad():
        for name, now in body.named_parameters():
            now.lerp_(before[name].to(now), 1 - strength)


def dims_of(folder: Path) -> tuple[int, ...]:
    """The Matryoshka dims of a model's folder, ascending."""
    return read_config(folder).dims


def check_dims(folder: Path, named: Iterable[int]) -> None:
    """Raise InputError where settings name a Matryoshka dim that a model's folder does not have."""
    dims = dims_of(folder)
    unknown = sorted(set(named) - set(dims))
    if unknown:
        known = ", ".join(map(str, dims))
        raise InputError(f"dim_weights: the model has no dim {unknown[0]}: use {known}")


def write_body(body: JinaEmbeddingsV3Model, start: Path, out: Path) -> None:
    """Write base weights without LoRAs into a new folder, the rest as in the run's start.

    It has transformers' layout; `Encoder.save` writes the other.
    """
    with new_folder(out) as scratch:
        # By default transformers gives the tensors the names of the model's first checkpoint.
        body.save_pretrained(scratch, save_original_format=False)
        for name in TOKENIZER_FILES:
            if (start / name).exists():
                shutil.copyfile(start / name, scratch / name)
        describe(scratch, dims_of(start), read_config(start).rope_base)
        _keep_dropouts(start, scratch)


def _keep_dropouts(start: Path, folder: Path) -> None:
    """Give a folder's config the start's dropout in place of the run's."""
    config = JinaEmbeddingsV3Config.from_pretrained(start)
    path = folder / "config.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told |= {name: getattr(config, name) for name in dropouts(0.0)}
    path.write_text(json.dumps(told, indent=2), encoding="utf-8")


def describe(folder: Path, dims: Sequence[int], rope_base: float) -> None:
    """Say in a body's config what a checkpoint of ours has: dims, served RoPE base, no task yet."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {
        "lora_adaptations": [],
        "task_instructions": {},
        "matryoshka_dimensions": list(dims),
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_base},
    }
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
