"""Losses of the LoRA tasks, each averaged over the Matryoshka prefixes. Vectors are (B, D)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from taskvec.integrations.train.student import DIMS

TEMPERATURE = 0.05
FALSE_NEGATIVE = 0.9


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of every pair of rows: (B, B')."""
    return functional.normalize(left, dim=-1) @ functional.normalize(right, dim=-1).T


def over_prefixes(loss: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    """Weighted mean of a loss over the trained dims, the full one twice.

    Source: arXiv:2205.13147, section 3.
    """
    losses = torch.stack([loss(left[:, :dim], right[:, :dim]) for dim in DIMS])
    return (losses.sum() + losses[-1]) / (len(DIMS) + 1)


def retrieval_loss(
    queries: Tensor, passages: Tensor, teacher_queries: Tensor, teacher_passages: Tensor
) -> Tensor:
    """InfoNCE with in-batch negatives + the teacher's ranking of the same batch, a scalar.

    A negative that the teacher finds nearly equal to the right passage is left out.
    """
    alike = cosines(teacher_passages, teacher_passages) > FALSE_NEGATIVE
    alike &= ~torch.eye(len(alike), dtype=torch.bool)
    target = torch.arange(len(queries))
    wanted = functional.softmax(cosines(teacher_queries, teacher_passages) / TEMPERATURE, dim=-1)

    def loss(query: Tensor, passage: Tensor) -> Tensor:
        scores = cosines(query, passage) / TEMPERATURE
        contrast = functional.cross_entropy(scores.masked_fill(alike, -1e4), target)
        ranking = functional.kl_div(scores.log_softmax(-1), wanted, reduction="batchmean")
        return contrast + ranking

    return over_prefixes(loss, queries, passages)


def anchor_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """How far the full vectors turn away from the teacher's: 1 - mean cosine."""
    return 1 - functional.cosine_similarity(ours, theirs).mean()


def cosent_loss(ours: Tensor, scores: Tensor) -> Tensor:
    """CoSENT over all pairs of a batch: a pair of higher score must have the higher cosine.

    scores: (B, B), any scale; pairs of equal score are not compared.
    Source: arXiv:2409.10173, section 4.3.
    """
    rows, columns = torch.triu_indices(len(ours), len(ours), offset=1)
    label = scores[rows, columns]
    lower = label[:, None] < label[None, :]

    def loss(left: Tensor, right: Tensor) -> Tensor:
        cosine = cosines(left, right)[rows, columns] / TEMPERATURE
        gaps = (cosine[:, None] - cosine[None, :]).masked_fill(~lower, -1e4).flatten()
        return functional.softplus(torch.logsumexp(gaps, 0))

    return over_prefixes(loss, ours, ours)


def matching_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """CoSENT on the teacher's cosines + their squared error, a scalar."""
    wanted = cosines(theirs, theirs)

    def error(left: Tensor, right: Tensor) -> Tensor:
        return functional.mse_loss(cosines(left, right), wanted)

    return 0.1 * cosent_loss(ours, wanted) + 10 * over_prefixes(error, ours, ours)


def separation_loss(ours: Tensor, labels: Tensor) -> Tensor:
    """CoSENT with score 1 inside a class and 0 across, a scalar. labels: (B,) int64."""
    return 0.1 * cosent_loss(ours, (labels[:, None] == labels[None, :]).float())


def classification_loss(ours: Tensor, labels: Tensor) -> Tensor:
    """Contrast of each text's classmates with all other texts, both ways of every pair.

    Source: arXiv:2004.11362, equation 2.
    """
    same = (labels[:, None] == labels[None, :]).float()
    own = torch.eye(len(labels), dtype=torch.bool)
    same = same.masked_fill(own, 0.0)

    def loss(left: Tensor, right: Tensor) -> Tensor:
        scores = (cosines(left, right) / (2 * TEMPERATURE)).masked_fill(own, -1e4)
        chance = scores.log_softmax(-1)
        return -((chance * same).sum(-1) / same.sum(-1).clamp(min=1)).mean()

    return over_prefixes(loss, ours, ours)
