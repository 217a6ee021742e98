"""Named tensors of a checkpoint's safetensors files, memory-mapped and checked."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from taskvec.core.config import read_json
from taskvec.core.errors import CheckpointError

Shape = tuple[int, ...]
# Beside a tensor of int8 stands one of this name, with a factor for each of its rows.
SCALE = ".scale"
INT8_MAX = 127
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class TensorFiles:
    """One safetensors file, or the shards that an index names."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = {path: _open(path) for path in paths}
        self._where = {name: path for path, file in self._files.items() for name in file.keys()}  # noqa: SIM118
        self.path = paths[0]

    def reopened(self) -> "TensorFiles":
        """The same files in mappings of their own, which leave memory with what is read there."""
        return TensorFiles(list(self._files))

    @classmethod
    def of_model(cls, folder: Path) -> "TensorFiles":
        """The model weights of a checkpoint folder. Pickled weights are never opened."""
        index = folder / "model.safetensors.index.json"
        if index.exists():
            return cls([folder / name for name in _shards(index)])
        path = folder / "model.safetensors"
        if path.exists():
            return cls([path])
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder} holds only pickled weights ({pickles[0]}), which taskvec never opens: "
                "convert them to safetensors first"
            )
        raise CheckpointError(f"{path} is missing")

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def shape(self, name: str) -> Shape:
        """Shape of a tensor, read from the header alone."""
        return tuple(self._files[self._path(name)].get_slice(name).get_shape())

    def get(self, name: str, shape: Shape, *, apart: bool = False) -> torch.Tensor:
        """A tensor, mapped rather than copied. Raises CheckpointError if missing or misshapen.

        One that is stored in int8 comes in float32, which is a copy.
        apart: in a mapping of its own, so that its pages leave memory with it. Otherwise all that
        was ever read of a file stays as long as any tensor of it.
        """
        found = self.shape(name)
        path = self._path(name)
        if found != shape:
            raise CheckpointError(f"{path}: tensor {name!r} has shape {found}, expected {shape}")
        file = _open(path) if apart else self._files[path]
        tensor: torch.Tensor = file.get_tensor(name)
        if tensor.dtype == torch.int8 and name + SCALE in self:
            return tensor * self.get(name + SCALE, shape[:-1]).unsqueeze(-1)
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: tensor {name!r} is {tensor.dtype}, expected floats")
        return tensor

    def _path(self, name: str) -> Path:
        if name not in self._where:
            raise CheckpointError(f"{self.path}: tensor {name!r} is missing")
        return self._where[name]


def rows_in_int8(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor (…, N) as int8 and a float32 factor for each row (…): row = int8 · factor.

    Rows that come from int8 already give the same numbers again: a factor has 16 significant bits,
    so that its products with 7 bits are exact, and the largest of them gives it back.
    """
    rows = tensor.float()
    scale = rows.abs().amax(-1) / INT8_MAX
    scale = ((scale.view(torch.int32) + 0xFF) & ~0xFF).view(torch.float32)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (rows / scale.unsqueeze(-1)).round().to(torch.int8), scale


def _shards(index: Path) -> list[str]:
    """File names in an index: plain ones, so that nothing outside the folder is opened."""
    places = read_json(index).get("weight_map")
    names = list(places.values()) if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{index}: 'weight_map' must map tensors to files of this folder")
    return sorted(set(names))


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error
