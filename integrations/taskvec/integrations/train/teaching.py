"""What teachers say of pairs: their vectors beside the rows, for the losses that listen to them."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer

from taskvec.core.errors import InputError
from taskvec.integrations.train.settings import PairStage
from taskvec.integrations.train.tables import PIVOT

Vectors = npt.NDArray[np.float32]
Pivots = Mapping[str, str]


def prepare(
    settings: PairStage,
    files: Mapping[str, Dataset],
    folder: Path,
    negatives: Callable[[Dataset], Dataset] | None = None,
) -> DatasetDict:
    """The files' rows as a trainer takes them, kept in a folder for a resumed run.

    negatives: adds columns of them to a file's pairs.
    """
    if not folder.exists():
        if settings.pivot_teachers and not any(pivots(rows) for rows in files.values()):
            raise InputError(f"pivot_teachers: no row has a pivot, in a column `…{PIVOT}`")
        ready = {}
        for name, rows in files.items():
            columns = [column for column in rows.column_names if not column.endswith(PIVOT)]
            pairs = rows.select_columns(columns)
            ready[name] = taught(settings, negatives(pairs) if negatives else pairs, pivots(rows))
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        DatasetDict(ready).save_to_disk(part)
        part.rename(folder)
    return DatasetDict.load_from_disk(folder)


def pivots(rows: Dataset) -> dict[str, str]:
    """A text's pivot, for every text that has one."""
    found: dict[str, str] = {}
    for name in rows.column_names:
        if name.endswith(PIVOT):
            texts = zip(rows[name.removesuffix(PIVOT)], rows[name], strict=True)
            found |= {text: pivot for text, pivot in texts if pivot}
    return found


def taught(settings: PairStage, rows: Dataset, pivots: Pivots) -> Dataset:
    """The rows, and in `label` the teachers' vectors of every column; the rows alone without any.

    label: unit vectors of all teachers side by side for each column, and the columns side by
    side, float32: a cosine of several teachers' vectors side by side is the mean of theirs.
    """
    if not settings.is_taught:
        return rows
    parts: dict[str, list[Vectors]] = {name: [] for name in rows.column_names}
    for teacher, read in _teachers(settings, pivots):
        for column in rows.column_names:
            texts = [read.get(text, text) for text in rows[column]]
            encode = teacher.encode_query if column == "anchor" else teacher.encode_document
            once = {text: place for place, text in enumerate(dict.fromkeys(texts))}
            vectors = encode(list(once), normalize_embeddings=True, show_progress_bar=True)
            parts[column].append(vectors[[once[text] for text in texts]])
    labels = np.concatenate([np.concatenate(part, 1) for part in parts.values()], 1)
    return rows.add_column("label", list(labels))


def _teachers(settings: PairStage, pivots: Pivots) -> Iterator[tuple[SentenceTransformer, Pivots]]:
    found: list[tuple[str, Pivots]] = [(name, {}) for name in settings.teachers]
    found += [(name, pivots) for name in settings.pivot_teachers]
    for name, own in found:
        teacher = SentenceTransformer(name, trust_remote_code=False)
        # As much as the student is shown, or it would have to guess the rest.
        limits = (settings.max_tokens, teacher.max_seq_length)
        teacher.max_seq_length = min(limit for limit in limits if limit)
        yield teacher, own
