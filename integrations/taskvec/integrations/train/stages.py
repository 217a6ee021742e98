"""The LoRA stages: each trains its task and measures it against the base weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from taskvec.integrations.train import probes, tasks
from taskvec.integrations.train.loras import TaskEncoder
from taskvec.integrations.train.samples import Labelled, Pair
from taskvec.integrations.train.student import DIMS
from taskvec.integrations.train.texts.docstrings import Docstring

PROBE_DIMS = (64, DIMS[-1])
Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class LoraStages:
    """What the stages share. dev, held_out: texts that no LoRA is trained on."""

    encoder: TaskEncoder
    teacher: tasks.TeacherVectors
    pairs: dict[str, list[Pair]]
    labelled: Sequence[Labelled]
    held_out: Sequence[Labelled]
    dev: Sequence[Docstring]
    seed: int

    def retrieval(self, minutes: float) -> Figures:
        """Both retrieval LoRAs: recall@10 on dev docstrings."""
        done = tasks.train_retrieval(
            self.encoder, self.teacher, self.pairs, minutes=minutes, seed=self.seed
        )
        queries = self._vectors([doc.first for doc in self.dev], "retrieval.query")
        passages = self._vectors([doc.rest for doc in self.dev], "retrieval.passage")
        return done | probed(
            lambda kind, dim: probes.recall_at_10(queries[kind][:, :dim], passages[kind][:, :dim])
        )

    def separation(self, minutes: float) -> Figures:
        """Separation: neighbours of the same class among held-out texts."""
        return self._labelled("separation", probes.neighbours, minutes)

    def classification(self, minutes: float) -> Figures:
        """Classification: nearest class centre of held-out texts."""
        return self._labelled("classification", probes.centres, minutes)

    def matching(self, minutes: float) -> Figures:
        """Text-matching: rank correlation with the teacher on dev docstrings."""
        done = tasks.train_matching(
            self.encoder, self.teacher, self.pairs, minutes=minutes, seed=self.seed
        )
        texts = [doc.rest for doc in self.dev]
        vectors = self._vectors(texts, "text-matching")
        with torch.inference_mode():
            wanted = self.teacher(texts)
        return done | probed(lambda kind, dim: probes.matching(vectors[kind][:, :dim], wanted))

    @cached_property
    def _labels(self) -> Tensor:
        names = sorted({text.label for text in self.held_out})
        return torch.tensor([names.index(text.label) for text in self.held_out])

    def _labelled(
        self, task: str, measure: Callable[[Tensor, Tensor], float], minutes: float
    ) -> Figures:
        done = tasks.train_labelled(
            self.encoder, self.teacher, self.labelled, task, minutes=minutes, seed=self.seed
        )
        vectors = self._vectors([text.text for text in self.held_out], task)
        return done | probed(lambda kind, dim: measure(vectors[kind][:, :dim], self._labels))

    def _vectors(self, texts: Sequence[str], task: str) -> dict[str, Tensor]:
        return {
            "base": probes.encode_all(self.encoder, texts, None),
            "lora": probes.encode_all(self.encoder, texts, task),
        }


def probed(measure: Callable[[str, int], float]) -> Figures:
    """A measure's figures, `base 64` to `lora 384`: without and with the LoRA, small and full."""
    return {f"{kind} {dim}": measure(kind, dim) for kind in ("base", "lora") for dim in PROBE_DIMS}
