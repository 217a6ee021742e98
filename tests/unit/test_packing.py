"""Batches of any lengths come in few sizes, and what fills them up is in no result."""

import numpy as np
import pytest
import torch

from taskvec.core import Encoder
from taskvec.core.packing import pack

CPU = torch.device("cpu")


def row(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.int32)


def test_batches_of_every_length_come_in_few_sizes_with_little_waste() -> None:
    sizes = {}
    for tokens in range(1, 2049):
        packed = pack([row(tokens)], CPU)
        assert len(packed.ids) == len(packed.positions) == tokens + packed.fill
        sizes[tokens] = len(packed.ids)
        assert packed.fill < (16 if tokens <= 256 else 64)
    assert len(set(sizes.values())) <= 44


def test_rows_keep_their_places_before_the_filler() -> None:
    packed = pack([row(3), row(3), row(5)], CPU)
    assert packed.runs == ((2, 3), (1, 5))
    assert packed.offsets.tolist() == [0, 3, 6, 11]
    assert packed.positions[:11].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4]
    assert packed.fill == 5


@pytest.mark.parametrize("words", [1, 9, 10, 11, 200])
def test_a_text_alone_and_in_a_full_batch_has_one_vector(encoder: Encoder, words: int) -> None:
    text = "file " * words
    alone = encoder.encode(text, task="separation")
    beside = encoder.encode([text, "the read", "a thread lock " * 7], task="separation")
    np.testing.assert_allclose(beside[0], alone, atol=1e-5)
