"""The losses of our own, against what their formulas say pair by pair."""

import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from torch import Tensor, nn
from torch.nn import functional

from taskvec.core import Encoder
from taskvec.integrations.train import bases, modules, task
from taskvec.integrations.train.contrast import (
    DRIFT,
    Anchored,
    ClassContrast,
    TaughtContrast,
    over_dims,
    pair_loss,
)
from taskvec.integrations.train.settings import PairsSettings, TaskSettings
from taskvec.integrations.train.tables import Kind
from taskvec.integrations.train.task import TaskTransformer

TEMPERATURE = 0.1


class Table(nn.Module):
    """A model whose vectors are given: features name the rows, and take the answer in."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        features["sentence_embedding"] = self.vectors[features["rows"]]
        return features


def columns(*rows: list[int]) -> list[dict[str, Tensor]]:
    return [{"rows": torch.tensor(part)} for part in rows]


def cosine(left: Tensor, right: Tensor) -> float:
    return float(functional.cosine_similarity(left, right, dim=0))


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(0))


def test_a_teacher_of_the_same_opinion_adds_nothing_to_the_contrast(vectors: Tensor) -> None:
    model = Table(vectors)
    loss = TaughtContrast(model, temperature=TEMPERATURE, weight=5.0)
    units = functional.normalize(vectors, dim=-1)
    labels = torch.cat([units[0:3], units[3:6], units[6:9]], 1)
    value = loss(columns([0, 1, 2], [3, 4, 5], [6, 7, 8]), labels)
    wanted = 0.0
    for query in range(3):
        scores = [cosine(vectors[query], vectors[other]) / TEMPERATURE for other in range(3, 9)]
        wanted -= math.log(math.exp(scores[query]) / sum(map(math.exp, scores))) / 3
    assert value.item() == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_of_another_opinion_costs_its_divergence(vectors: Tensor) -> None:
    model = Table(vectors)
    other = functional.normalize(
        torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    labels = torch.cat([other[:3], other[3:]], 1)
    batch = columns([0, 1, 2], [3, 4, 5])
    weightless = TaughtContrast(model, temperature=TEMPERATURE, weight=0.0)(batch, labels)
    weighty = TaughtContrast(model, temperature=TEMPERATURE, weight=2.0)(batch, labels)
    divergence = 0.0
    for query in range(3):
        ours = (
            torch.tensor([cosine(vectors[query], vectors[3 + i]) for i in range(3)]) / TEMPERATURE
        )
        theirs = torch.tensor([cosine(other[query], other[3 + i]) for i in range(3)]) / TEMPERATURE
        p, q = theirs.softmax(0), ours.softmax(0)
        divergence += float((p * (p / q).log()).sum()) / 3
    assert (weighty - weightless).item() == pytest.approx(2 * divergence, rel=1e-3)


def test_cosines_that_are_not_the_teachers_cost_their_squares(vectors: Tensor) -> None:
    model = Table(vectors)
    other = functional.normalize(
        torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    batch, labels = (
        columns([0, 1], [2, 3], [4, 5]),
        torch.cat([other[:2], other[2:4], other[4:]], 1),
    )
    told = {"temperature": TEMPERATURE, "weight": 1.0}
    without = TaughtContrast(model, **told)(batch, labels)
    value = TaughtContrast(model, **told, cosine_weight=3.0)(batch, labels)
    moved = [
        (cosine(vectors[query], vectors[passage]) - cosine(other[query], other[passage])) ** 2
        for query in range(2)
        for passage in range(2, 6)
    ]
    assert (value - without).item() == pytest.approx(3 * sum(moved) / 8, rel=1e-3)


def test_a_memory_ranks_both_sides_among_the_batches_before(vectors: Tensor) -> None:
    model = Table(vectors)
    judges = functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)))
    batches = [columns([0], [1], [2]), columns([3], [4], [5]), columns([6], [7], [8])]
    labels = [judges[[3 * i, 3 * i + 1, 3 * i + 2]].reshape(1, -1) for i in range(3)]

    def losses(memory: int, weight: float) -> list[Tensor]:
        loss = TaughtContrast(model, temperature=TEMPERATURE, weight=weight, memory=memory)
        return [loss(batch, label) for batch, label in zip(batches, labels, strict=True)]

    def apart(row: int, among: list[int]) -> Tensor:
        ours, theirs = (
            torch.stack([functional.cosine_similarity(v[row], v[i], dim=0) for i in among])
            / TEMPERATURE
            for v in (vectors, judges)
        )
        p, q = theirs.softmax(0), ours.softmax(0)
        return (p * (p / q).log()).sum()

    def both(asked: int, passages: list[int], past: list[int]) -> float:
        queries = apart(asked, passages + [i for i in past if i % 3])
        found = [apart(p, [asked] + [i for i in past if i % 3 == 0]) for p in passages]
        return float((queries + sum(found) / len(found)) / 2)

    plain = [value.item() for value in losses(0, 0.0)]
    taught = losses(1, 1.0)
    # The third no longer knows of the first.
    wanted = [both(0, [1, 2], []), both(3, [4, 5], [0, 1, 2]), both(6, [7, 8], [3, 4, 5])]
    found = [value.item() - base for value, base in zip(taught, plain, strict=True)]
    assert found == pytest.approx(wanted, rel=1e-3)
    taught[1].backward()
    assert model.vectors.grad is not None
    assert (model.vectors.grad[3:6].abs().sum(-1) > 0).all()
    assert model.vectors.grad[:3].abs().sum() == 0


def test_a_memory_is_of_training_and_goes_through_pickle(vectors: Tensor) -> None:
    loss = TaughtContrast(Table(vectors), temperature=TEMPERATURE, weight=1.0, memory=2)
    units = functional.normalize(vectors, dim=-1)
    labels = torch.cat([units[[0, 2]], units[[1, 3]]], 1)
    batch = columns([0, 2], [1, 3])
    first = loss(batch, labels).item()
    copy = pickle.loads(pickle.dumps(loss))  # noqa: S301 - our own bytes
    assert copy(batch, labels).item() == pytest.approx(loss(batch, labels).item())
    fresh = TaughtContrast(Table(vectors), temperature=TEMPERATURE, weight=1.0, memory=2).eval()
    assert [fresh(batch, labels).item() for _ in range(2)] == pytest.approx([first, first])


def test_each_dim_has_a_weight_and_a_memory_of_its_own(vectors: Tensor) -> None:
    model = Table(vectors)
    model.get_embedding_dimension = lambda: 6  # type: ignore[assignment]
    judges = functional.normalize(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    labels = torch.cat([judges[[0, 2]], judges[[1, 3]]], 1)

    def second(weights: dict[int, float], memory: int = 1) -> float:
        inner = TaughtContrast(model, temperature=TEMPERATURE, weight=1.0, memory=memory)
        loss = over_dims(cast(SentenceTransformer, model), inner, (3, 6), weights)
        return [loss(columns([0, 2], [1, 3]), labels).item() for _ in range(2)][1]

    full, prefix = second({3: 0.0}), second({6: 0.0})
    assert full != pytest.approx(prefix, rel=1e-2)
    assert second({3: 2.0}) == pytest.approx(full + 2 * prefix, rel=1e-4)
    assert second({3: 2.0}) != pytest.approx(second({3: 2.0}, memory=0), rel=1e-2)


def test_settings_reach_the_losses(checkpoint: Path, tmp_path: Path) -> None:
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.save(tmp_path / "hf", layout="hf")
    module = modules.sentence_module(tmp_path / "hf", 16, None, TaskTransformer)
    model, told = modules.sentence_model(module), {"out": tmp_path, "data": tmp_path}
    pairs = PairsSettings(**told, teachers=("t",), memory=3, cosine_weight=4.0)
    found = pair_loss(model, pairs)
    assert isinstance(found, TaughtContrast)
    assert (found.memory, found.cosine_weight) == (3, 4.0)
    settings = TaskSettings(
        **told, name="a", anchor=2.0, mean_cosine_share=0.4, dim_weights={8: 2.0}
    )
    dims = bases.dims_of(tmp_path / "hf")
    loss = task.loss_of(model, Kind.LABELS, settings, dims)
    weights = dict(zip(loss.matryoshka_dims, loss.matryoshka_weights, strict=True))
    assert weights == {dim: 2.0 if dim == 8 else 1.0 for dim in dims}
    assert isinstance(loss.loss, Anchored)
    assert (loss.loss.weight, loss.loss.share) == (2.0, 0.4)


def test_what_the_teacher_calls_the_same_passage_is_no_negative(vectors: Tensor) -> None:
    teacher = functional.normalize(torch.eye(6)[[0, 1, 2, 3, 3, 5]], dim=-1)
    labels = torch.cat([teacher[:3], teacher[3:]], 1)
    model = Table(vectors)
    loss = TaughtContrast(model, temperature=TEMPERATURE, weight=0.0)
    value = loss(columns([0, 1, 2], [3, 4, 5]), labels)
    wanted = 0.0
    # Passages 3 and 4 are one to the teacher: neither is a negative of the other's query.
    for query, passages in ((0, [3, 5]), (1, [4, 5]), (2, [3, 4, 5])):
        scores = {p: cosine(vectors[query], vectors[p]) / TEMPERATURE for p in passages}
        wanted -= math.log(math.exp(scores[3 + query]) / sum(map(math.exp, scores.values()))) / 3
    assert value.item() == pytest.approx(wanted, rel=1e-4)


def test_a_text_and_its_classmate_are_contrasted_with_other_classes(vectors: Tensor) -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    model = Table(vectors)
    value = ClassContrast(model, temperature=TEMPERATURE)(columns(list(range(6))), labels)
    terms = []
    for i in range(6):
        scores = [math.exp(cosine(vectors[i], vectors[j]) / TEMPERATURE) for j in range(6)]
        others = sum(scores[j] for j in range(6) if labels[j] != labels[i])
        mates = [j for j in range(6) if labels[j] == labels[i] and j != i]
        terms += [-math.log(scores[j] / (scores[j] + others)) for j in mates]
    assert len(terms) == 6 + 2
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    value.backward()
    assert model.vectors.grad is not None
    assert torch.isfinite(model.vectors.grad).all()


def test_an_anchored_loss_adds_how_far_the_cosines_have_moved(vectors: Tensor) -> None:
    model, before = Table(vectors), torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    learnt = vectors.clone()

    @contextmanager
    def bare() -> Iterator[None]:
        model.vectors.data.copy_(before)
        yield
        model.vectors.data.copy_(learnt)

    inner, labels = CoSENTLoss(model, scale=5.0), torch.tensor([0.9, 0.1, 0.4])
    batch = columns([0, 1, 2], [3, 4, 5])
    plain = inner(columns([0, 1, 2], [3, 4, 5]), labels)
    value = Anchored(model, inner, weight=3.0, share=0.7, bare=bare)(batch, labels)
    pairs = [(i, j) for i in range(6) for j in range(6)]
    now, then = ([cosine(v[i], v[j]) for i, j in pairs] for v in (vectors, before))
    squares = sum((a - b) ** 2 for a, b in zip(now, then, strict=True)) / 36
    drift = sum(now) / 36 - 0.7 * sum(then) / 36
    wanted = plain.item() + 3 * (squares + DRIFT * drift * drift)
    assert value.item() == pytest.approx(wanted, rel=1e-4)
    value.backward()
    assert model.vectors.grad is not None
    assert model.vectors.grad[:6].abs().sum() > 0


def test_one_class_alone_has_nothing_to_be_told_from(vectors: Tensor) -> None:
    model = Table(vectors)
    value = ClassContrast(model, temperature=TEMPERATURE)(columns([0, 1, 2]), torch.zeros(3))
    value.backward()
    assert value.item() == 0
    assert model.vectors.grad is not None
    assert torch.isfinite(model.vectors.grad).all()


def test_a_batch_without_classmates_moves_nothing(vectors: Tensor) -> None:
    model = Table(vectors)
    value = ClassContrast(model, temperature=TEMPERATURE)(columns([0, 1, 2]), torch.arange(3))
    value.backward()
    assert value.item() == 0
    assert model.vectors.grad is not None
    assert model.vectors.grad.abs().sum() == 0
