"""From token vectors to unit vectors: mean, Matryoshka cut, L2 norm."""

import numpy as np

from taskvec.core.embedder import Array
from taskvec.core.errors import DimensionError

# Keeps a zero vector zero instead of NaN; no trained model gives one.
TINY = np.float32(1e-12)


def check_dim(dim: int | None, dims: tuple[int, ...]) -> int:
    """The dim to serve; None means the full one. Raises DimensionError unless trained for."""
    if dim is None:
        return dims[-1]
    if isinstance(dim, bool) or not isinstance(dim, int) or dim not in dims:
        raise DimensionError(f"unknown dim {dim!r}: the model was trained for {dims}")
    return dim


def mean(sums: Array, counts: Array) -> Array:
    """Mean token vectors. sums: (B, D) float32; counts: (B,) tokens summed. Returns (B, D)."""
    return sums / counts[:, None]


def cut(vectors: Array, dim: int) -> Array:
    """Keep a Matryoshka prefix and restore unit length.

    vectors: (B, D) float32. Returns (B, dim), unit L2 norm. The caller has checked `dim`.
    Source: arXiv:2409.10173, section 3.
    """
    prefix = vectors[:, :dim]
    norms = np.linalg.norm(prefix, axis=1, keepdims=True)
    unit: Array = prefix / np.maximum(norms, TINY)
    return unit
