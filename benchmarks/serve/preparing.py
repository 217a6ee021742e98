"""The models that are served: one with live LoRAs, and the same with one merged for peers."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import Size, Writer
from benchmarks.peers import Spec
from benchmarks.peers.merging import merged_folder
from benchmarks.progress import say
from benchmarks.serve.roformer import roformer_folder
from benchmarks.serve.servers import Place
from benchmarks.worker import Worker

TINY = Size("tiny", "2 layers, 32 wide", layers=2, hidden=32, heads=2, ffn=64)
LONGEST = 1024  # tokens that infinity-emb is told to read of a text


@dataclass(frozen=True)
class Model:
    """Folders of the same weights. merged, roformer: with the LoRA of the task asked for."""

    folder: Path
    merged: Path
    roformer: Path


class Maker:
    """Lives in a worker, because it loads torch."""

    def make(self, folder: Path, size: Size, task: str | None) -> Model:
        """Write what is missing."""
        Writer().write(folder, size)
        if task is None:
            return Model(folder, folder, folder)
        merged = merged_folder(Spec(folder, "float32", "cpu", 1, folder), task)
        return Model(folder, merged, roformer_folder(merged, LONGEST))


def prepared(out: Path, size: Size, place: Place, *, task: str | None = None) -> Model:
    """A model below a folder, made where it is missing."""
    folder = out / "models" / size.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"preparing {size.title}")
    worker = Worker("benchmarks.serve.preparing:Maker", environment=place.environment,
                    log=place.folder / "preparing.log")  # fmt: skip
    with closing(worker):
        worker.ready()
        made: Model = worker.call("make", folder, size, task)
        return made
