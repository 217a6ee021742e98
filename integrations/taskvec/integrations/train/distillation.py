"""Distillation of hidden states: the student learns a BERT teacher's, token by token.

The teacher reads a text behind the prefix of one of its roles, and a text beyond its own context
in windows; the student reads the text alone, at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertModel, JinaEmbeddingsV3Model

from taskvec.integrations.train.batches import Row, collate
from taskvec.integrations.train.runs import WholeTrainer
from taskvec.integrations.train.transplant import mean_pool


@dataclass(frozen=True)
class Lesson:
    """How the teacher reads: its ids of the student's tokens, its prefix, and its context.

    kept: the teacher's id of each of the student's, (V,) int64. prefix: the teacher's ids put
    after the first token. window: most tokens the teacher takes at once, specials included.
    """

    kept: Tensor
    prefix: tuple[int, ...]
    pad: int
    window: int

    def inputs(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """A batch for both: the student's `ids` and `mask`, the teacher's, and where each token is.

        `source`, (B, T) int64: a student's token's place in the teacher's flattened (B', T')
        batch. `owner`, (B',) int64: the row that a teacher's row is a window of.
        """
        given = collate(rows, self.pad)
        windows: list[Row] = []
        owners: list[int] = []
        places: list[list[tuple[int, int]]] = []
        for owner, row in enumerate(rows):
            first, *inner, last = self.kept[torch.tensor(row)].tolist()
            room = self.window - len(self.prefix) - 2
            place: list[tuple[int, int]] = []
            for start in range(0, max(1, len(inner)), room):
                part = inner[start : start + room]
                offset = 1 + len(self.prefix)
                place += [(len(windows), offset + i) for i in range(len(part))]
                windows.append([first, *self.prefix, *part, last])
                owners.append(owner)
            begin, end = len(windows) - _count(len(inner), room), len(windows) - 1
            places.append([(begin, 0), *place, (end, len(windows[end]) - 1)])
        asked = collate(windows, int(self.kept[self.pad]))
        width = asked.ids.shape[1]
        source = torch.zeros_like(given.ids)
        for index, place in enumerate(places):
            source[index, : len(place)] = torch.tensor([row * width + col for row, col in place])
        return {
            "ids": given.ids,
            "mask": given.mask,
            "teacher_ids": asked.ids,
            "teacher_mask": asked.mask,
            "source": source,
            "owner": torch.tensor(owners),
        }


def _count(tokens: int, room: int) -> int:
    return max(1, -(-tokens // room))


@dataclass(frozen=True)
class Wanted:
    """What the teacher says of a batch: hidden states by layer (B, T, D), pooled vectors (B, D)."""

    hidden: dict[int, Tensor]
    pooled: Tensor


def ask(teacher: BertModel, batch: dict[str, Tensor], layers: Sequence[int]) -> Wanted:
    """Run the teacher on a batch of `Lesson.inputs`, without gradients."""
    with torch.no_grad():
        states = teacher(
            input_ids=batch["teacher_ids"],
            attention_mask=batch["teacher_mask"],
            output_hidden_states=True,
        ).hidden_states
    hidden = {layer: states[layer].flatten(0, 1)[batch["source"]] for layer in layers}
    weight = batch["teacher_mask"].unsqueeze(-1).float()
    count = len(batch["ids"])
    sums = torch.zeros(count, states[-1].shape[-1], device=weight.device)
    sums.index_add_(0, batch["owner"], (states[-1].float() * weight).sum(1))
    tokens = torch.zeros(count, 1, device=weight.device)
    tokens.index_add_(0, batch["owner"], weight.sum(1))
    return Wanted(hidden, sums / tokens)


def hidden_loss(ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
    """Squared error over the tokens, relative to the teacher's squares. (B, T, D) each."""
    weight = mask.unsqueeze(-1).float()
    error = ((ours.float() - theirs.float()).square() * weight).sum()
    return error / (theirs.float().square() * weight).sum()


def similarity_loss(ours: Tensor, theirs: Tensor, dims: Sequence[int]) -> Tensor:
    """Squared error of the batch's cosine matrices, over the Matryoshka prefixes of ours.

    (B, D) each; the full dim weighs 3, a prefix 1.
    """
    wanted = functional.normalize(theirs, dim=-1)
    wanted = wanted @ wanted.T
    total = ours.new_zeros(())
    for dim in dims:
        prefix = functional.normalize(ours[:, :dim], dim=-1)
        weight = 3.0 if dim == ours.shape[-1] else 1.0
        total = total + weight * functional.mse_loss(prefix @ prefix.T, wanted)
    return total


class Distillation(WholeTrainer):
    """transformers' trainer with a teacher: every item of its dataset is one batch of rows.

    centre: a vector (D,) taken out of the teacher's last hidden states and pooled vectors.
    """

    def __init__(
        self,
        model: JinaEmbeddingsV3Model,
        teacher: BertModel,
        lesson: Lesson,
        centre: Tensor,
        *,
        layers: Sequence[int],
        dims: Sequence[int],
        **options: Any,
    ) -> None:
        super().__init__(
            model=model, data_collator=lambda items: lesson.inputs(items[0]), **options
        )
        self.teacher = teacher
        torch.nn.Module.to(teacher, self.args.device)
        self.centre = centre.to(self.args.device)
        self.layers = tuple(layers)
        self.dims = tuple(dims)
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any
    ) -> Tensor:
        """Hidden states at some layers + pooled cosine + similarity matrices, a scalar."""
        wanted = ask(self.teacher, inputs, self.layers)
        given = model(
            input_ids=inputs["ids"], attention_mask=inputs["mask"], output_hidden_states=True
        ).hidden_states
        last = len(given) - 1
        loss = torch.zeros((), device=self.centre.device)
        for layer in self.layers:
            theirs = wanted.hidden[layer]
            theirs = theirs - self.centre if layer == last else theirs
            loss = loss + hidden_loss(given[layer], theirs, inputs["mask"])
        ours, pooled = mean_pool(given[-1], inputs["mask"]), wanted.pooled - self.centre
        cosine = functional.cosine_similarity(ours, pooled).mean()
        return loss + (1 - cosine) + similarity_loss(ours, pooled, self.dims)
