"""Stage A: the student learns the teacher's hidden states, token by token."""

import random
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import BertModel, JinaEmbeddingsV3Model

from taskvec.integrations.train.distillation import hidden_loss
from taskvec.integrations.train.student import DIMS
from taskvec.integrations.train.transplant import mean_pool

LAYERS = (2, 4, 6)
TOKEN_BUDGET = 2048
MAX_TOKENS = 512
LEARNING_RATE = 4e-4
WARMUP = 0.03


class Batch(NamedTuple):
    """Token ids and mask of one batch, both (B, T) int64."""

    ids: Tensor
    mask: Tensor


def collate(rows: Sequence[Sequence[int]]) -> Batch:
    """Rows of token ids, padded on the right with 0 to (B, T)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [0] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return Batch(ids, (torch.arange(width) < lengths[:, None]).long())


def batches(rows: Sequence[Sequence[int]], seed: int) -> Iterator[Batch]:
    """Endless shuffled batches of rows of like length, about TOKEN_BUDGET tokens each."""
    order = random.Random(seed)  # noqa: S311
    while True:
        indices = sorted(range(len(rows)), key=lambda i: (len(rows[i]), order.random()))
        groups: list[list[int]] = [[]]
        for index in indices:
            if groups[-1] and (len(groups[-1]) + 1) * len(rows[index]) > TOKEN_BUDGET:
                groups.append([])
            groups[-1].append(index)
        order.shuffle(groups)
        for group in groups:
            yield collate([rows[index] for index in group])


def similarity_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """MSE of the batch's cosine matrices, over all Matryoshka prefixes of ours. (B, D) each."""
    wanted = functional.normalize(theirs, dim=-1)
    wanted = wanted @ wanted.T
    total = ours.new_zeros(())
    for dim in DIMS:
        prefix = functional.normalize(ours[:, :dim], dim=-1)
        weight = 3.0 if dim == DIMS[-1] else 0.5
        total = total + weight * functional.mse_loss(prefix @ prefix.T, wanted)
    return total


def distil_loss(
    student: JinaEmbeddingsV3Model, teacher: BertModel, kept: Tensor, batch: Batch
) -> Tensor:
    """Hidden states of three layers + pooled cosine + similarity matrices, a scalar."""
    with torch.no_grad():
        wanted = teacher(
            input_ids=kept[batch.ids], attention_mask=batch.mask, output_hidden_states=True
        ).hidden_states
    given = student(
        input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True
    ).hidden_states
    loss = sum(
        (hidden_loss(given[i], wanted[i], batch.mask) for i in LAYERS), start=torch.zeros(())
    )
    ours, theirs = mean_pool(given[-1], batch.mask), mean_pool(wanted[-1], batch.mask)
    cosine = functional.cosine_similarity(ours, theirs).mean()
    return loss + (1 - cosine) + similarity_loss(ours, theirs)


def rate(progress: float) -> float:
    """Learning rate as a fraction of its peak: linear warm-up, then linear decay to 0."""
    if progress < WARMUP:
        return progress / WARMUP
    return max(0.0, (1 - progress) / (1 - WARMUP))


def distil(
    student: JinaEmbeddingsV3Model,
    teacher: BertModel,
    kept: Tensor,
    rows: Sequence[Sequence[int]],
    *,
    minutes: float,
    seed: int,
) -> dict[str, float]:
    """Train the student in place for a time. Returns its steps, texts, tokens and last loss.

    rows: token ids of the student's tokenizer; kept: the teacher's id of each.
    """
    torch.manual_seed(seed)
    student.train()
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    start, texts, tokens, steps, average = time.monotonic(), 0, 0, 0, 0.0
    with tqdm(total=round(minutes * 60), unit="s", desc="distil") as bar:
        for batch in batches(rows, seed):
            elapsed = time.monotonic() - start
            if elapsed >= minutes * 60:
                break
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate(elapsed / (minutes * 60))
            with torch.autocast("cpu", torch.bfloat16):
                loss = distil_loss(student, teacher, kept, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps, texts = steps + 1, texts + len(batch.ids)
            tokens += int(batch.mask.sum())
            average = loss.item() if steps == 1 else 0.98 * average + 0.02 * loss.item()
            bar.set_postfix(loss=f"{average:.3f}", tokens=tokens, refresh=False)
            bar.update(round(time.monotonic() - start) - bar.n)
    student.train(mode=False)
    return {"steps": steps, "texts": texts, "tokens": tokens, "loss": average}
