"""Peak memory of loading a full-size checkpoint in the original layout, and of one batch."""

import json
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypedDict

import numpy as np

from benchmarks.models import DEEP, PACKAGED, tokenizer
from benchmarks.workloads import TASKS

VOCABULARY, RANK = 250_002, 4
BLOCK = 1 << 24  # random values that are written again and again


class Peak(TypedDict):
    """Bytes. imported: with libraries loaded; loaded: at most until loaded; ran: with a batch."""

    weights: int
    imported: int
    loaded: int
    ran: int
    tokens: int


class Loading:
    """Lives in a worker that has loaded nothing yet."""

    def measure(self, folder: Path, batch: list[str], task: str) -> Peak:
        """Load in bfloat16 and run one batch."""
        from taskvec.core import Encoder  # noqa: PLC0415

        imported = peak_rss()
        with Encoder.load(folder, device="cpu", dtype="bfloat16") as encoder:
            loaded = peak_rss()
            encoder.encode(batch, task=task)
            return {
                "weights": (folder / "model.safetensors").stat().st_size,
                "imported": imported,
                "loaded": loaded,
                "ran": peak_rss(),
                "tokens": sum(encoder.count_tokens(batch, task=task)),
            }


def peak_rss() -> int:
    """Most resident bytes that this process ever had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone: the usual call counts what the process was before it, too.
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def write_checkpoint(folder: Path) -> None:
    """A random full-size model in the original layout: 24 layers, 250 002 words, bfloat16."""
    folder.mkdir(parents=True)
    shutil.copy(PACKAGED / "tokenizer.json", folder)
    bos, eos = tokenizer().encode("").ids
    config = {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "vocab_size": VOCABULARY,
        "hidden_size": DEEP.hidden,
        "num_hidden_layers": DEEP.layers,
        "num_attention_heads": DEEP.heads,
        "intermediate_size": DEEP.ffn,
        "max_position_embeddings": 8194,
        "position_embedding_type": "rotary",
        "rotary_emb_base": 20000.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": 0,
        "lora_adaptations": list(TASKS),
        "lora_rank": RANK,
        "lora_alpha": 1,
        "task_instructions": {},
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", dict(_shapes()))


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the original layout."""
    hidden, tasks = DEEP.hidden, len(TASKS)
    yield from _norm("roberta.emb_ln")
    for name, rows in (("word_embeddings", VOCABULARY), ("token_type_embeddings", 1)):
        stem = f"roberta.embeddings.{name}.parametrizations.weight"
        yield f"{stem}.original", (rows, hidden)
        yield f"{stem}.0.lora_A", (tasks, rows, RANK)
        yield f"{stem}.0.lora_B", (tasks, RANK, hidden)
    names = ("mixer.Wqkv", "mixer.out_proj", "mlp.fc1", "mlp.fc2")
    for layer in range(DEEP.layers):
        prefix = f"roberta.encoder.layers.{layer}"
        for name, (out, width) in zip(names, DEEP.linears, strict=True):
            stem = f"{prefix}.{name}.parametrizations.weight"
            yield f"{stem}.original", (out, width)
            yield f"{stem}.0.lora_A", (tasks, RANK, width)
            yield f"{stem}.0.lora_B", (tasks, out, RANK)
            yield f"{prefix}.{name}.bias", (out,)
        yield from _norm(f"{prefix}.norm1")
        yield from _norm(f"{prefix}.norm2")


def _norm(stem: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{stem}.weight", (DEEP.hidden,)
    yield f"{stem}.bias", (DEEP.hidden,)


def write_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file, written block by block so that it never lies in memory."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = np.random.default_rng(0).standard_normal(BLOCK // 2, dtype=np.float32) / 50
    block = (values.view(np.uint32) >> 16).astype("<u2").tobytes()  # float32's upper half
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, BLOCK):
            _put(file, block, min(BLOCK, end - start))


def _put(file: BinaryIO, block: bytes, size: int) -> None:
    file.write(block[:size])
