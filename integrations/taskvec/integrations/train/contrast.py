"""Losses that sentence-transformers lacks: pairs that listen to teachers, and labelled texts."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn
from torch.nn import functional

from taskvec.integrations.train.settings import PairStage

# Queries and passages of a batch.
Sides: TypeAlias = tuple[Tensor, Tensor]
# Above this cosine between two passages, the teachers call one a right answer to both queries.
FALSE_NEGATIVE = 0.95
# How much more the mean of a batch's cosines counts than each of them.
DRIFT = 50.0
# A score that counts for nothing, and unlike an infinite one has a gradient where all are such.
NEVER = -1e4


class VectorLoss(Protocol):
    """A loss that reads vectors: those of sentence-transformers, and the ones below."""

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """A scalar. embeddings: (B, E) a column."""


class TaughtContrast(nn.Module):
    """InfoNCE with in-batch negatives, and how far the model is from its teachers.

    That is the divergence from their ranking, times weight, and the mean square of how far its
    cosines are from theirs, times cosine_weight: a ranking says little of what lies far behind.
    Columns: anchor, positive, any negatives. The labels, (B, columns · E), are the teachers' unit
    vectors of the columns side by side. A negative that the teachers find nearly equal to a
    query's own passage is left out. With a cross-batch memory of that many batches a query is
    ranked among their passages too, as they were when they were read, and a passage likewise among
    all these queries. Sources: arXiv:2409.10173, section 4.2, for InfoNCE; arXiv:1912.06798 for
    the memory.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        temperature: float,
        weight: float,
        cosine_weight: float = 0.0,
        memory: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.weight = weight
        self.cosine_weight = cosine_weight
        self.memory = memory
        # By dim, since a Matryoshka loss asks for one after the other.
        self._past: dict[int, deque[tuple[Sides, Sides]]] = defaultdict(
            partial(deque, maxlen=memory)
        )

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """A scalar. sentence_features: one batch of B rows a column."""
        columns = [self.model(features)["sentence_embedding"] for features in sentence_features]
        wanted = labels.to(columns[0].dtype).chunk(len(columns), dim=-1)
        ours, theirs = ((own[0], torch.cat(own[1:])) for own in (columns, wanted))
        cosines, judged = _cosines(*ours), _cosines(*theirs)
        own = torch.arange(len(cosines), device=cosines.device)
        alike = _cosines(wanted[1], theirs[1]) > FALSE_NEGATIVE
        alike[own, own] = False
        scores = (cosines / self.temperature).masked_fill(alike, NEVER)
        contrast = functional.cross_entropy(scores, own)
        moved = (cosines - judged).square().mean()
        taught = self._remembering(ours, theirs) if self.memory else self._apart(cosines, judged)
        return contrast + self.weight * taught + self.cosine_weight * moved

    def _apart(self, cosines: Tensor, judged: Tensor) -> Tensor:
        """How far the ranking by cosines is from the teachers', the mean over the rows."""
        ranks = (cosines / self.temperature).log_softmax(-1)
        wanted = (judged / self.temperature).softmax(-1)
        return functional.kl_div(ranks, wanted, reduction="batchmean")

    def _remembering(self, ours: Sides, theirs: Sides) -> Tensor:
        """The same with the memory, the mean of both ways. ours, theirs: queries and passages."""
        past = self._past[ours[0].shape[-1]]
        total = ours[0].new_zeros(())
        for side, other in ((0, 1), (1, 0)):
            among, judges = (
                torch.cat([now[other], *(batch[whose][other] for batch in past)])
                for whose, now in enumerate((ours, theirs))
            )
            total = total + self._apart(_cosines(ours[side], among), _cosines(theirs[side], judges))
        if self.training:
            past.appendleft(((ours[0].detach(), ours[1].detach()), theirs))
        return total / 2


class Anchored(nn.Module):
    """A loss, and how far a batch's cosines are from those that the model without LoRAs finds.

    That is the mean of the squares, and DRIFT times the square of how far their mean lies from a
    share of what it was. Alone, a loss of order or of classes may draw all texts into a narrow cone
    and forget what the model knew. loss: one of vectors. share: the further apart texts lie, the
    easier they are told apart by whoever learns from few of them. bare: makes the model forget its
    LoRAs for a while.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        loss: VectorLoss,
        *,
        weight: float,
        share: float,
        bare: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.weight = weight
        self.share = share
        self.bare = bare

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """A scalar. sentence_features: one batch of B rows a column."""
        columns = list(sentence_features)
        # The model writes into what it is given.
        own = [self.model(dict(column))["sentence_embedding"] for column in columns]
        with torch.no_grad(), self.bare():
            before = [self.model(dict(column))["sentence_embedding"] for column in columns]
        now, then = (_cosines(vectors, vectors) for vectors in (torch.cat(own), torch.cat(before)))
        moved = (now - then).square().mean()
        drift = (now.mean() - self.share * then.mean()).square()
        loss = self.loss.compute_loss_from_embeddings(own, labels)
        return loss + self.weight * (moved + DRIFT * drift)


class ClassContrast(nn.Module):
    """Triplets by contrast: a text and a classmate against all texts of other classes, both ways.

    One column of texts; the labels, (B,) int64, are their classes. Other classmates are no
    negatives. Source: arXiv:2409.10173, section 4.3.
    """

    def __init__(self, model: SentenceTransformer, *, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """A scalar, 0 where no two texts share a class. sentence_features: one column of B rows."""
        columns = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(columns, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """The same of the column's vectors, (B, E)."""
        (vectors,) = embeddings
        scores = _cosines(vectors, vectors) / self.temperature
        mates = labels[:, None] == labels[None, :]
        others = scores.masked_fill(mates, NEVER).logsumexp(-1, keepdim=True)
        mates = mates & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        # softplus(b - a) is -log of exp(a) / (exp(a) + exp(b)).
        each = functional.softplus(others - scores)
        return (each * mates).sum() / mates.sum().clamp(min=1)


def pair_loss(model: SentenceTransformer, settings: PairStage) -> nn.Module:
    """The contrast of pairs that a stage's settings ask for, at the full dim."""
    if settings.is_taught:
        return TaughtContrast(
            model,
            temperature=settings.temperature,
            weight=settings.teacher_weight,
            cosine_weight=settings.cosine_weight,
            memory=settings.memory,
        )
    loss: nn.Module = MultipleNegativesRankingLoss(model, scale=1 / settings.temperature)
    return loss


def over_dims(
    model: SentenceTransformer,
    loss: nn.Module,
    dims: Sequence[int],
    weights: Mapping[int, float],
) -> MatryoshkaLoss:
    """A loss as the sum of itself at all Matryoshka dims of a model.

    weights: how much a dim counts, 1 where it is not named.
    """
    return MatryoshkaLoss(model, loss, list(dims), [weights.get(dim, 1.0) for dim in dims])


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    return functional.normalize(left, dim=-1) @ functional.normalize(right, dim=-1).T
