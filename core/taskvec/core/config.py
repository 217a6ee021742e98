"""What a checkpoint's config.json says of its model."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from taskvec.core.errors import CheckpointError

Layout: TypeAlias = Literal["jina", "hf"]

# Both published layouts keep XLM-R's habit of counting positions from pad_token_id + 1.
POSITION_OFFSET = 2
DIMS = (32, 64, 128, 256, 512, 768, 1024)
PROMPTS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
ROPE_BASE = 20_000.0
# Far beyond any model of this kind, and small enough for a table of all positions.
MAX_POSITIONS = 1 << 20
TASK_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model, in our own words. Source: arXiv:2409.10173, section 3."""

    layout: Layout
    vocab: int
    hidden: int
    layers: int
    heads: int
    ffn: int
    norm_eps: float
    rope_base: float
    max_tokens: int
    bos: int
    eos: int
    pad: int
    dims: tuple[int, ...]
    # Tasks in the order of the jina layout's tensors; the hf layout names them by its subfolders.
    tasks: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    lora_rank: int = 0
    lora_alpha: float = 1.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


def read_config(folder: Path) -> ModelConfig:
    """The config of a checkpoint folder, whichever layout it has.

    Raises CheckpointError for a missing, broken or foreign config.json.
    """
    path = folder / "config.json"
    raw = read_json(path)
    layout = _layout(path, raw)
    try:
        config = _parse(raw, layout)
    except KeyError as error:
        raise CheckpointError(f"{path}: {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    _check(path, raw, config)
    return config


def sizes_json(config: ModelConfig) -> dict[str, object]:
    """What both layouts' config.json say in the same words."""
    return {
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_tokens + POSITION_OFFSET,
        "type_vocab_size": 1,
        "bos_token_id": config.bos,
        "eos_token_id": config.eos,
        "pad_token_id": config.pad,
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError naming the file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return raw


def _layout(path: Path, raw: dict[str, Any]) -> Layout:
    kind = raw.get("model_type")
    if kind == "jina_embeddings_v3":
        return "hf"
    rotary = raw.get("position_embedding_type") == "rotary"
    if kind == "xlm-roberta" and rotary and "lora_adaptations" in raw:
        return "jina"
    raise CheckpointError(
        f"{path}: unknown layout (model_type {kind!r}): "
        "expected jina-embeddings-v3 or its -hf conversion"
    )


def _parse(raw: dict[str, Any], layout: Layout) -> ModelConfig:
    hidden = _whole(raw, "hidden_size")
    return ModelConfig(
        layout=layout,
        vocab=_whole(raw, "vocab_size"),
        hidden=hidden,
        layers=_whole(raw, "num_hidden_layers"),
        heads=_whole(raw, "num_attention_heads"),
        ffn=_whole(raw, "intermediate_size"),
        norm_eps=_number(raw, "layer_norm_eps", 1e-5),
        rope_base=_rope_base(raw),
        max_tokens=_whole(raw, "max_position_embeddings", high=MAX_POSITIONS) - POSITION_OFFSET,
        bos=_whole(raw, "bos_token_id", 0, low=0),
        eos=_whole(raw, "eos_token_id", 2, low=0),
        pad=_whole(raw, "pad_token_id", 1, low=0),
        dims=_dims(raw, hidden),
        tasks=_tasks(raw),
        prompts=_prompts(raw),
        lora_rank=_whole(raw, "lora_rank", 0, low=0),
        lora_alpha=_number(raw, "lora_alpha", 1.0),
    )


def check_task_name(name: object) -> str:
    """A name that may be a folder's in the hf layout. Raises ValueError otherwise."""
    if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
        raise ValueError(
            f"task name {name!r}: use up to 100 letters, digits, '.', '_' and '-', "
            "and begin with a letter or digit"
        )
    return name


def _whole(
    raw: dict[str, Any], key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 31
) -> int:
    value = raw[key] if default is None else raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{key} is {value!r}, expected a whole number from {low} to {high}")
    return value


def _number(raw: dict[str, Any], key: str, default: float) -> float:
    value = raw.get(key, default)
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 < value < math.inf:
        raise ValueError(f"{key} is {value!r}, expected a positive number")
    return float(value)


def _rope_base(raw: dict[str, Any]) -> float:
    if "rotary_emb_base" in raw:
        return _number(raw, "rotary_emb_base", ROPE_BASE)
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise TypeError(f"rope_parameters is {rope!r}, expected an object")
    if raw.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        raise ValueError("only rope_type 'default' is supported, without rope_scaling")
    if rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError("partial_rotary_factor must be 1")
    return _number(rope, "rope_theta", ROPE_BASE)


def _dims(raw: dict[str, Any], hidden: int) -> tuple[int, ...]:
    """The trained dims, ascending; the full dim is always one of them."""
    given = raw.get("matryoshka_dimensions") or DIMS
    if not isinstance(given, list | tuple):
        raise TypeError(f"matryoshka_dimensions is {given!r}, expected a list")
    dims = {_whole({"matryoshka_dimensions": dim}, "matryoshka_dimensions") for dim in given}
    return tuple(sorted({dim for dim in dims if dim <= hidden} | {hidden}))


def _tasks(raw: dict[str, Any]) -> tuple[str, ...]:
    given = raw.get("lora_adaptations") or []
    if not isinstance(given, list):
        raise TypeError(f"lora_adaptations is {given!r}, expected a list")
    names = tuple(check_task_name(name) for name in given)
    if len(set(names)) != len(names):
        raise ValueError(f"lora_adaptations names a task twice: {given}")
    return names


def _prompts(raw: dict[str, Any]) -> dict[str, str]:
    given = raw.get("task_instructions")
    if given is None:
        return dict(PROMPTS)
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise ValueError("task_instructions must map tasks to texts")
    return given


def _check(path: Path, raw: dict[str, Any], config: ModelConfig) -> None:
    if config.hidden % config.heads or config.head_dim % 2:
        raise CheckpointError(
            f"{path}: hidden_size {config.hidden} cannot be cut into {config.heads} even heads"
        )
    if config.max_tokens < 3:
        raise CheckpointError(f"{path}: max_position_embeddings leaves no room for a text")
    if raw.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{path}: hidden_act {raw['hidden_act']!r} is not supported")
    if raw.get("type_vocab_size", 1) != 1:
        raise CheckpointError(f"{path}: type_vocab_size {raw['type_vocab_size']!r} must be 1")
