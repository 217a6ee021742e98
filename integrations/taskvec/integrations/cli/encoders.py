"""Opens the model that a command line names."""

import os
from pathlib import Path

from taskvec.core.embedder import Embedder
from taskvec.core.errors import DimensionError
from taskvec.integrations.cli.parser import DEFAULT_MODEL
from taskvec.integrations.cli.redaction import redacted


def open_embedder(model: str) -> Embedder:
    """The process's encoder of a model name, folder or server URL."""
    from taskvec.core import shared_encoder

    return shared_encoder(model)


def canonical_model(model: str) -> str:
    """A model's name as an index remembers it: a folder by its path, a URL without its key."""
    folder = os.path.expanduser(model)  # noqa: PTH111 - Path's raises for ~nobody
    is_folder = model != DEFAULT_MODEL and Path(folder).is_dir()
    return os.path.realpath(folder) if is_folder else redacted(model)


def resolve_dim(embedder: Embedder, dim: int | None) -> int:
    """The dim to encode at. Raises DimensionError unless the model was trained for it."""
    if dim is None:
        return embedder.dim
    if dim not in embedder.dims:
        allowed = ", ".join(map(str, embedder.dims))
        raise DimensionError(f"dim {dim} is not one of the model's: use one of {allowed}")
    return dim
