"""The starter's stages after its body: the library's own commands on the recipe's rows."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from taskvec.core import Encoder
from taskvec.core.errors import InputError
from taskvec.core.writing import new_folder
from taskvec.integrations.train.pairs import train_pairs
from taskvec.integrations.train.recipe import rows
from taskvec.integrations.train.recipe.aligned import Aligned, aligned
from taskvec.integrations.train.recipe.body import DROPOUT, Work, distil
from taskvec.integrations.train.recipe.mix import LANGUAGES
from taskvec.integrations.train.recipe.prefixed import teach_prefixes
from taskvec.integrations.train.runs import last_checkpoint
from taskvec.integrations.train.settings import (
    PairsSettings,
    TaskSettings,
    lora_folder,
    read_settings,
)
from taskvec.integrations.train.task import train_task
from taskvec.integrations.train.teachers import e5
from taskvec.integrations.train.teachers.sentences import minilm, write_e5
from taskvec.integrations.train.texts.questions import Question, questions
from taskvec.integrations.train.texts.wordnet import Gloss, glosses, near_words
from taskvec.integrations.train.transplant import ROPE_BASE

QUERY, PASSAGE = "retrieval.query", "retrieval.passage"
# The tasks that each run trains.
RUNS = {
    QUERY: (QUERY, PASSAGE),
    "text-matching": ("text-matching",),
    "separation": ("separation",),
    "classification": ("classification",),
}
# Below the recipe's folder: the tasks' runs, and those on the body before it is tuned.
TASKS, FIRST_TASKS = "tuned/tasks", "tasks"
PAIRS: Mapping[str, Any] = {
    "learning_rate": 1e-4,
    "batch_size": 32,
    "max_tokens": 96,
    "rope_base": ROPE_BASE,
    "dropout": DROPOUT,
    "teacher_weight": 2.0,
}
# What retrieval is taught with, by all weights or by LoRAs: above all the teachers' ranking and
# cosines, and the dims that are measured.
RETRIEVAL: Mapping[str, Any] = {
    "rope_base": ROPE_BASE,
    "batch_size": 32,
    "max_tokens": 128,
    "teacher_weight": 4.0,
    "cosine_weight": 100.0,
    "memory": 32,
    "dim_weights": {64: 2.0, 384: 2.0},
}
# Written at half: whole, it costs more of the similarity of texts that are unlike the rows.
TUNED: Mapping[str, Any] = {**RETRIEVAL, "learning_rate": 2e-4, "epochs": 1.25, "strength": 0.5}
# The first run of the retrieval LoRAs; of its two the query's alone is used.
FIRST: Mapping[str, Any] = {**RETRIEVAL, "dropout": DROPOUT, "epochs": 1.25}
# What every LoRA's run is told beside its name and data.
TASK: Mapping[str, Any] = {
    "batch_size": 32,
    "max_tokens": 96,
    "rope_base": ROPE_BASE,
    "dropout": DROPOUT,
}
# What each is told beside it, or in its place; those of scores and labels keep to what the body
# knows.
OWN: Mapping[str, Mapping[str, Any]] = {
    # Both go on from the query's LoRA: apart, the pair found no more than that one on both sides.
    QUERY: {
        **RETRIEVAL,
        "dropout": 0.0,
        "learning_rate": 5e-4,
        "embedding_learning_rate": 1e-4,
        "steps": 160,
        "start": QUERY,
        "passage_start": QUERY,
    },
    "text-matching": {"anchor": 2.0, "steps": 500, "strength": 0.5},
    # The warmer contrast also moves texts that are far from each other already.
    "separation": {"anchor": 5.0, "steps": 120, "temperature": 0.1},
    "classification": {"anchor": 5.0, "steps": 120, "mean_cosine_share": 0.4},
}
# How much of a file of pairs tuning and the retrieval LoRAs see again, half where it is not named.
RETRIEVAL_SHARES = {"en-headings": 1.0, "en-sentences": 1.0, "en-glosses": 1.0, "en-faq": 2.0}


class Recipe:
    """The stages in their folder. Each is done once: what is there already is not made again."""

    def __init__(self, folder: Path, seed: int | None = None) -> None:
        """folder: of all that is made. seed: of a new folder, 0 by default; a used one has its own.

        Raises InputError where the folder was begun with another seed.
        """
        self.work = Work(folder)
        self.folder = folder
        self.seed = _seed_of(folder, seed)

    @cached_property
    def body(self) -> Path:
        """Stage 1, distilled in place of pre-training."""
        return distil(self.work, self.seed)

    @cached_property
    def paired(self) -> Path:
        """Stage 2: the body that pairs, translations and both teachers have taught."""
        out = self.folder / "pairs"
        if not (out / "model").exists():
            told = {"model": str(self.body), "out": out, "data": self._pairs, "seed": self.seed}
            given = dict(PAIRS) | told | self.teachers
            train_pairs(read_settings(PairsSettings, None, given))
        return out / "model"

    @cached_property
    def prefixed(self) -> Path:
        """The body whose first dims have learned to rank as all of them do."""
        return teach_prefixes(self.paired, self._pairs, self.folder / "prefixes", self.seed)

    @cached_property
    def tuned(self) -> Path:
        """The body's last stage: all weights learn retrieval, and half of that is written."""
        out = self.folder / "tuned"
        if not (out / "model").exists():
            told = {"model": str(self.prefixed), "out": out, "seed": self.seed}
            given = {**TUNED, **told, **self._retrieval}
            train_pairs(read_settings(PairsSettings, None, given))
        return out / "model"

    @cached_property
    def query_start(self) -> Path:
        """Where both of retrieval start: the tuned body with the earlier one's query LoRA."""
        out = self.folder / "tuned" / "start"
        found = self._trained(QUERY, FIRST, self.prefixed, self.folder / FIRST_TASKS / QUERY)
        if not out.exists():
            with Encoder.load(self.tuned, device="cpu", dtype="float32") as encoder:
                encoder.add_task(QUERY, found[QUERY])
                encoder.save(out, layout="jina")
        return out

    @cached_property
    def loras(self) -> dict[str, Path]:
        """Stage 3: the folder of each task's LoRA."""
        found: dict[str, Path] = {}
        for name, own in OWN.items():
            start = self.query_start if name == QUERY else self.tuned
            found |= self._trained(name, own, start, self.folder / TASKS / name)
        return found

    def _trained(
        self, name: str, own: Mapping[str, Any], model: Path, out: Path
    ) -> dict[str, Path]:
        """The LoRAs that a run trains, by task."""
        done = {task: out / lora_folder(task) for task in RUNS[name]}
        if all(folder.exists() for folder in done.values()):
            return done
        told = {"name": name, "model": str(model), "out": out, "seed": self.seed}
        given = {**TASK, **own, **told, **self._task(name)}
        return train_task(read_settings(TaskSettings, None, given))

    def used(self, stage: str) -> int:
        """How many rows a stage has read. stage: its folder below the recipe's, such as "tuned".

        Of "prefixes" how many batches. Raises InputError where the stage was not run here.
        """
        run = self.folder / stage / "run"
        checkpoint = last_checkpoint(run)
        if checkpoint is None:
            raise InputError(f"{run} holds no checkpoint: take {stage} out, and run the recipe")
        state = Path(checkpoint) / "trainer_state.json"
        found = json.loads(state.read_text(encoding="utf-8"))
        return int(found["max_steps"]) * int(found["train_batch_size"])

    def write(self, out: Path) -> None:
        """The whole model into a new folder, in the original layout, base matrices as int8 rows.

        Its licence and notice are beside it from the start.
        """
        with new_folder(out) as scratch:
            with Encoder.load(self.tuned, device="cpu", dtype="float32") as encoder:
                for task, folder in self.loras.items():
                    encoder.add_task(task, folder)
                encoder.save(scratch / "model", layout="jina", dtype="int8")
            for path in (scratch / "model").iterdir():
                path.rename(scratch / path.name)
            (scratch / "model").rmdir()
            for name in ("LICENSE", "NOTICE"):
                (scratch / name).write_text(card_file(name), encoding="utf-8")

    def _task(self, name: str) -> dict[str, Any]:
        """What a run is told beside its name: its data, and what is its own."""
        if name == QUERY:
            return {**self._retrieval, "passage_name": PASSAGE}
        kind, make = (name, self._scored) if name == "text-matching" else ("grouped", self._grouped)
        return {"data": rows.once(self.folder / "rows" / kind, make)}

    @cached_property
    def _retrieval(self) -> dict[str, Any]:
        """The rows and the teachers of every run that learns retrieval."""
        folder = self.folder / "rows" / "retrieval"
        return {**self.teachers, "data": rows.shares(self._pairs, RETRIEVAL_SHARES, folder)}

    def _scored(self) -> dict[str, list[rows.Row]]:
        found = [SentenceTransformer(*names) for names in self.teachers.values()]
        for teacher in found:
            # As much as the student is shown.
            teacher.max_seq_length = TASK["max_tokens"]
        return rows.scored(self._near_words, rows.Judges(*found), self.seed)

    def _grouped(self) -> dict[str, list[rows.Row]]:
        return rows.grouped(rows.labelled(self._aligned, self.seed))

    @cached_property
    def _aligned(self) -> dict[str, Aligned]:
        return {language: aligned(self.work.archive, language) for language in LANGUAGES}

    @cached_property
    def _glosses(self) -> list[Gloss]:
        return glosses(self.work.archive)

    @cached_property
    def _near_words(self) -> list[tuple[str, str, float]]:
        return near_words(self.work.archive)

    @cached_property
    def _questions(self) -> list[Question]:
        return questions(self.work.archive)

    @cached_property
    def teachers(self) -> dict[str, Sequence[str]]:
        """The settings that name both: one of every language, one of English alone."""
        # The centre is measured on the way to the body.
        _ = self.body
        centre = load_file(self.folder / "centre.safetensors")["centre"]
        written = write_e5(e5.read, centre, self.folder / "e5")
        return {"teachers": (str(written),), "pivot_teachers": (str(minilm()),)}

    @cached_property
    def _pairs(self) -> tuple[Path, ...]:
        return rows.once(
            self.folder / "rows" / "pairs",
            lambda: rows.pairs(self._aligned, self._glosses, self._questions, self.seed),
        )


def _seed_of(folder: Path, seed: int | None) -> int:
    path = folder / "seed.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(seed or 0), encoding="utf-8")
    known: int = json.loads(path.read_text(encoding="utf-8"))
    if seed not in (None, known):
        raise InputError(f"{folder} was begun with seed {known}, not {seed}: use a new folder")
    return known


def card_file(name: str) -> str:
    """A file of the model card's folder."""
    return (files("taskvec.integrations.train.recipe") / "card" / name).read_text("utf-8")
