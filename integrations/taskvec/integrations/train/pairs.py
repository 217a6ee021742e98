"""Stage 2: all weights of the model learn from pairs, with mined negatives and teachers."""

import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.sentence_transformer.training_args import (
    BatchSamplers,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.util import mine_hard_negatives
from torch import nn

from taskvec.core.errors import InputError
from taskvec.integrations.train import bases
from taskvec.integrations.train.contrast import TaughtContrast
from taskvec.integrations.train.runs import LossPlot, Run, by_rows
from taskvec.integrations.train.settings import PairsSettings
from taskvec.integrations.train.tables import Kind, columns_of, kind_of, read_rows

# A mined negative this near to the right passage's own score is likely right as well.
NEGATIVE_MARGIN = 0.05


def train_pairs(settings: PairsSettings) -> Path:
    """Train the model's base weights; a killed run goes on from its last checkpoint.

    Returns the new model's folder, in transformers' layout, without LoRAs. Raises InputError for
    settings or data that do not fit.
    """
    run = Run(settings)
    rows = read_rows(settings.data)
    rows = columns_of(rows, kind_of(rows, [Kind.PAIRS]))
    start = run.open()
    out = settings.out / "model"
    if out.exists():
        return out
    module = bases.sentence_module(start, settings.max_tokens, settings.rope_base, Transformer)
    model = bases.sentence_model(module)
    with run.processes.main_process_first():
        rows = _prepared(settings, run, model, rows)
    arguments = SentenceTransformerTrainingArguments(
        **run.arguments(**by_rows(settings), batch_sampler=BatchSamplers.NO_DUPLICATES)
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        loss=_loss(model, settings, bases.dims_of(start)),
        callbacks=[LossPlot(run.folder)],
    )
    run.train(trainer)
    if trainer.is_world_process_zero():
        bases.write_body(module.model, start, out)
    return out


def _prepared(
    settings: PairsSettings, run: Run, model: SentenceTransformer, rows: Dataset
) -> Dataset:
    """The rows with mined negatives and the teachers' vectors, kept for a resumed run."""
    if not (settings.mine or settings.teachers):
        return rows
    kept = run.folder / "rows"
    if not kept.exists():
        if settings.mine:
            rows = _with_negatives(settings, model, rows)
        if settings.teachers:
            rows = rows.add_column("label", list(_taught(settings.teachers, rows)))
        part = kept.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        rows.save_to_disk(part)
        part.rename(kept)
    return Dataset.load_from_disk(kept)


def _with_negatives(settings: PairsSettings, model: SentenceTransformer, rows: Dataset) -> Dataset:
    """The pairs with mined negatives; random ones where too few are hard and yet surely wrong."""
    if rows.column_names != list(Kind.PAIRS.value):
        raise InputError(f"mine = {settings.mine}: the data has negatives of its own")
    right: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        right[row["anchor"]].add(row["positive"])
    passages = sorted(set(rows["positive"]))
    if len(passages) < settings.mine + max(map(len, right.values())):
        raise InputError(f"mine = {settings.mine}: the pairs have {len(passages)} passages in all")
    mined = mine_hard_negatives(
        rows,
        model,
        anchor_column_name="anchor",
        positive_column_name="positive",
        num_negatives=settings.mine,
        relative_margin=NEGATIVE_MARGIN,
        output_format="n-tuple",
        batch_size=settings.batch_size,
        verbose=False,
    )
    names = [f"negative_{number}" for number in range(1, settings.mine + 1)]
    mined = mined.rename_columns(dict(zip(mined.column_names[2:], names, strict=True)))
    found = {(row["anchor"], row["positive"]): row for row in mined}
    order = random.Random(settings.seed)  # noqa: S311

    def completed(pair: dict[str, str]) -> dict[str, str]:
        known = found.get((pair["anchor"], pair["positive"]))
        others = order.sample(passages, settings.mine + len(right[pair["anchor"]]))
        wrong = [text for text in others if text not in right[pair["anchor"]]]
        return known or pair | dict(zip(names, wrong, strict=False))

    return Dataset.from_list([completed(pair) for pair in rows])


def _taught(teachers: Sequence[str], rows: Dataset) -> np.ndarray:
    """The teachers' unit vectors of every column, side by side: (rows, columns · E) float32.

    A cosine of several teachers' vectors side by side is the mean of theirs.
    """
    columns = rows.column_names
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for name in teachers:
        teacher = SentenceTransformer(name, trust_remote_code=False)
        for column in columns:
            encode = teacher.encode_query if column == "anchor" else teacher.encode_document
            vectors = encode(list(rows[column]), normalize_embeddings=True, show_progress_bar=True)
            parts[column].append(vectors)
    return np.concatenate([np.concatenate(parts[name], 1) for name in columns], 1)


def _loss(model: SentenceTransformer, settings: PairsSettings, dims: Sequence[int]) -> nn.Module:
    if settings.teachers:
        inner: nn.Module = TaughtContrast(
            model, temperature=settings.temperature, weight=settings.teacher_weight
        )
    else:
        inner = MultipleNegativesRankingLoss(model, scale=1 / settings.temperature)
    return MatryoshkaLoss(model, inner, sorted(dims, reverse=True))
