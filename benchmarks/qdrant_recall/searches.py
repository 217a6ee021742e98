"""What is searched for, and how: dims, quantisations, candidates, and the bytes that each needs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

K = 10
QUANTISATIONS = ("none", "scalar", "binary")
OVERSAMPLING = (1, 2, 5, 10, 20)
MOST_CANDIDATES = K * OVERSAMPLING[-1]
FLOAT = 4  # bytes
# Times as many candidates that a quantised first stage finds where its own vectors re-score them.
RESCORED = 2
# Qdrant fills bytes and bits up to whole words of 128 bits, and puts an offset before the bytes.
WORD = 16
OFFSET = 4


class Search(NamedTuple):
    """The K nearest, by vectors of `small` dims.

    full: the dims by which oversampling x K candidates are compared again, None where they are
    not; where it equals small, Qdrant re-scores what it found by the quantised vectors. rescored:
    a first stage's unquantised vectors choose of RESCORED times as many before the second stage.
    exact: by all vectors, without an index.
    """

    small: int
    quantisation: str = "none"
    full: int | None = None
    oversampling: int = 1
    rescored: bool = False
    exact: bool = False

    @property
    def candidates(self) -> int:
        """How many the first stage finds."""
        return K * self.oversampling

    @property
    def dim(self) -> int:
        """Of the vectors that decide, and that an exact search compares."""
        return self.full or self.small

    @property
    def memory_bytes(self) -> int:
        """Of the first stage's vector, which lies in memory, the graph left out."""
        return vector_bytes(self.small, self.quantisation)

    @property
    def disk_bytes(self) -> int:
        """Of vectors on disk alone: what the first stage's was made of, what the second reads."""
        quantised = 0 if self.quantisation == "none" else vector_bytes(self.small)
        apart = 0 if self.full in (None, self.small) else vector_bytes(self.dim)
        return quantised + apart


def vector_bytes(dim: int, quantisation: str = "none") -> int:
    """Bytes that Qdrant's engine keeps of a vector.

    none: float32. scalar: a byte each, and an offset. binary: a bit each. Raises KeyError for
    another quantisation.
    """
    return {
        "none": FLOAT * dim,
        "scalar": -(-dim // WORD) * WORD + OFFSET,
        "binary": -(-dim // (8 * WORD)) * WORD,
    }[quantisation]


def searches(dims: Sequence[int]) -> list[Search]:
    """Those of a model's Matryoshka dims, ascending: in one stage, and in two.

    Qdrant's own re-scoring is tried with the last dim alone, in one stage and before a second.
    """
    return [Search(dims[-1], exact=True), *_one_stage(dims), *_two_stages(dims)]


def _one_stage(dims: Sequence[int]) -> Iterator[Search]:
    for dim in dims:
        for quantisation in QUANTISATIONS:
            yield Search(dim, quantisation)


def _two_stages(dims: Sequence[int]) -> Iterator[Search]:
    for full in dims:
        for first in _first_stages(dims, full):
            for factor in OVERSAMPLING:
                yield first._replace(oversampling=factor)


def _first_stages(dims: Sequence[int], full: int) -> Iterator[Search]:
    """What may come before the vectors of a dim, with as many candidates as are asked for."""
    for small in (dim for dim in dims if dim < full):
        for quantisation in QUANTISATIONS:
            yield Search(small, quantisation, full)
            if quantisation != "none" and full == dims[-1]:
                yield Search(small, quantisation, full, rescored=True)
    if full == dims[-1]:
        yield from (Search(full, kind, full) for kind in QUANTISATIONS if kind != "none")
