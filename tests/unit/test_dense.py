"""The CPU's own weight layout and the plain product give the same numbers."""

from pathlib import Path

import pytest
import torch

from taskvec.core import Encoder, dense
from tests.checkpoints import tiny_checkpoint

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 12, 700])
def test_packed_and_plain_products_agree(dtype: torch.dtype, tokens: int) -> None:
    if not dense.can_pack(dtype):
        pytest.skip(f"this CPU or torch has no packed product in {dtype}")
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64).to(dtype), torch.randn(96).to(dtype)
    x = torch.randn(tokens, 64).to(dtype)
    residual = torch.randn(tokens, 96).to(dtype)
    layer = dense.Dense(weight, bias)
    plain = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for product, wanted in (
        (layer(x), plain),
        (layer.gelu(x), torch.nn.functional.gelu(plain)),
        (layer.onto(residual, x), plain + residual.float()),
        (dense.Dense(weight)(x), plain - bias.float()),
    ):
        assert product.dtype == dtype
        torch.testing.assert_close(product.float(), wanted, atol=tolerance, rtol=tolerance)


def test_without_the_private_operators_vectors_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    texts = ["read the file", "a thread lock " * 30]
    with Encoder.load(folder, dtype="float32") as encoder:
        want = encoder.encode(texts, task="separation")
    monkeypatch.setattr(dense, "can_pack", lambda _: False)
    with Encoder.load(folder, dtype="float32") as encoder:
        plain = encoder.encode(texts, task="separation")
    torch.testing.assert_close(torch.tensor(plain), torch.tensor(want), atol=1e-5, rtol=0)


def test_an_operator_that_is_missing_or_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> torch.Tensor:
        raise RuntimeError("no such operator")

    for broken in (missing, lambda x, w, b, _: torch.zeros(len(x), len(b), dtype=x.dtype)):
        dense.can_pack.cache_clear()
        monkeypatch.setattr(dense, "_packed_product", broken)
        assert not dense.can_pack(torch.float32)
    dense.can_pack.cache_clear()
