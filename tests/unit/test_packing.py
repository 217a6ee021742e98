"""Batches of any lengths come in few sizes, and what fills them up is in no result."""

import numpy as np
import pytest
import torch

from taskvec.core import Encoder, packing
from taskvec.core.packing import BASE, BLOCK, pack

CPU = torch.device("cpu")


def row(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.int32)


def test_batches_of_every_length_come_in_few_sizes_with_little_waste() -> None:
    sizes = {}
    for tokens in range(1, 2049):
        packed = pack([row(tokens)], [0], CPU)
        assert len(packed.ids) == len(packed.positions) == tokens + packed.fill
        sizes[tokens] = len(packed.ids)
        assert packed.fill < (4 if tokens <= 32 else 16 if tokens <= 256 else 64)
    assert len(set(sizes.values())) <= 50


def test_rows_keep_their_places_before_the_filler() -> None:
    packed = pack([row(3), row(3), row(5)], [1, BASE, 0], CPU)
    assert packed.runs == ((2, 3), (1, 5))
    assert packed.offsets.tolist() == [0, 3, 6, 11]
    assert packed.positions[:11].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4]
    assert packed.tasks[:11].tolist() == [1, 1, 1, BASE, BASE, BASE, 0, 0, 0, 0, 0]
    assert packed.fill == 1


@pytest.mark.parametrize("words", [1, 9, 10, 11, 200])
def test_a_text_alone_and_in_a_full_batch_has_one_vector(encoder: Encoder, words: int) -> None:
    text = "file " * words
    alone = encoder.encode(text, task="separation")
    beside = encoder.encode([text, "the read", "a thread lock " * 7], task="separation")
    np.testing.assert_allclose(beside[0], alone, atol=1e-5)


@pytest.mark.parametrize("tokens", [2048, 2049, 5000])
def test_only_a_long_batch_is_taken_in_blocks(tokens: int) -> None:
    packed = pack([row(tokens)], [0], CPU)
    assert packed.block == (BLOCK if tokens > 2048 else tokens)


def test_a_row_in_blocks_has_the_vector_of_the_whole(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["file " * 300, "the read", "a thread lock " * 30]
    tasks = ["separation", None, "classification"]
    whole = encoder.encode(texts, task=tasks)
    monkeypatch.setattr(packing, "WHOLE", 0)
    monkeypatch.setattr(packing, "BLOCK", 48)
    np.testing.assert_allclose(encoder.encode(texts, task=tasks), whole, atol=1e-5)
