"""The starter's second and third stages: the library's own commands on the recipe's rows."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from taskvec.core import Encoder
from taskvec.integrations.train.pairs import train_pairs
from taskvec.integrations.train.recipe import rows
from taskvec.integrations.train.recipe.aligned import Aligned, aligned
from taskvec.integrations.train.recipe.body import Work, distil
from taskvec.integrations.train.recipe.mix import LANGUAGES
from taskvec.integrations.train.runs import last_checkpoint
from taskvec.integrations.train.settings import PairsSettings, TaskSettings, read_settings
from taskvec.integrations.train.task import train_task
from taskvec.integrations.train.teachers import e5
from taskvec.integrations.train.teachers.sentences import minilm, write_e5
from taskvec.integrations.train.texts.wordnet import Gloss, glosses
from taskvec.integrations.train.transplant import ROPE_BASE

# As jina-embeddings-v3 has them; the other tasks have none.
PROMPTS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
PAIRS: Mapping[str, Any] = {
    "learning_rate": 1e-4,
    "batch_size": 32,
    "max_tokens": 96,
    "rope_base": ROPE_BASE,
    "teacher_weight": 2.0,
}
# What every LoRA's run is told beside its name and data.
TASK: Mapping[str, Any] = {"batch_size": 32, "max_tokens": 64, "rope_base": ROPE_BASE}
# Of the pairs, what the retrieval LoRAs see again: every second one.
RETRIEVAL_STRIDE = 2


class Recipe:
    """The stages in their folder. Each is done once: what is there already is not made again."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.work = Work(folder)
        self.folder = folder
        self.seed = seed

    @cached_property
    def body(self) -> Path:
        """Stage 1, distilled in place of pre-training."""
        return distil(self.work, self.seed)

    @cached_property
    def paired(self) -> Path:
        """Stage 2: the body that pairs, translations and both teachers have taught."""
        given = dict(PAIRS) | self.teachers | {"data": self._pairs, "seed": self.seed}
        told = given | {"model": str(self.body), "out": self.folder / "pairs"}
        return train_pairs(read_settings(PairsSettings, None, told))

    @cached_property
    def loras(self) -> dict[str, Path]:
        """Stage 3: the folder of each task's LoRA."""
        done: dict[str, Path] = {}
        for name, given in self._tasks().items():
            out = self.folder / "tasks" / name
            told = dict(TASK) | {"name": name, "model": str(self.paired), "out": out} | given
            done |= train_task(read_settings(TaskSettings, None, told | {"seed": self.seed}))
        return done

    def used(self, name: str) -> int:
        """How many rows a stage has read: "pairs", or the name of a task's run."""
        run = self.folder / ("pairs" if name == "pairs" else f"tasks/{name}") / "run"
        state = Path(str(last_checkpoint(run))) / "trainer_state.json"
        found = json.loads(state.read_text(encoding="utf-8"))
        return int(found["max_steps"]) * int(found["train_batch_size"])

    def write(self, out: Path) -> None:
        """The whole model into a new folder, in the original layout, base matrices as int8 rows."""
        with Encoder.load(self.paired, device="cpu", dtype="float32") as encoder:
            for task, folder in self.loras.items():
                encoder.add_task(task, folder, prompt=PROMPTS.get(task, ""))
            encoder.save(out, layout="jina", dtype="int8")

    def _tasks(self) -> dict[str, dict[str, Any]]:
        query, passage = "retrieval.query", "retrieval.passage"
        retrieval = {
            "data": rows.thin(self._pairs, RETRIEVAL_STRIDE, self.folder / "rows" / "retrieval"),
            "prompt": PROMPTS[query],
            "passage_name": passage,
            "passage_prompt": PROMPTS[passage],
            "max_tokens": PAIRS["max_tokens"],
        }
        files = self._task_files
        return {
            query: retrieval | self.teachers,
            "text-matching": {"data": files["scored"]},
            "separation": {"data": files["separated"]},
            "classification": {"data": files["labelled"]},
        }

    @cached_property
    def _aligned(self) -> dict[str, Aligned]:
        return {language: aligned(self.work.archive, language) for language in LANGUAGES}

    @cached_property
    def _glosses(self) -> list[Gloss]:
        return glosses(self.work.archive)

    @cached_property
    def teachers(self) -> dict[str, Sequence[str]]:
        """The settings that name both: one of every language, one of English alone."""
        centre = load_file(self.folder / "centre.safetensors")["centre"]
        written = write_e5(e5.read, centre, self.folder / "e5")
        return {"teachers": (str(written),), "pivot_teachers": (str(minilm()),)}

    @cached_property
    def _pairs(self) -> tuple[Path, ...]:
        made = rows.pairs(self._aligned, self._glosses, self.seed)
        return rows.write(made, self.folder / "rows")

    @cached_property
    def _task_files(self) -> dict[str, tuple[Path, ...]]:
        judges = rows.Judges(
            SentenceTransformer(self.teachers["teachers"][0]),
            SentenceTransformer(self.teachers["pivot_teachers"][0]),
        )
        texts, meanings, folder = self._aligned, self._glosses, self.folder / "rows"
        labelled = rows.labelled(texts, meanings, self.seed)
        return {
            "scored": rows.write(rows.scored(texts, meanings, judges, self.seed), folder),
            "labelled": rows.write(labelled, folder),
            "separated": rows.write(rows.separated(labelled, self.seed), folder),
        }
