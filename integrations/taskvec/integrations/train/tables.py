"""Training data: files of rows, and what their columns make of them."""

from collections.abc import Sequence
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
    columns = parts[0].column_names
    for path, part in zip(paths, parts, strict=True):
        if part.column_names != columns:
            raise InputError(f"{path} has columns {part.column_names}, {paths[0]} has {columns}")
    return concatenate_datasets(parts)


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
    names = {name: OTHER_NAMES[name] for name in rows.column_names if name in OTHER_NAMES}
    return rows.rename_columns(names)


def kind_of(rows: Dataset, allowed: Sequence[Kind]) -> Kind:
    """The first allowed kind whose columns are there. Raises InputError where none is."""
    for kind in allowed:
        if set(kind.value) <= set(rows.column_names):
            return kind
    wanted = " or ".join(", ".join(kind.value) for kind in allowed)
    raise InputError(f"the data has columns {', '.join(rows.column_names)}; needed: {wanted}")


def columns_of(rows: Dataset, kind: Kind) -> Dataset:
    """The kind's own columns in their order, with `negative…` ones where pairs have them.

    Raises InputError, with the row's number from 1, for a text that is none.
    """
    names = list(kind.value)
    if kind is Kind.PAIRS:
        names += sorted(name for name in rows.column_names if name.startswith("negative"))
    rows = rows.select_columns(names)
    texts = [name for name in names if name not in ("score", "label")]
    for name in texts:
        for number, text in enumerate(rows[name], 1):
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"row {number}: {name!r} is {text!r}, not a text")
    return rows
