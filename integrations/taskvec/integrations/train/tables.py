"""Training data: files of rows, and what their columns make of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset, DatasetDict, load_dataset
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


# Beside a text's column: what a teacher reads in place of the text.
PIVOT = "_pivot"


class Kind(Enum):
    """What rows are, and the columns that say so."""

    TEXTS = ("text",)
    PAIRS = ("anchor", "positive")
    SCORES = ("text1", "text2", "score")
    LABELS = ("text", "label")


def read_rows(
    paths: Sequence[Path], allowed: Sequence[Kind], least: int = 1
) -> tuple[DatasetDict, Kind]:
    """The rows of each file, by a name of the file's own, and the kind that all of them are.

    Columns stand under our names, the kind's own in their order; of pairs the negatives too, and
    last the pivots. Raises InputError for a file that is missing, not readable, of an unknown
    kind or of fewer rows than `least`, and, with the row's number from 1, for a text, score or
    label that is none.
    """
    read = [_read(path) for path in paths]
    kind = _kind_of(read, allowed)
    for path, table in zip(paths, read, strict=True):
        if len(table) < least:
            raise InputError(f"{path} has {len(table)} rows, which fill no batch of {least}")
    named = (f"{number}-{path.stem}" for number, path in enumerate(paths, 1))
    rows = [_columns_of(path, table, kind) for path, table in zip(paths, read, strict=True)]
    if kind is Kind.PAIRS:
        for path, table in zip(paths, rows, strict=True):
            _check_different(path, table, least)
    return DatasetDict(zip(named, rows, strict=True)), kind


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
        base = name.removesuffix(PIVOT)
        ours = OTHER_NAMES.get(base, base) + name[len(base) :]
        if ours in meant:
            raise InputError(f"{path}: columns {meant[ours]!r} and {name!r} both mean {ours!r}")
        meant[ours] = name
    return rows.rename_columns({name: ours for ours, name in meant.items() if name != ours})


def _kind_of(tables: Sequence[Dataset], allowed: Sequence[Kind]) -> Kind:
    for kind in allowed:
        if all(set(kind.value) <= set(rows.column_names) for rows in tables):
            return kind
    found = dict.fromkeys(", ".join(rows.column_names) for rows in tables)
    wanted = " or ".join(", ".join(kind.value) for kind in allowed)
    raise InputError(f"the data has columns {'; '.join(found)}; needed: {wanted}")


def _check_different(path: Path, rows: Dataset, least: int) -> None:
    for name in Kind.PAIRS.value:
        found = len(set(rows[name]))
        if found < least:
            raise InputError(f"{path} has {found} different {name}s: they fill no batch of {least}")


def _columns_of(path: Path, rows: Dataset, kind: Kind) -> Dataset:
    names = list(kind.value)
    pivots = []
    if kind is Kind.PAIRS:
        found = [name for name in rows.column_names if name.startswith("negative")]
        names += sorted(name for name in found if not name.endswith(PIVOT))
        pivots = [name + PIVOT for name in names if name + PIVOT in rows.column_names]
    rows = rows.select_columns([*names, *pivots])
    for name in [*names, *pivots]:
        is_right, wanted = CHECKS.get(name, (_is_text, "a text"))
        for number, value in enumerate(rows[name], 1):
            if not (is_right(value) or (name in pivots and value is None)):
                raise InputError(f"{path.name}, row {number}: {name!r} is {value!r}, not {wanted}")
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
