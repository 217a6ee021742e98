"""A merged model as transformers' RoFormer, which servers without jina-v3's own class can load.

RoFormer is the same network: BERT with rotary positions. It turns neighbouring numbers of a head
where jina-v3 turns those half a head apart, so rows of queries and keys change places, which
changes no attention; and its table of positions is a weight, so that another base fits in.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.peers import Vectors
from benchmarks.peers.merging import made_once

NAMES = {
    r"layers\.(\d+)\.self_attn\.q_proj": r"encoder.layer.\1.attention.self.query",
    r"layers\.(\d+)\.self_attn\.k_proj": r"encoder.layer.\1.attention.self.key",
    r"layers\.(\d+)\.self_attn\.v_proj": r"encoder.layer.\1.attention.self.value",
    r"layers\.(\d+)\.self_attn\.o_proj": r"encoder.layer.\1.attention.output.dense",
    r"layers\.(\d+)\.post_attention_layernorm": r"encoder.layer.\1.attention.output.LayerNorm",
    r"layers\.(\d+)\.mlp\.fc1": r"encoder.layer.\1.intermediate.dense",
    r"layers\.(\d+)\.mlp\.fc2": r"encoder.layer.\1.output.dense",
    r"layers\.(\d+)\.post_mlp_layernorm": r"encoder.layer.\1.output.LayerNorm",
}
KEPT = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "type_vocab_size", "max_position_embeddings", "hidden_act"),
    *("layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id"),
)
MODULES = {
    "": "sentence_transformers.models.Transformer",
    "1_Pooling": "sentence_transformers.models.Pooling",
    "2_Normalize": "sentence_transformers.models.Normalize",
}


def roformer_folder(merged: Path, longest: int) -> Path:
    """The model of a folder, with mean pooling and unit norm, made once beside it.

    merged: as `merged_folder` makes it, in float32. longest: tokens of a text at most.
    """
    folder = merged.with_name(f"{merged.name}-roformer")
    with made_once(folder) as scratch:
        if scratch:
            _write(merged, scratch, longest)
    return folder


def _write(merged: Path, folder: Path, longest: int) -> None:
    config = json.loads((merged / "config.json").read_text())
    heads = config["num_attention_heads"]
    width = config["hidden_size"] // heads
    tensors = {
        _named(name): _turned(tensor, heads) if re.search(r"\.[qk]_proj\.", name) else tensor
        for name, tensor in _tensors(merged).items()
    }
    tensors["encoder.embed_positions.weight"] = _positions(
        config["max_position_embeddings"], width, config["rope_parameters"]["rope_theta"]
    )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    kept: dict[str, Any] = {name: config[name] for name in KEPT}
    _json(
        folder / "config.json",
        kept
        | {"model_type": "roformer", "architectures": ["RoFormerModel"], "rotary_value": False}
        | {"embedding_size": config["hidden_size"]},
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(merged / name, folder)
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(MODULES.items())
    ]
    _json(folder / "modules.json", modules)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": longest})
    for path in filter(None, MODULES):
        (folder / path).mkdir()
    pooling = {"word_embedding_dimension": config["hidden_size"], "pooling_mode_mean_tokens": True}
    _json(folder / "1_Pooling" / "config.json", pooling)


def _tensors(folder: Path) -> dict[str, Vectors]:
    """By the names of transformers' own class, which files need not have."""
    import torch  # noqa: PLC0415 - only workers may load it
    from transformers import JinaEmbeddingsV3Model  # noqa: PLC0415

    model = JinaEmbeddingsV3Model.from_pretrained(
        folder, add_pooling_layer=False, dtype=torch.float32
    )
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _named(name: str) -> str:
    for own, theirs in NAMES.items():
        name = re.sub(f"^{own}", theirs, name)
    return name


def _turned(tensor: Vectors, heads: int) -> Vectors:
    """Rows (D, …) of queries or keys, those half a head apart side by side."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


def _positions(count: int, width: int, base: float) -> Vectors:
    """Sines and then cosines of each position, (count, width)."""
    angles = np.outer(np.arange(count), base ** (-np.arange(0, width, 2) / width))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1))
