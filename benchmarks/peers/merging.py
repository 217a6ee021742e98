"""Models with one LoRA merged into their weights, as tools without LoRAs want them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.models import FOLDERS
from benchmarks.peers import Spec


def merged_folder(spec: Spec, task: str) -> Path:
    """A folder of the model with the task's LoRA merged, in float32; made once."""
    folder = spec.cache / "merged" / FOLDERS[task]
    with made_once(folder) as scratch:
        if scratch:
            _merge(spec.folder, task, scratch)
    return folder


def _merge(source: Path, task: str, target: Path) -> None:
    # Imported here, so that runtimes that find the folder made load no torch.
    import torch  # noqa: PLC0415
    from peft import PeftModel  # noqa: PLC0415
    from transformers import JinaEmbeddingsV3Model  # noqa: PLC0415

    base = JinaEmbeddingsV3Model.from_pretrained(
        source, add_pooling_layer=False, dtype=torch.float32
    )
    PeftModel.from_pretrained(base, source / FOLDERS[task]).merge_and_unload().save_pretrained(
        target
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target)


@contextmanager
def made_once(folder: Path) -> Iterator[Path | None]:
    """A folder to fill, which then takes its name at one stroke; None if it is there already."""
    if folder.exists():
        yield None
        return
    scratch = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    yield scratch
    scratch.rename(folder)
