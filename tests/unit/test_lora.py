"""Layers whose LoRAs are folded into their products, against the weights that they stand for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from taskvec.core import Encoder, model
from taskvec.core.checkpoint import Lora
from taskvec.core.lora import LoraStack, Mix, Onto, Wide
from taskvec.core.packing import BASE
from tests.checkpoints import TASKS, WORDS, tiny_checkpoint

WIDTH, OUT = 48, 80
MODULE = "layers.0.fc1"


def loras(ranks: tuple[int, ...]) -> list[Lora]:
    torch.manual_seed(1)
    pairs = [(torch.randn(rank, WIDTH), torch.randn(OUT, rank)) for rank in ranks]
    return [
        Lora(0.5, {MODULE: pair} if rank else {}) for rank, pair in zip(ranks, pairs, strict=True)
    ]


def expected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, lora: Lora) -> torch.Tensor:
    if MODULE in lora.pairs:
        a, b = lora.pairs[MODULE]
        weight = weight + lora.scaling * b @ a
    return x @ weight.T + bias


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 0, 40), (0, 0, 0)])
def test_every_token_wears_its_own_lora(ranks: tuple[int, ...]) -> None:
    given = loras(ranks)
    weight, bias, x = torch.randn(OUT, WIDTH), torch.randn(OUT), torch.randn(9, WIDTH)
    residual = torch.randn(9, OUT)
    stack = LoraStack(given, MODULE, (OUT, WIDTH), x)
    tasks, lengths = [2, BASE, 0, 1], [3, 2, 1, 3]
    served = [given[task] if task != BASE else Lora(1, {}) for task in tasks]
    parts = zip(x.split(lengths), served, strict=True)
    want = torch.cat([expected(part, weight, bias, lora) for part, lora in parts])
    mix = Mix(torch.tensor(tasks).repeat_interleave(torch.tensor(lengths)))
    wide = Wide(weight, bias, stack)
    torch.testing.assert_close(wide(x, mix), want, atol=1e-4, rtol=1e-4)
    gelu = torch.nn.functional.gelu(want)
    torch.testing.assert_close(wide.gelu(x, mix), gelu, atol=1e-4, rtol=1e-4)
    onto = Onto(weight, bias, stack)(residual, x, mix)
    torch.testing.assert_close(onto, want + residual, atol=1e-4, rtol=1e-4)


def test_a_lora_that_overflows_harms_no_other_tasks_tokens() -> None:
    given = loras((4, 4))
    given[1].pairs[MODULE][0].fill_(1e36)
    x = 1e4 * torch.randn(4, WIDTH)
    stack = LoraStack(given, MODULE, (OUT, WIDTH), x)
    weight, bias, mix = torch.randn(OUT, WIDTH), torch.randn(OUT), Mix(torch.tensor([0, 0, 1, 1]))
    assert not Wide(weight, bias, stack)(x, mix)[2:].isfinite().all()
    assert Wide(weight, bias, stack)(x, mix)[:2].isfinite().all()
    assert Onto(weight, bias, stack)(torch.randn(4, OUT), x, mix)[:2].isfinite().all()


def test_merged_and_folded_loras_give_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=size)) for size in (1, 5, 40, 200)]
    tasks = (None, *TASKS)
    with Encoder.load(folder, dtype="float32") as encoder:
        merged = [encoder.encode(texts, task=task) for task in tasks]
    monkeypatch.setattr(model, "MERGED_BYTES", 0)
    with Encoder.load(folder, dtype="float32") as encoder:
        for task, want in zip(tasks, merged, strict=True):
            np.testing.assert_allclose(encoder.encode(texts, task=task), want, atol=1e-5)


def test_a_task_that_takes_anothers_place_is_merged_anew(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "hf", "hf")
    with Encoder.load(folder, dtype="float32") as encoder:
        encoder.add_task("own", folder / "separation")
        first = encoder.encode("read the file", task="own")
        encoder.remove_task("own")
        encoder.add_task("own", folder / "classification")
        second = encoder.encode("read the file", task="own")
        np.testing.assert_allclose(
            first, encoder.encode("read the file", task="separation"), atol=1e-5
        )
        np.testing.assert_allclose(
            second, encoder.encode("read the file", task="classification"), atol=1e-5
        )
