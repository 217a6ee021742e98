"""Self-distillation of the Matryoshka prefixes: the first dims learn to rank as all of them do.

A body teaches a copy of its own last layers, so that it takes texts alone, in any order and of any
kind. Source of the prefixes: Kusupati and others, arXiv:2205.13147.
"""

import copy
import json
import random
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import JinaEmbeddingsV3Model

from taskvec.integrations.train.batches import Row, collate, tokenize
from taskvec.integrations.train.runs import WholeTrainer
from taskvec.integrations.train.transplant import mean_pool

# Of a softmax over cosines, in which the nearest few texts are nearly all there is.
TEMPERATURE = 0.05
GROUPS = 4
FIDELITY, ERROR = 20.0, 50.0


class DrawnTexts(Dataset[list[str]]):
    """Batches of pairs of one file each, drawn anew for every step; an item is one batch.

    A step's batch follows from the seed and its number alone, so that a resumed run goes on with
    what it would have read.
    """

    def __init__(self, files: Sequence[Path], steps: int, pairs: int, seed: int) -> None:
        """files: JSON lines with `anchor` and `positive`. pairs: the most in a batch."""
        found = [[_texts(line) for line in _lines(file)] for file in files]
        self._files = [rows for rows in found if rows]
        # A small file is read more often than its share, and less often than a large one.
        self._weights = [len(rows) ** 0.5 for rows in self._files]
        self._steps, self._pairs, self._seed = steps, pairs, seed

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> list[str]:
        if not 0 <= index < self._steps:
            raise IndexError(index)
        order = random.Random(f"{self._seed} {index}")  # noqa: S311
        (rows,) = order.choices(self._files, self._weights)
        drawn = order.sample(rows, min(self._pairs, len(rows)))
        return [text for row in drawn for text in row]


def by_length(rows: Sequence[Row], pad: int) -> list[dict[str, Tensor]]:
    """Rows in up to GROUPS batches of like length, so that little is padding; order is lost."""
    ordered = sorted(rows, key=len)
    size = -(-len(ordered) // GROUPS)
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [collate(part, pad)._asdict() for part in parts]


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _texts(line: str) -> tuple[str, str]:
    row = json.loads(line)
    return row["anchor"], row["positive"]


def prefix_loss(
    ours: Tensor, theirs: Tensor, others: tuple[Tensor, Tensor], weights: Mapping[int, float]
) -> Tensor:
    """How much worse the prefixes of our vectors rank than all dims of the teacher's, a scalar.

    ours, theirs: (B, D). others: vectors of earlier batches, (N, D) of ours and of the teacher's,
    which each text is compared with beside those of its own batch. weights: by dim; the full dim
    is held to the teacher's vectors and their cosines beside it.
    """
    wanted = functional.normalize(theirs, dim=-1)
    cosines = wanted @ functional.normalize(torch.cat([theirs, others[1]]), dim=-1).T
    itself = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    ranks = _ranks(cosines, itself)
    fidelity = 1 - functional.cosine_similarity(ours, theirs).mean()
    total = FIDELITY * fidelity + ERROR * functional.mse_loss(_cosines(ours, others[0]), cosines)
    for dim, weight in weights.items():
        own = _cosines(ours[:, :dim], others[0][:, :dim])
        apart = functional.kl_div(
            _ranks(own, itself), ranks, log_target=True, reduction="batchmean"
        )
        total = total + weight * (ERROR * functional.mse_loss(own, cosines) + apart)
    return total


def _cosines(ours: Tensor, others: Tensor) -> Tensor:
    every = functional.normalize(torch.cat([ours, others]), dim=-1)
    return every[: len(ours)] @ every.T


def _ranks(cosines: Tensor, itself: Tensor) -> Tensor:
    # Not minus infinity: nothing times that is not nothing.
    return (cosines / TEMPERATURE).masked_fill(itself, -1e4).log_softmax(-1)


class PrefixTrainer(WholeTrainer):
    """transformers' trainer of a body's last layers, with those that it starts with as teacher.

    The layers below are run once a step for both, and stay as they are.
    """

    def __init__(
        self,
        model: JinaEmbeddingsV3Model,
        tokenizer: Tokenizer,
        *,
        first: int,
        weights: Mapping[int, float],
        max_tokens: int,
        memory: int,
        **options: Any,
    ) -> None:
        """first: the lowest layer that learns. weights: by dim, see `prefix_loss`.

        max_tokens: of a text; what is beyond is cut off. memory: how many earlier batches each
        text is compared with.
        """
        pad = cast(int, model.config.pad_token_id)

        def read(items: Sequence[Sequence[str]]) -> dict[str, list[dict[str, Tensor]]]:
            return {"groups": by_length(tokenize(tokenizer, items[0], max_tokens), pad)}

        super().__init__(model=model, data_collator=read, **options)
        model.requires_grad_(requires_grad=False)
        self.tail = copy.deepcopy(model.layers[first:])
        torch.nn.Module.to(self.tail, self.args.device)
        cast(nn.Module, model.layers[first:]).requires_grad_(requires_grad=True)
        model.layers[first].register_forward_pre_hook(self._note, with_kwargs=True)
        self.weights = dict(weights)
        self.memory: deque[tuple[Tensor, Tensor]] = deque(maxlen=memory)
        self.model_accepts_loss_kwargs = False
        self._given: tuple[Tensor, dict[str, Any]] | None = None

    def _note(self, _: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        self._given = given[0], named

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """`prefix_loss` of a batch, a scalar."""
        pooled = [self._both(model, **group) for group in inputs["groups"]]
        ours, theirs = (torch.cat(each) for each in zip(*pooled, strict=True))
        past = zip((ours[:0], theirs[:0]), *self.memory, strict=True)
        others = cast(tuple[Tensor, Tensor], tuple(torch.cat(each) for each in past))
        self.memory.append((ours.detach(), theirs))
        return prefix_loss(ours, theirs, others, self.weights)

    def _both(self, model: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Our pooled vectors and the teacher's, (B, D) each. ids, mask: (B, T)."""
        found = model(input_ids=ids, attention_mask=mask).last_hidden_state
        hidden, named = cast(tuple[Tensor, dict[str, Any]], self._given)
        with torch.no_grad():
            for layer in self.tail:
                hidden = layer(hidden, **named)
        return mean_pool(found, mask), mean_pool(hidden, mask)
