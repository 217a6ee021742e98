"""Whether there can be a checkpoint where a server is told to look for one."""

import os
from pathlib import Path

from taskvec.core.errors import CheckpointError, InputError
from taskvec.core.registry import is_url
from taskvec.core.source import HUB_ID, STARTER

CONFIG = "config.json"
FILES = f"{CONFIG}, tokenizer.json and *.safetensors, as `encoder.save` writes them"


def check_source(model: str, name: str = "a server's model") -> None:
    """Raises CheckpointError for a folder without a checkpoint and what is no name of a model.

    name: what the model was given as. Raises InputError for a server's URL.
    """
    if is_url(model):
        raise InputError(f"{name} is a URL: a server serves weights, and no other server")
    folder = os.path.expanduser(model)  # noqa: PTH111 - takes the home of nobody for a name
    if model == STARTER or os.path.isfile(folder):  # noqa: PTH113 - never raises
        return  # which the encoder looks at
    if os.path.isdir(folder):  # noqa: PTH112 - never raises
        check_folder(Path(folder))
    elif not HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"no model {model!r}: give 'starter', a folder, or a hub id such as "
            "'jinaai/jina-embeddings-v3'"
        )


def check_folder(folder: Path, *, found: str = "give '{}'", lacking: str = "") -> None:
    """Raises CheckpointError for a folder without a checkpoint.

    found: what to do where one of its folders has one. lacking: what to do where none has.
    """
    if (folder / CONFIG).is_file():
        return
    inside = sorted(one.parent for one in folder.glob(f"*/{CONFIG}"))
    cure = found.format(inside[0]) if inside else lacking or f"expected {FILES}"
    raise CheckpointError(f"{folder} holds no checkpoint: {cure}")
