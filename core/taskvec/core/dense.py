"""Matrix products with weights in the layout that the CPU's kernels want."""

import functools

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

# What the layout is chosen for; a batch of any other size runs as well.
EXPECTED_TOKENS = 1024


class Dense:
    """x @ W.T + bias. On a CPU the weights are laid out for oneDNN once, not at every call."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """`weight` is (out, in), `bias` (out,)."""
        self.bias = bias
        self.packed = weight.device.type == "cpu" and can_pack(weight.dtype)
        self.weight = _pack(weight) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, in). Returns (T, out)."""
        if self.packed:
            return _packed_product(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU do it right: the operators are private to torch."""
    weight = torch.arange(64 * 32).reshape(64, 32).div(2048).to(dtype)
    x, bias = torch.linspace(-1, 1, 96).reshape(3, 32).to(dtype), torch.ones(64, dtype=dtype)
    try:
        product = _packed_product(x, _pack(weight), bias)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(product.float(), F.linear(x, weight, bias).float(), rtol=0.02, atol=0.02)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), EXPECTED_TOKENS)
    return packed


def _packed_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
