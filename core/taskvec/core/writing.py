"""Writing checkpoint files so that a reader never sees half of one."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from taskvec.core.errors import InputError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors; views of one tensor under several names are stored apart."""
    whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` once everything in it is written.

    On an error nothing is left. Raises InputError if `folder` holds anything already: a LoRA of
    an earlier save would be taken for one of this model's tasks.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: save into a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
        _open_up(scratch)
        scratch.replace(folder.resolve())
    except BaseException:
        shutil.rmtree(scratch)
        raise


def _open_up(folder: Path) -> None:
    """Give all files the mode of any new file: safetensors and mkdtemp write for one user only."""
    probe = folder / ".mode"
    probe.touch()
    readable = probe.stat().st_mode & 0o666
    probe.unlink()
    for path in (folder, *folder.rglob("*")):
        path.chmod(readable | (readable & 0o444) >> 2 if path.is_dir() else readable)
