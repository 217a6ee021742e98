"""From a model's name to what an encoder consists of."""

from collections.abc import Sequence
from pathlib import Path

import torch

from taskvec.core.checkpoint import Checkpoint
from taskvec.core.config import Layout, read_config
from taskvec.core.layout_hf import HfCheckpoint
from taskvec.core.layout_jina import JinaCheckpoint
from taskvec.core.model import Model
from taskvec.core.placement import choose_dtype
from taskvec.core.source import find
from taskvec.core.tokenizer import Tokenizer

LAYOUTS: dict[Layout, type[JinaCheckpoint] | type[HfCheckpoint]] = {
    "jina": JinaCheckpoint,
    "hf": HfCheckpoint,
}


def open_checkpoint(source: str | Path, revision: str | None) -> tuple[Checkpoint, Tokenizer]:
    """A model's weights, mapped rather than read, and its tokenizer. Raises CheckpointError."""
    folder = find(source, revision)
    config = read_config(folder)
    return LAYOUTS[config.layout](folder, config), Tokenizer(folder / "tokenizer.json", config)


def build_models(
    checkpoint: Checkpoint, devices: Sequence[torch.device], dtype: str
) -> list[Model]:
    """One replica per device, all from the same mapped files. Raises InputError for a dtype."""
    dtypes = [choose_dtype(dtype, device) for device in devices]
    # Several GPUs of different age compute in what the oldest can do.
    common = dtypes[0] if len(set(dtypes)) == 1 else torch.float32
    if common == torch.int8:
        inner = choose_dtype("auto", devices[0])
        return [Model(checkpoint, device=device, dtype=inner, int8=True) for device in devices]
    return [Model(checkpoint, device=device, dtype=common) for device in devices]
