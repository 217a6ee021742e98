"""Stage 2: all weights of the model learn from pairs, with mined negatives and teachers."""

import random
from collections import defaultdict
from functools import partial
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.training_args import (
    BatchSamplers,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.util import mine_hard_negatives

from taskvec.core.errors import InputError
from taskvec.integrations.train import bases, modules
from taskvec.integrations.train.contrast import over_dims, pair_loss
from taskvec.integrations.train.runs import LossPlot, Run, by_rows
from taskvec.integrations.train.settings import PairsSettings
from taskvec.integrations.train.tables import Kind, read_rows
from taskvec.integrations.train.teaching import prepare

# A mined negative this near to the right passage's own score is likely right as well.
NEGATIVE_MARGIN = 0.05


def train_pairs(settings: PairsSettings) -> Path:
    """Train the model's base weights; a killed run goes on from its last checkpoint.

    Returns the new model's folder, in transformers' layout, without LoRAs. Raises InputError for
    settings or data that do not fit.
    """
    run = Run(settings)
    files, _ = read_rows(settings.data, [Kind.PAIRS], least=settings.batch_size)
    start = run.open()
    bases.check_dims(start, settings.dim_weights)
    out = settings.out / "model"
    if out.exists():
        return out
    module = modules.sentence_module(
        start, settings.max_tokens, settings.rope_base, modules.PartsTransformer, settings.dropout
    )
    model = modules.sentence_model(module)
    with run.processes.main_process_first():
        mine = partial(_with_negatives, settings, model) if settings.mine else None
        files = prepare(settings, files, run.folder / "rows", mine)
    arguments = SentenceTransformerTrainingArguments(
        **run.arguments(**by_rows(settings), batch_sampler=BatchSamplers.NO_DUPLICATES)
    )
    trainer = modules.LeanTrainer(
        model=model,
        args=arguments,
        train_dataset=files,
        loss=over_dims(
            model, pair_loss(model, settings), bases.dims_of(start), settings.dim_weights
        ),
        callbacks=[LossPlot(run.folder)],
    )
    run.train(trainer)
    if trainer.is_world_process_zero():
        bases.soften(module.model, start, settings.strength)
        bases.write_body(module.model, start, out)
    return out


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
