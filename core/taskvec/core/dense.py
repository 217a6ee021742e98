"""Matrix products with what follows them, in the layout that the device's kernels want."""

import functools

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

# What the layout is chosen for; a batch of any other size runs as well.
EXPECTED_TOKENS = 1024


class Dense:
    """x @ W.T + bias. On a CPU the weights are laid out for oneDNN once, not at every call."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` is (out, in), `bias` (out,)."""
        self.bias = bias
        self.packed = weight.device.type == "cpu" and can_pack(weight.dtype)
        self.weight = _pack(weight) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, in). Returns (T, out)."""
        if self.packed:
            return _packed_product(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """Exact GELU of the product. x: (T, in). Returns (T, out)."""
        if self.packed and _fuses_gelu(x.dtype):
            return _packed_product(x, self.weight, self.bias, "gelu")
        gelu: Tensor = torch.ops.aten.gelu_(self(x))
        return gelu

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """The product added to a residual. residual: (T, out); x: (T, in). Returns (T, out)."""
        if self.packed:
            return _packed_sum(residual, x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias).add_(residual)


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU do it right: the operators are private to torch."""
    weight = torch.arange(64 * 32).reshape(64, 32).div(2048).to(dtype)
    x, bias = torch.linspace(-1, 1, 96).reshape(3, 32).to(dtype), torch.ones(64, dtype=dtype)
    plain = F.linear(x, weight, bias)
    try:
        packed = _pack(weight)
        pairs = [
            (_packed_product(x, packed, bias, "none"), plain),
            (_packed_sum(plain, x, packed, bias), plain + plain),
        ]
        if _fuses_gelu(dtype):
            pairs.append((_packed_product(x, packed, bias, "gelu"), F.gelu(plain)))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return all(
        torch.allclose(mine.float(), theirs.float(), rtol=0.02, atol=0.02) for mine, theirs in pairs
    )


def _fuses_gelu(dtype: torch.dtype) -> bool:
    """Whether oneDNN's GELU is worth it: in float32 torch's took a quarter of its time (AVX2)."""
    return dtype != torch.float32


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), EXPECTED_TOKENS)
    return packed


def _packed_product(x: Tensor, weight: Tensor, bias: Tensor | None, after: str = "none") -> Tensor:
    # The last argument picks GELU's exact form rather than its tanh approximation.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none")
    return product


def _packed_sum(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    return total
