"""int8 weights: near the float products, refused where they cannot run."""

from pathlib import Path

import numpy as np
import pytest
import torch

from taskvec.core import Encoder, quantized
from taskvec.core.errors import InputError
from taskvec.core.placement import choose_dtype
from tests.checkpoints import TASKS, tiny_checkpoint

needs_int8 = pytest.mark.skipif(
    not quantized.can_quantize(torch.float32), reason="this CPU or torch has no int8 product"
)


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_products_are_near_those_of_floats(dtype: torch.dtype, shift: float) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64).to(dtype), torch.randn(96).to(dtype)
    x, residual = (torch.randn(50, 64) + shift).to(dtype), torch.randn(50, 96).to(dtype)
    plain = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
    layer = quantized.Quantized(weight, bias)
    for product, wanted in (
        (layer(x), plain),
        (layer.gelu(x), torch.nn.functional.gelu(plain)),
        (layer.onto(residual, x), plain + residual.float()),
    ):
        assert product.dtype == dtype
        error = (product.float() - wanted).norm() / wanted.norm()
        assert error < 0.02


@needs_int8
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5, 1e-30])
def test_inputs_of_one_value_are_rounded_to_it(value: float) -> None:
    x = torch.full((3, 8), value)
    values, scale, zero = quantized.quantize(x)
    back = (values.float() - zero) * scale
    torch.testing.assert_close(back, x, atol=abs(value) / 100 + 1e-9, rtol=0)


def test_rounding_never_leaves_the_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, high = np.sort(rng.normal(scale=10.0 ** rng.integers(-3, 4), size=2))
        x = torch.tensor(np.append(rng.uniform(low, high, 100), [low, high]), dtype=torch.float32)
        values, scale, zero = quantized.quantize(x)
        error = ((values.float() - zero) * scale - x).abs().max()
        assert error <= 0.51 * scale


@needs_int8
def test_vectors_are_near_those_of_floats_for_every_task_and_mix(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    texts = ["read the file", "a thread lock " * 30, "open", "the error of a module"] * 2
    with Encoder.load(folder, dtype="float32") as encoder:
        wanted = {task: encoder.encode(texts, task=task) for task in (None, *TASKS)}
    with Encoder.load(folder, dtype="int8") as encoder:
        assert encoder.dtype == "int8"
        for task, want in wanted.items():
            assert (encoder.encode(texts, task=task) * want).sum(axis=1).min() > 0.98
        mix = [*TASKS, None, *TASKS[:2]]
        mixed = encoder.encode(texts, task=mix)
        want = np.stack([wanted[task][i] for i, task in enumerate(mix)])
        assert (mixed * want).sum(axis=1).min() > 0.98


def test_int8_is_refused_away_from_cpus() -> None:
    with pytest.raises(InputError, match="dtype 'int8' is for CPUs"):
        choose_dtype("int8", torch.device("cuda"))


def test_a_cpu_without_int8_products_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(quantized.Quantized, "__init__", missing)
    quantized.can_quantize.cache_clear()
    with pytest.raises(InputError, match="has no int8 product, use 'auto'"):
        choose_dtype("int8", torch.device("cpu"))
    quantized.can_quantize.cache_clear()
