"""Attention inside each row of a packed batch."""

import functools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from taskvec.core.packing import Packed

HALF = (torch.bfloat16, torch.float16)
FLASH_CAPABILITY = (8, 0)  # Ampere; older cards have no flash kernel


def attend(q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
    """Softmax attention of every row over itself alone. q, k, v: (T, H, D/H). Returns the same."""
    if attends_at_once(q.device, q.dtype):
        longest = max(packed.lengths)
        mixed: Tensor = _varlen(q.device)(q, k, v, packed.offsets, packed.offsets, longest, longest)
        return mixed
    sizes = [*(rows * length for rows, length in packed.runs), packed.fill]
    parts = zip(*(x.split(sizes)[: len(packed.runs)] for x in (q, k, v)), packed.runs, strict=True)
    outs = [_rows(q, k, v, rows, length) for q, k, v, (rows, length) in parts]
    if packed.fill:
        outs.append(v.new_zeros(packed.fill, *v.shape[1:]))
    return torch.cat(outs) if len(outs) > 1 else outs[0]


def attends_at_once(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether rows of any lengths attend in one call, with nothing computed on the host."""
    return device.type == "cuda" and dtype in HALF and _varlen(device) is not None


def _rows(q: Tensor, k: Tensor, v: Tensor, rows: int, length: int) -> Tensor:
    """Attention of rows of equal length. q, k, v: (rows · L, H, D/H). Returns the same."""
    _, heads, width = q.shape
    shape = rows, length, heads, width
    q_, k_, v_ = (x.view(shape).transpose(1, 2) for x in (q, k, v))  # [rows, H, L, D/H]
    mixed = F.scaled_dot_product_attention(q_, k_, v_)
    return mixed.transpose(1, 2).reshape(q.shape)


@functools.cache
def _varlen(device: torch.device) -> Any:
    """Variable-length flash attention, from torch or from flash-attn; None without either."""
    if torch.cuda.get_device_capability(device) < FLASH_CAPABILITY:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415
    except ImportError:
        pass
    else:
        return varlen_attn
    try:
        from flash_attn import flash_attn_varlen_func  # noqa: PLC0415
    except ImportError:
        return None
    return flash_attn_varlen_func
