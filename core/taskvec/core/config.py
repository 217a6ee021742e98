"""What a checkpoint's config.json says of its model."""

import json
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
        raise CheckpointError(f"{path}: a value has the wrong type: {error}") from error
    _check(path, raw, config)
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError naming the file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
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
    hidden = int(raw["hidden_size"])
    prompts = raw.get("task_instructions")
    return ModelConfig(
        layout=layout,
        vocab=int(raw["vocab_size"]),
        hidden=hidden,
        layers=int(raw["num_hidden_layers"]),
        heads=int(raw["num_attention_heads"]),
        ffn=int(raw["intermediate_size"]),
        norm_eps=float(raw.get("layer_norm_eps", 1e-5)),
        rope_base=_rope_base(raw),
        max_tokens=int(raw["max_position_embeddings"]) - POSITION_OFFSET,
        bos=int(raw.get("bos_token_id", 0)),
        eos=int(raw.get("eos_token_id", 2)),
        pad=int(raw.get("pad_token_id", 1)),
        dims=_dims(raw.get("matryoshka_dimensions"), hidden),
        tasks=tuple(raw.get("lora_adaptations") or ()),
        prompts=dict(PROMPTS if prompts is None else prompts),
        lora_rank=int(raw.get("lora_rank", 0)),
        lora_alpha=float(raw.get("lora_alpha", 1.0)),
    )


def _rope_base(raw: dict[str, Any]) -> float:
    rope = raw.get("rope_parameters") or {}
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise ValueError(f"rope_type {kind!r} is not supported, only 'default'")
    return float(raw.get("rotary_emb_base") or rope.get("rope_theta") or ROPE_BASE)


def _dims(given: list[int] | None, hidden: int) -> tuple[int, ...]:
    """The trained dims, ascending; the full dim is always one of them."""
    chosen = {int(dim) for dim in (DIMS if given is None else given) if int(dim) <= hidden}
    return tuple(sorted(chosen | {hidden}))


def _check(path: Path, raw: dict[str, Any], config: ModelConfig) -> None:
    if min(config.vocab, config.hidden, config.layers, config.heads, config.ffn) < 1:
        raise CheckpointError(f"{path}: sizes must be positive")
    if config.hidden % config.heads or config.head_dim % 2:
        raise CheckpointError(
            f"{path}: hidden_size {config.hidden} cannot be cut into {config.heads} even heads"
        )
    if config.max_tokens < 3:
        raise CheckpointError(f"{path}: max_position_embeddings leaves no room for a text")
    if min(config.dims) < 1:
        raise CheckpointError(f"{path}: matryoshka_dimensions must be positive")
    if raw.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{path}: hidden_act {raw['hidden_act']!r} is not supported")
    if raw.get("type_vocab_size", 1) != 1:
        raise CheckpointError(f"{path}: type_vocab_size {raw['type_vocab_size']!r} must be 1")
