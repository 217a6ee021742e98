"""Which writer makes a checkpoint of a layout and a dtype."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from taskvec.core.checkpoint import Checkpoint, Lora
from taskvec.core.config import Layout
from taskvec.core.errors import InputError
from taskvec.core.layout_hf import save_hf
from taskvec.core.layout_jina import save_jina

SavedDtype: TypeAlias = Literal["stored", "int8"]
Writer: TypeAlias = Callable[[Path, Checkpoint, Mapping[str, Lora], Mapping[str, str]], None]

WRITERS: Mapping[Layout, Writer] = {"jina": save_jina, "hf": save_hf}


def writer(layout: Layout, dtype: SavedDtype) -> Writer:
    """What writes a model's files into a folder. Raises InputError for an unknown choice."""
    if layout not in WRITERS:
        raise InputError(f"unknown layout {layout!r}: use one of {tuple(WRITERS)}")
    if dtype not in get_args(SavedDtype):
        raise InputError(f"unknown dtype {dtype!r}: use one of {get_args(SavedDtype)}")
    if dtype == "int8" and layout != "jina":
        raise InputError(f"transformers reads no int8 rows in layout {layout!r}: use 'jina'")
    return partial(save_jina, int8=True) if dtype == "int8" else WRITERS[layout]
