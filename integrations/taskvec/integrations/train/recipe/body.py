"""The multilingual body: multilingual-e5-small's layers with RoPE, distilled on its own tokens."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, load_model, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel, TrainingArguments

from taskvec.core.writing import new_folder
from taskvec.integrations.train import transplant
from taskvec.integrations.train.bases import describe
from taskvec.integrations.train.batches import BatchedRows, tokenize
from taskvec.integrations.train.distillation import Distillation, Lesson, ask
from taskvec.integrations.train.recipe import mix, pieces
from taskvec.integrations.train.runs import (
    WEIGHTS,
    LossPlot,
    StopAt,
    last_checkpoint,
    place,
)
from taskvec.integrations.train.teachers import e5
from taskvec.integrations.train.teachers.sentences import TOKENIZER
from taskvec.integrations.train.texts.archive import Archive
from taskvec.integrations.train.vocabulary import unigram_tokenizer

DIMS = (32, 64, 128, 256, 384)
LAYERS = (3, 6, 9, 12)
TEXTS = 100_000
MIN_TOKENS, MAX_TOKENS = 4, 1536
TOKEN_BUDGET = 2048
# Trained at 10 000: arXiv:2409.10173, section 4.
SERVED_ROPE_BASE = 20_000.0
# Of pairs, prefixes and LoRAs; tuning and the second run of the retrieval LoRAs have none.
DROPOUT = 0.1
SCHEDULE: Mapping[str, Any] = {
    "learning_rate": 3e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 100,
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
}
# Of the cosine's 2 192, at a quarter of its peak: the next stage cools down for both.
STEPS = 1_500
CENTRE_BATCHES = 40
SPECIALS = {"bos": 0, "pad": 1, "eos": 2}


class Work:
    """The recipe's folder; what is made once is kept there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = Archive(folder / "text", tuple(mix.LANGUAGES))

    def texts(self) -> dict[str, mix.Texts]:
        """All texts by language and kind."""
        path = self.folder / "mix.json"
        if not path.exists():
            found = {language: mix.texts_of(self.archive, language) for language in mix.LANGUAGES}
            _write(path, json.dumps(found, ensure_ascii=False))
        kept: dict[str, mix.Texts] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def kept(self, teacher: e5.E5, texts: dict[str, mix.Texts]) -> list[int]:
        """The teacher's id of each of the body's pieces."""
        path = self.folder / "kept.json"
        if not path.exists():
            tokenizer = unigram_tokenizer(teacher.pieces)
            ids = pieces.choose_pieces(self.archive, teacher.pieces, tokenizer, texts)
            _write(path, json.dumps(ids))
        kept: list[int] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def centre(self, teacher: BertModel, lesson: Lesson, data: BatchedRows) -> Tensor:
        """The mean of the teacher's pooled vectors over some batches, (D,)."""
        path = self.folder / "centre.safetensors"
        if not path.exists():
            some = random.Random(1).sample(range(len(data)), min(CENTRE_BATCHES, len(data)))  # noqa: S311
            pooled = [ask(teacher, lesson.inputs(data[i]), ()).pooled for i in some]
            save_file({"centre": torch.cat(pooled).mean(0)}, path)
        return load_file(path)["centre"]


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def body_tokenizer(teacher: e5.E5, kept: Sequence[int]) -> Tokenizer:
    """The tokenizer of the pieces that the body keeps."""
    return unigram_tokenizer([teacher.pieces[index] for index in kept])


def distil(work: Work, seed: int = 0) -> Path:
    """Train the body, unless it is there; returns its folder, in transformers' layout."""
    out = work.folder / "body"
    if out.exists():
        return out
    read = e5.read()
    texts = work.texts()
    kept = work.kept(read, texts)
    tokenizer = body_tokenizer(read, kept)
    rows = tokenize(tokenizer, mix.draw(texts, TEXTS, seed), MAX_TOKENS)
    data = BatchedRows([row for row in rows if len(row) >= MIN_TOKENS], TOKEN_BUDGET, seed)
    teacher, ids = read.model(), torch.tensor(kept)
    prefix = tuple(unigram_tokenizer(read.pieces).encode(e5.ROLES["query"]).ids[1:-1])
    lesson = Lesson(ids, prefix, SPECIALS["pad"], e5.MAX_TOKENS)
    centre = work.centre(teacher, lesson, data)
    student = transplant.new_student(teacher, ids, SPECIALS)
    transplant.shift_output(student, -centre)
    run = work.folder / "distil"
    run.mkdir(exist_ok=True)
    trainer = Distillation(
        student,
        teacher,
        lesson,
        centre,
        layers=LAYERS,
        dims=DIMS,
        args=arguments(run, seed, **SCHEDULE),
        train_dataset=data,
        callbacks=[LossPlot(run), StopAt(STEPS)],
    )
    _train(trainer, last_checkpoint(run))
    with new_folder(out) as scratch:
        student.save_pretrained(scratch, save_original_format=False)
        tokenizer.save(str(scratch / "tokenizer.json"))
        (scratch / "tokenizer_config.json").write_text(json.dumps(TOKENIZER), encoding="utf-8")
        describe(scratch, DIMS, SERVED_ROPE_BASE)
    return out


def _train(trainer: Distillation, checkpoint: str | None) -> None:
    """Train up to STEPS; a run that was killed after them has nothing left to do."""
    if checkpoint and int(checkpoint.rsplit("-", 1)[1]) >= STEPS:
        load_model(cast(nn.Module, trainer.model), Path(checkpoint) / WEIGHTS)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)


def arguments(folder: Path, seed: int, **own: Any) -> TrainingArguments:
    """What the trainer of a stage of whole batches is told. own: beside it, or in its place."""
    told: dict[str, Any] = {
        "per_device_train_batch_size": 1,
        "num_train_epochs": 1,
        "logging_steps": 20,
        "save_steps": 100,
        "save_total_limit": 2,
        "seed": seed,
        "report_to": [],
        "remove_unused_columns": False,
    }
    return TrainingArguments(str(folder), **told | place("auto") | own)
