"""The finished model: transformers' layout while training, the original one in the package."""

import json
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import JinaEmbeddingsV3Model

from taskvec.core import Encoder
from taskvec.integrations.train.loras import PROMPTS, TASKS
from taskvec.integrations.train.student import DIMS


def write_body(body: JinaEmbeddingsV3Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the base weights in bfloat16, their config and the tokenizer: transformers' layout."""
    torch.nn.Module.to(body, dtype=torch.bfloat16)
    # By default transformers gives the tensors the names of the model's first checkpoint.
    body.save_pretrained(folder, save_original_format=False)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {
        "lora_adaptations": list(TASKS),
        "task_instructions": {task: PROMPTS.get(task, "") for task in TASKS},
        "matryoshka_dimensions": list(DIMS),
    }
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def convert(trained: Path, out: Path) -> None:
    """Write a trained folder's model to `out` in the original layout, licence beside it."""
    with Encoder.load(str(trained), device="cpu", dtype="float32") as encoder:
        encoder.save(out, layout="jina")
    for name in ("LICENSE", "NOTICE"):
        text = (files("taskvec.integrations.train") / "card" / name).read_text("utf-8")
        (out / name).write_text(text, "utf-8")
    for path in out.iterdir():
        # safetensors writes files that only their owner may read; a wheel is read by others.
        path.chmod(0o644)


def megabytes(folder: Path) -> float:
    """Size of a folder's files in MB (10^6 bytes)."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
