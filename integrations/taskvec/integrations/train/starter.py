"""Make the packaged starter checkpoint: `python -m taskvec.integrations.train.starter --out DIR`.

Stages: text, distillation, one stage per LoRA (retrieval's two together), export with figures.
A finished stage is kept in the work folder and skipped when the script is started again.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertModel, JinaEmbeddingsV3Model

from taskvec.core.errors import InputError, TaskvecError
from taskvec.integrations.train import distil, loras, samples, student
from taskvec.integrations.train.batches import tokenize
from taskvec.integrations.train.card import write_card
from taskvec.integrations.train.export import convert, write_body
from taskvec.integrations.train.stages import Figures, LoraStages
from taskvec.integrations.train.texts.docstrings import docstring_pairs

SHARES = {
    "distil": 0.41,
    "retrieval": 0.31,
    "separation": 0.09,
    "classification": 0.09,
    "text-matching": 0.1,
}
LORA_MAX_TOKENS = 128


@dataclass(frozen=True)
class Run:
    """One run: its folder, its time and its seed. What is read from disk is read once."""

    work: Path
    minutes: float
    seed: int

    @property
    def trained(self) -> Path:
        """Folder of the model while it is trained, in transformers' layout."""
        return self.work / "trained"

    @cached_property
    def sources(self) -> samples.Sources:
        """The training text."""
        return samples.read_sources(self.work / "text")

    @cached_property
    def teacher(self) -> BertModel:
        """The teacher, frozen."""
        return student.load_teacher()

    @cached_property
    def vocabulary(self) -> tuple[Tokenizer, Tensor]:
        """The student's tokenizer, and the teacher's id of each of its ids."""
        text = (student.teacher_folder() / "tokenizer.json").read_text(encoding="utf-8")
        return student.student_tokenizer(text)

    def teacher_vectors(self, texts: Sequence[str]) -> Tensor:
        """The teacher's pooled vectors: (B, D)."""
        tokenizer, kept = self.vocabulary
        return loras.pooled(self.teacher, tokenizer, texts, LORA_MAX_TOKENS, kept)

    def stage(self, name: str, work: Callable[[float], Figures]) -> Figures:
        """A stage's figures: those of an earlier run, else of doing it in its share of the time."""
        path = self.work / f"{name}.json"
        minutes = self.minutes * SHARES[name]
        asked = {"minutes": minutes, "seed": self.seed}
        if not path.exists():
            torch.manual_seed(self.seed)
            path.write_text(json.dumps(work(minutes) | asked, indent=2), encoding="utf-8")
        kept: Figures = json.loads(path.read_text(encoding="utf-8"))
        if any(kept.get(key) != value for key, value in asked.items()):
            raise InputError(f"{path} is of a run with other minutes or seed: remove {self.work}")
        return kept


def distil_body(run: Run, minutes: float) -> Figures:
    """Stage A: the distilled body, rounded to bfloat16, into the folder of the trained model."""
    tokenizer, kept = run.vocabulary
    body = student.new_student(run.teacher, tokenizer, kept)
    texts = samples.distil_texts(run.sources, run.seed)
    rows = tokenize(tokenizer, texts, distil.MAX_TOKENS)
    figures = distil.distil(body, run.teacher, kept, rows, minutes=minutes, seed=run.seed)
    write_body(body, tokenizer, run.trained)
    return figures


def load_body(folder: Path) -> JinaEmbeddingsV3Model:
    """A body that `write_body` wrote, in float32."""
    body: JinaEmbeddingsV3Model = JinaEmbeddingsV3Model.from_pretrained(
        folder, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager"
    )
    return body


def lora_stages(run: Run) -> LoraStages:
    """Stage B's parts: the frozen body in float32, of bfloat16's values, with fresh LoRAs."""
    model = loras.with_loras(load_body(run.trained))
    labelled, held_out = samples.labelled_texts(run.sources, run.seed)
    return LoraStages(
        encoder=loras.TaskEncoder(model, run.vocabulary[0], LORA_MAX_TOKENS),
        teacher=run.teacher_vectors,
        pairs=samples.retrieval_pairs(run.sources, run.seed),
        labelled=labelled,
        held_out=held_out,
        dev=docstring_pairs("dev"),
        seed=run.seed,
    )


def train_loras(run: Run) -> dict[str, Figures]:
    """Stage B: the five LoRAs into the folder of the trained model, with each one's figures."""
    stages = lora_stages(run)

    def saving(train: Callable[[float], Figures], *names: str) -> Callable[[float], Figures]:
        def work(minutes: float) -> Figures:
            figures = train(minutes)
            loras.save_loras(stages.encoder.model, names, run.trained)
            return figures

        return work

    both = ("retrieval.query", "retrieval.passage")
    work = {
        "retrieval": saving(stages.retrieval, *both),
        "separation": saving(stages.separation, "separation"),
        "classification": saving(stages.classification, "classification"),
        "text-matching": saving(stages.matching, "text-matching"),
    }
    return {name: run.stage(name, train) for name, train in work.items()}


def facts(run: Run) -> dict[str, object]:
    """What the model card says of the run's data and settings."""
    labelled, held_out = samples.labelled_texts(run.sources, run.seed)
    dev = len(docstring_pairs("dev"))
    return {
        "train_docs": len(run.sources.docstrings),
        "packages": len(run.sources.packages),
        "glosses": len(run.sources.glosses),
        "dev_pairs": dev,
        "matching": dev,
        "labelled": len(held_out),
        "classes": len({text.label for text in labelled}),
        "threads": torch.get_num_threads(),
        "minutes": f"{run.minutes:g}",
        "seed": run.seed,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all stages that are not yet done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="new folder of the checkpoint")
    parser.add_argument("--work", type=Path, help="folder of finished stages (default: OUT.work)")
    parser.add_argument("--minutes", type=float, default=49.0, help="training time, all stages")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        train(options)
    except TaskvecError as error:
        parser.error(str(error))


def train(options: argparse.Namespace) -> None:
    """Train, convert, and write the card."""
    if options.out.exists() and any(options.out.iterdir()):
        raise InputError(f"{options.out} is not empty: give --out a new folder")
    work = options.work or options.out.with_name(f"{options.out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    run = Run(work.resolve(), options.minutes, options.seed)
    figures = {"distil": run.stage("distil", lambda minutes: distil_body(run, minutes))}
    figures |= train_loras(run)
    convert(run.trained, options.out)
    print(write_card(options.out, figures, facts(run)))  # noqa: T201


if __name__ == "__main__":
    main()
