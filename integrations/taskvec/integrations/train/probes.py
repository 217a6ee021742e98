"""Each LoRA against the base weights, on texts that its training has not seen.

A measure takes vectors (B, D) of the probe's texts and gives a figure, higher is better.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from taskvec.integrations.train.loras import TaskEncoder
from taskvec.integrations.train.objectives import cosines

CHUNK = 256
NEIGHBOURS = 5


def encode_all(encoder: TaskEncoder, texts: Sequence[str], task: str | None) -> Tensor:
    """Vectors of any number of texts, (B, D) float32, in bfloat16 arithmetic, no gradients."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        parts = [encoder(texts[i : i + CHUNK], task) for i in range(0, len(texts), CHUNK)]
    return torch.cat(parts).clone()


def recall_at_10(queries: Tensor, passages: Tensor) -> float:
    """Share of queries whose passage of the same index is among the ten nearest."""
    scores = cosines(queries, passages)
    better = (scores >= scores.diagonal()[:, None]).sum(1) - 1
    return float((better < 10).float().mean())


def neighbours(vectors: Tensor, labels: Tensor) -> float:
    """Share of the five nearest other texts that have the text's class. labels: (B,) int64."""
    nearest = cosines(vectors, vectors).fill_diagonal_(-1).topk(NEIGHBOURS).indices
    return float((labels[nearest] == labels[:, None]).float().mean())


def centres(vectors: Tensor, labels: Tensor) -> float:
    """Accuracy of the nearest class centre, every other text making the centres."""
    vectors = functional.normalize(vectors, dim=-1)
    known = functional.one_hot(labels[::2], int(labels.max()) + 1).float()
    nearest = cosines(vectors[1::2], known.T @ vectors[::2]).argmax(1)
    return float((nearest == labels[1::2]).float().mean())


def matching(vectors: Tensor, theirs: Tensor) -> float:
    """Rank correlation with the teacher's cosines over all pairs of the texts."""
    rows, columns = torch.triu_indices(len(vectors), len(vectors), offset=1)
    ours, wanted = cosines(vectors, vectors), cosines(theirs, theirs)
    return spearman(ours[rows, columns].numpy(), wanted[rows, columns].numpy())


def spearman(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    """Rank correlation of two equally long series; ties in order of occurrence."""
    ranks = [values.argsort(kind="stable").argsort(kind="stable") for values in (left, right)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
