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
            ready[name] = negatives(pairs) if negatives else pairs
        if settings.is_taught:
            ready = taught(settings, ready, {name: pivots(rows) for name, rows in files.items()})
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


def taught(
    settings: PairStage, files: Mapping[str, Dataset], known: Mapping[str, Pivots]
) -> dict[str, Dataset]:
    """The files' rows, and in `label` the teachers' vectors of every column.

    known: each file's pivots. label: unit vectors of all teachers side by side for each column, and
    the columns side by side, float32: a cosine of several teachers' vectors side by side is the
    mean of theirs.
    """
    # By file and column, one teacher's beside the other's.
    parts: dict[str, dict[str, list[Vectors]]] = {
        name: {column: [] for column in rows.column_names} for name, rows in files.items()
    }
    for teacher, reads_pivots in _teachers(settings):
        for name, rows in files.items():
            read = known[name] if reads_pivots else {}
            for column in rows.column_names:
                texts = [read.get(text, text) for text in rows[column]]
                encode = teacher.encode_query if column == "anchor" else teacher.encode_document
                once = {text: place for place, text in enumerate(dict.fromkeys(texts))}
                vectors = encode(
                    list(once),
                    batch_size=settings.batch_size,
                    normalize_embeddings=True,
                    show_progress_bar=True,
                )
                parts[name][column].append(vectors[[once[text] for text in texts]])
    found = {}
    for name, rows in files.items():
        columns = [np.concatenate(vectors, 1) for vectors in parts[name].values()]
        found[name] = rows.add_column("label", list(np.concatenate(columns, 1)))
    return found


def _teachers(settings: PairStage) -> Iterator[tuple[SentenceTransformer, bool]]:
    """Each teacher, one open at a time, and whether it reads a text's pivot in its place."""
    told = [(name, False) for name in settings.teachers]
    told += [(name, True) for name in settings.pivot_teachers]
    for name, reads_pivots in told:
        teacher = SentenceTransformer(name, trust_remote_code=False)
        # As much as the student is shown, or it would have to guess the rest.
        limits = (settings.max_tokens, teacher.max_seq_length)
        teacher.max_seq_length = min(limit for limit in limits if limit)
        yield teacher, reads_pivots
