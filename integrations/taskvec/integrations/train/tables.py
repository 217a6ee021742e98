"""Training data: files of rows, and what their columns make of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from taskvec.core.errors import InputError

READERS = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"delimiter": "\t"}),
    ".parquet": ("parquet", {}),
}
OTHER_NAMES = {
    "query": "anchor",
    "question": "anchor",
    "passage": "positive",
    "document": "positive",
    "answer": "positive",
    "sentence1": "text1",
    "sentence2": "text2",
    "sentence": "text",
    "class": "label",
}


class Kind(Enum):
    """What rows are, and the columns that say so."""

    TEXTS = ("text",)
    PAIRS = ("anchor", "positive")
    SCORES = ("text1", "text2", "score")
    LABELS = ("text", "label")


def read_rows(paths: Sequence[Path]) -> Dataset:
    """All rows of some files of one kind, their columns under our names.

    Raises InputError for a file that is missing, empty, of an unknown kind or not readable.
    """
    parts = [_read(Path(path)) for path in paths]
    columns = sorted(parts[0].column_names)
    for path, part in zip(paths, parts, strict=True):
        if sorted(part.column_names) != columns:
            names = ", ".join(part.column_names)
            raise InputError(f"{path} has columns {names}; {paths[0]} has {', '.join(columns)}")
    try:
        return concatenate_datasets([part.select_columns(columns) for part in parts])
    except ValueError as error:
        raise InputError(f"a column is of another kind in {paths[0]} and in others") from error


def _read(path: Path) -> Dataset:
    if path.suffix not in READERS:
        raise InputError(f"{path}: unknown kind of file; use one of {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not path.stat().st_size:
        raise InputError(f"{path} holds no row")
    reader, options = READERS[path.suffix]
    with TemporaryDirectory() as cache:
        try:
            rows = load_dataset(
                reader,
                data_files=str(path),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
        except (DatasetGenerationError, ValueError, OSError) as error:
            cause = error.__cause__ or error
            raise InputError(f"{path} can not be read: {cause}") from error
    if not len(rows):
        raise InputError(f"{path} holds no row")
    return _renamed(path, rows)


def _renamed(path: Path, rows: Dataset) -> Dataset:
    """The rows under our names. Raises InputError where two columns mean the same."""
    meant: dict[str, str] = {}
    for name in rows.column_names:
        ours = OTHER_NAMES.get(name, name)
        if ours in meant:
            raise InputError(f"{path}: columns {meant[ours]!r} and {name!r} both mean {ours!r}")
        meant[ours] = name
    return rows.rename_columns({name: ours for ours, name in meant.items() if name != ours})


def kind_of(rows: Dataset, allowed: Sequence[Kind]) -> Kind:
    """The first allowed kind whose columns are there. Raises InputError where none is."""
    for kind in allowed:
        if set(kind.value) <= set(rows.column_names):
            return kind
    wanted = " or ".join(", ".join(kind.value) for kind in allowed)
    raise InputError(f"the data has columns {', '.join(rows.column_names)}; needed: {wanted}")


def columns_of(rows: Dataset, kind: Kind) -> Dataset:
    """The kind's own columns in their order, with `negative…` ones where pairs have them.

    Raises InputError, with the row's number from 1, for a text, score or label that is none.
    """
    names = list(kind.value)
    if kind is Kind.PAIRS:
        names += sorted(name for name in rows.column_names if name.startswith("negative"))
    rows = rows.select_columns(names)
    for name in names:
        is_right, wanted = CHECKS.get(name, (_is_text, "a text"))
        for number, value in enumerate(rows[name], 1):
            if not is_right(value):
                raise InputError(f"row {number}: {name!r} is {value!r}, not {wanted}")
    return rows


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_label(value: object) -> bool:
    return isinstance(value, int | str) and value != ""


CHECKS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "score": (_is_number, "a number"),
    "label": (_is_label, "a label"),
}
