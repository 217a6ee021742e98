"""Vectors of texts, encoded once and kept in blocks, so that a run that was stopped goes on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from taskvec.core import Embedder
from taskvec.core.embedder import Array

BLOCK = 512  # texts


def encoded(texts: Sequence[str], task: str, encoder: Embedder, folder: Path) -> Array:
    """Vectors of texts under a task, (B, D) float32, those of a folder or encoded into it.

    A block's file is named by all that its vectors depend on: the encoder's fingerprint and texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = encoder.fingerprint(task)
    blocks = []
    with tqdm(total=len(texts), desc=f"encoding for {task}", unit="text") as bar:
        for start in range(0, len(texts), BLOCK):
            block = list(texts[start : start + BLOCK])
            path = folder / f"{key(fingerprint, *block)}.npy"
            if not path.exists():
                _write(path, encoder.encode(block, task=task))
            blocks.append(np.load(path, allow_pickle=False))
            bar.update(len(block))
    return np.concatenate(blocks)


def key(*parts: str) -> str:
    """A name for whatever depends on all of these."""
    told = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        told.update(len(data).to_bytes(8, "big") + data)
    return told.hexdigest()[:24]


def _write(path: Path, vectors: Array) -> None:
    """Never half of a file under its own name."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, vectors)
    part.replace(path)
