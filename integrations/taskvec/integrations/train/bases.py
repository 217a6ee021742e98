"""The model that a run starts from, as transformers loads it; and what a run writes."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from taskvec.core import Encoder
from taskvec.core.config import read_config
from taskvec.core.errors import InputError
from taskvec.core.writing import new_folder

T = TypeVar("T", bound=Transformer)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def as_transformers(model: str, folder: Path) -> Path:
    """A model of either layout as a folder of transformers' layout, kept for the next start.

    Every task's LoRA lies in a subfolder of its own.
    """
    if not folder.exists():
        with Encoder.load(model, device="cpu", dtype="float32") as encoder:
            encoder.save(folder, layout="hf")
    return folder


def config_for(folder: Path, rope_base: float | None) -> JinaEmbeddingsV3Config:
    """The config of a folder, with another base of the rotary positions where one is given."""
    config: JinaEmbeddingsV3Config = JinaEmbeddingsV3Config.from_pretrained(folder)
    if rope_base is not None:
        config.rope_parameters = {"rope_type": "default", "rope_theta": rope_base}
    return config


def sentence_module(folder: Path, max_tokens: int, rope_base: float | None, kind: type[T]) -> T:
    """sentence-transformers' module of a folder's base weights, in float32, trainable."""
    rope = config_for(folder, rope_base).rope_parameters
    module: T = kind(
        str(folder),
        max_seq_length=max_tokens,
        model_kwargs={"add_pooling_layer": False, "dtype": torch.float32},
        config_kwargs={"rope_parameters": rope},
    )
    return module


def sentence_model(module: Transformer) -> SentenceTransformer:
    """The module with mean pooling behind it."""
    pooling = Pooling(module.get_embedding_dimension(), pooling_mode="mean")
    # Without this every run would first encode samples for a model card that nobody writes.
    card = SentenceTransformerModelCardData(generate_widget_examples=False)
    return SentenceTransformer(modules=[module, pooling], model_card_data=card)


def load_body(folder: Path) -> JinaEmbeddingsV3Model:
    """The base weights of such a folder, in float32, trainable."""
    body: JinaEmbeddingsV3Model = JinaEmbeddingsV3Model.from_pretrained(
        folder, add_pooling_layer=False, dtype=torch.float32
    )
    return body


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
