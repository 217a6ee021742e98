"""The first dims of a body's vectors learn to rank as all of them do."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import TrainingArguments

from taskvec.core import Encoder
from taskvec.integrations.train.bases import load_body, soften
from taskvec.integrations.train.prefixes import DrawnTexts, PrefixTrainer, by_length, prefix_loss
from tests.checkpoints import WORDS

NONE = torch.zeros(0, 16), torch.zeros(0, 16)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def in_first(vectors: Tensor, dim: int) -> Tensor:
    return functional.pad(vectors[:, :dim], (0, vectors.shape[1] - dim))


def test_vectors_whose_prefix_holds_all_they_say_lose_nothing() -> None:
    vectors = in_first(drawn(6, 16), 4)
    assert prefix_loss(vectors, vectors, NONE, {4: 1.0, 8: 1.0}).item() == pytest.approx(
        0, abs=1e-5
    )


def test_what_a_prefix_lacks_is_lost_by_its_weight() -> None:
    vectors = drawn(6, 16)
    once, twice = (prefix_loss(vectors, vectors, NONE, {4: w}).item() for w in (1.0, 2.0))
    assert once > 0.1
    assert twice == pytest.approx(2 * once, rel=1e-4)


def test_the_full_dim_is_held_to_the_teachers_vectors() -> None:
    vectors = in_first(drawn(6, 16), 4)
    turned = vectors.roll(8, dims=1)
    assert prefix_loss(turned, vectors, NONE, {}).item() == pytest.approx(20, rel=1e-4)


def test_texts_of_earlier_batches_are_ranked_too() -> None:
    batch = in_first(drawn(6, 16), 4)
    past = drawn(5, 16)
    assert prefix_loss(batch, batch, (past, past), {4: 1.0}).item() > 0.01
    past = in_first(past, 4)
    assert prefix_loss(batch, batch, (past, past), {4: 1.0}).item() == pytest.approx(0, abs=1e-5)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{name}.jsonl" for name in ("few", "many", "none")]
    for file, count in zip(found, (3, 300, 0), strict=True):
        rows = [
            {"anchor": f"{file.stem} {i}", "positive": " ".join(WORDS[i % 20 : i % 20 + 6])}
            for i in range(count)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return found


def test_a_batch_follows_from_seed_and_step_and_is_of_one_file(files: list[Path]) -> None:
    data = DrawnTexts(files, steps=40, pairs=8, seed=1)
    batches = [data[i] for i in range(len(data))]
    assert batches == [DrawnTexts(files, 40, 8, 1)[i] for i in range(40)]
    assert batches != [DrawnTexts(files, 40, 8, 2)[i] for i in range(40)]
    names = [{text.split()[0] for text in batch[::2]} for batch in batches]
    assert all(len(name) == 1 for name in names)
    assert set.union(*names) == {"few", "many"}
    assert {len(batch) for batch in batches} == {6, 16}
    with pytest.raises(IndexError):
        data[40]


def test_texts_of_like_length_are_padded_together() -> None:
    rows = [[0, *[5] * count, 2] for count in (90, 1, 3, 40, 2, 88, 41, 4)]
    groups = by_length(rows, pad=1)
    assert [tuple(group["ids"].shape) for group in groups] == [(2, 4), (2, 6), (2, 43), (2, 92)]
    assert sum(int(group["mask"].sum()) for group in groups) == sum(map(len, rows))


def test_the_last_layers_learn_and_the_others_stay(
    checkpoint: Path, files: list[Path], tmp_path: Path
) -> None:
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.save(tmp_path / "start", layout="hf")
    body = load_body(tmp_path / "start")
    before = {name: value.clone() for name, value in body.state_dict().items()}
    trainer = PrefixTrainer(
        body,
        Tokenizer.from_file(str(tmp_path / "start" / "tokenizer.json")),
        first=1,
        weights={8: 1.0},
        max_tokens=16,
        memory=2,
        args=TrainingArguments(
            str(tmp_path / "run"),
            max_steps=60,
            learning_rate=1e-3,
            per_device_train_batch_size=1,
            logging_steps=5,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=DrawnTexts(files, 60, 8, 0),
    )
    trainer.train()
    changed = {
        name for name, value in body.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("layers.1.") for name in changed)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] * 0.8
    assert len(trainer.memory) == 2

    taught = {name: value.clone() for name, value in body.state_dict().items()}
    soften(body, tmp_path / "start", 0.75)
    for name, value in body.state_dict().items():
        torch.testing.assert_close(value, 0.25 * before[name] + 0.75 * taught[name])
    soften(body, tmp_path / "start", 0)
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
