"""Matrix products in int8 on CPUs: weights per output channel, inputs as the batch has them."""

import functools

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from taskvec.core.dense import EXPECTED_TOKENS

WEIGHT_STEPS = 127  # int8, symmetric
INPUT_STEPS = 254  # of uint8's 255: a zero point rounded up must not push the largest value over
TINY = 1e-12  # keeps the scale of an input of zeros above zero


class Quantized:
    """x @ W.T + bias with W in int8 and x rounded to uint8 by its own range in each batch.

    Same methods as `Dense`. bias and results have the input's dtype.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """`weight` is (out, in), `bias` (out,), of a float dtype."""
        wide = weight.float()
        self._scales = wide.abs().amax(dim=1).clamp_min(TINY) / WEIGHT_STEPS  # [out]
        rounded = (wide / self._scales[:, None]).round().to(torch.int8)
        size = [EXPECTED_TOKENS, weight.shape[1]]
        self._weight: Tensor = torch.ops.onednn.qlinear_prepack(rounded, size)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._bias = bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, in). Returns (T, out)."""
        return self._product(x, "none")

    def gelu(self, x: Tensor) -> Tensor:
        """Exact GELU of the product. x: (T, in). Returns (T, out)."""
        return self._product(x, "gelu")

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """The product added to a residual. residual: (T, out); x: (T, in). Returns (T, out)."""
        return self._product(x, "none").add_(residual)

    def _product(self, x: Tensor, after: str) -> Tensor:
        rounded, scale, zero = quantize(x)
        weights = self._weight, self._scales, self._zeros, self._bias
        # 1.0 and 0: the result is of x's dtype, not rounded in its turn; "none" is exact GELU.
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, scale, zero, *weights, 1.0, 0, x.dtype, after, [], "none"
        )
        return product


def quantize(x: Tensor) -> tuple[Tensor, float, int]:
    """uint8 values, scale and zero point: x ≈ (values - zero) · scale."""
    low, high = (float(edge) for edge in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / INPUT_STEPS, TINY)
    zero = round(-low / scale)
    # Cutting off the fraction after adding a half rounds: nothing is below zero.
    return (x.float() * (1 / scale)).add_(zero + 0.5).to(torch.uint8), scale, zero


@functools.cache
def can_quantize(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU do it right: the operators are private to torch."""
    weight = torch.arange(64 * 32).reshape(64, 32).div(2048).to(dtype)
    x, bias = torch.linspace(-1, 1, 96).reshape(3, 32).to(dtype), torch.ones(64, dtype=dtype)
    plain = F.linear(x.float(), weight.float(), bias.float())
    try:
        layer = Quantized(weight, bias)
        found = layer(x).float(), layer.gelu(x).float()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    wanted = plain, F.gelu(plain)
    pairs = zip(found, wanted, strict=True)
    return all(torch.allclose(mine, theirs, rtol=0.05, atol=0.05) for mine, theirs in pairs)
