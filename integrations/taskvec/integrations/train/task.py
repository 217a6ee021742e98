"""Stage 3: one LoRA on the frozen model, or two for the two sides of pairs."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, DatasetDict
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import GroupByLabelBatchSampler
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MatryoshkaLoss
from sentence_transformers.sentence_transformer.training_args import (
    BatchSamplers,
    SentenceTransformerTrainingArguments,
)
from torch import nn

from taskvec.core.errors import InputError
from taskvec.integrations.train import bases, loras, modules
from taskvec.integrations.train.contrast import (
    Anchored,
    ClassContrast,
    VectorLoss,
    over_dims,
    pair_loss,
)
from taskvec.integrations.train.runs import LossPlot, Run, by_rows
from taskvec.integrations.train.settings import TaskSettings
from taskvec.integrations.train.tables import Kind, read_rows
from taskvec.integrations.train.teaching import prepare

KINDS = (Kind.PAIRS, Kind.SCORES, Kind.LABELS)
SAMPLERS = {
    Kind.PAIRS: BatchSamplers.NO_DUPLICATES,
    Kind.SCORES: BatchSamplers.BATCH_SAMPLER,
    Kind.LABELS: BatchSamplers.GROUP_BY_LABEL,
}


class TaskTransformer(modules.PartsTransformer):
    """sentence-transformers' module of the model, in which each column of a batch wears its LoRA.

    A column's task, which the trainer puts into its features, is the LoRA's name.
    """

    def wear(self, model: PeftModel, names: Sequence[str]) -> None:
        """Train these LoRAs of a PEFT model whose base is this module's."""
        # Not registered as a submodule: its weights are this module's own.
        self.__dict__["_worn"] = (model, tuple(names))
        loras.parameters_of(model, names)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """While open, the model without LoRAs answers."""
        self.__dict__["_bare"] = True
        try:
            yield
        finally:
            self.__dict__["_bare"] = False

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Token vectors of a batch under its task's LoRA, the first one's where none is named."""
        model, names = self.__dict__["_worn"]
        if self.__dict__.get("_bare"):
            with model.disable_adapter():
                plain: dict[str, Any] = super().forward(features, **options)
            return plain
        model.set_adapter(loras.lora_name(features.get("task") or names[0]))
        # Choosing a LoRA freezes the others, one of which may be trained in the same step.
        loras.parameters_of(model, names)
        out: dict[str, Any] = super().forward(features, **options)
        return out


def train_task(settings: TaskSettings) -> dict[str, Path]:
    """Train the LoRAs that the settings name; a killed run goes on from its last checkpoint.

    Returns each one's folder, in PEFT's format, for `Encoder.add_task`. Raises InputError for
    settings or data that do not fit, TaskError for a start that is no task of the model.
    """
    names = [name for name in (settings.name, settings.passage_name) if name is not None]
    for name in names:
        if hasattr(nn.ModuleDict, loras.lora_name(name)):
            raise InputError(f"PEFT cannot hold a LoRA named {name!r}: give it another name")
    run = Run(settings)
    files, kind = _rows(settings)
    start = run.open()
    bases.check_dims(start, settings.dim_weights)
    folders = {name: settings.out / loras.lora_name(name) for name in names}
    if all(folder.exists() for folder in folders.values()):
        return folders
    model, trained = _model(settings, start, names)
    if kind is Kind.PAIRS:
        with run.processes.main_process_first():
            files = prepare(settings, files, run.folder / "rows")
    trainer = modules.LeanTrainer(
        model=model,
        args=_arguments(run, settings, files, kind),
        train_dataset=files,
        loss=loss_of(model, kind, settings, bases.dims_of(start)),
        callbacks=[LossPlot(run.folder)],
    )
    run.train(trainer)
    if trainer.is_world_process_zero():
        # PEFT writes a card beside the LoRAs, and a kill may come half-way.
        finished = run.folder / "finished"
        loras.save_loras(trained, names, finished, strength=settings.strength)
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            (finished / folder.name).replace(folder)
        shutil.rmtree(finished)
    return folders


def _rows(settings: TaskSettings) -> tuple[DatasetDict, Kind]:
    files, kind = read_rows(settings.data, KINDS, least=settings.batch_size)
    if settings.passage_name and kind is not Kind.PAIRS:
        raise InputError("passage_name: only pairs have two sides")
    if settings.anchor and kind is Kind.PAIRS:
        raise InputError("anchor: pairs have none; give them teachers")
    if settings.is_taught and kind is not Kind.PAIRS:
        raise InputError("teachers: only pairs are taught")
    if kind is not Kind.LABELS:
        return files, kind
    if settings.batch_size % 2 or settings.batch_size < 4:
        raise InputError(f"batch_size = {settings.batch_size}: labels need an even one from 4")
    for name, rows in files.items():
        several = [label for label, count in Counter(rows["label"]).items() if count > 1]
        if len(several) < 2:
            raise InputError(f"{name}: fewer than two of its labels have two texts or more")
        files[name] = rows.class_encode_column("label")
        _check_labels(name, files[name], settings.batch_size)
    return files, kind


def _check_labels(name: str, rows: Dataset, size: int) -> None:
    sampler = GroupByLabelBatchSampler(rows, size, drop_last=True, valid_label_columns=["label"])
    if not len(sampler):
        raise InputError(f"{name}: its labels fill no batch of {size}; one has nearly all texts")


def _model(
    settings: TaskSettings, start: Path, names: Sequence[str]
) -> tuple[SentenceTransformer, PeftModel]:
    module = modules.sentence_module(
        start, settings.max_tokens, settings.rope_base, TaskTransformer, settings.dropout
    )
    trained = loras.with_loras(module.model, names, rank=settings.rank, alpha=settings.alpha)
    for name, source in zip(names, (settings.start, settings.passage_start), strict=False):
        if source is not None:
            loras.start_from(trained, name, start, source)
    module.wear(trained, names)
    return modules.sentence_model(module), trained


def _arguments(
    run: Run, settings: TaskSettings, files: DatasetDict, kind: Kind
) -> SentenceTransformerTrainingArguments:
    columns = dict.fromkeys(name for rows in files.values() for name in rows.column_names)
    first, *others = [name for name in columns if name not in ("score", "label")]
    passage = settings.passage_name
    tasks = {first: settings.name} | dict.fromkeys(others, passage or settings.name)
    prompts = {first: settings.prompt} | dict.fromkeys(
        others, settings.passage_prompt if passage else settings.prompt
    )
    return SentenceTransformerTrainingArguments(
        **run.arguments(
            **by_rows(settings),
            batch_sampler=SAMPLERS[kind],
            router_mapping=tasks,
            prompts={name: prompt for name, prompt in prompts.items() if prompt},
            learning_rate_mapping={"lora_embedding": settings.embedding_learning_rate},
        )
    )


def loss_of(
    model: SentenceTransformer, kind: Kind, settings: TaskSettings, dims: Sequence[int]
) -> MatryoshkaLoss:
    """The loss that a kind of rows asks for, at all of a model's dims."""
    inner: nn.Module
    if kind is Kind.PAIRS:
        inner = pair_loss(model, settings)
    elif kind is Kind.SCORES:
        inner = CoSENTLoss(model, scale=1 / settings.temperature)
    else:
        inner = ClassContrast(model, temperature=settings.temperature)
    if settings.anchor:
        bare = cast(TaskTransformer, model[0]).bare
        inner = Anchored(
            model,
            cast(VectorLoss, inner),
            weight=settings.anchor,
            share=settings.mean_cosine_share,
            bare=bare,
        )
    return over_dims(model, inner, dims, settings.dim_weights)
