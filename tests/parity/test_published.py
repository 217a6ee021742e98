"""The published weights' own reference values, where the weights are at hand.

Set TASKVEC_TEST_JINA to the folder of jinaai/jina-embeddings-v3-hf or of
jinaai/jina-embeddings-v3; the hub's cache is looked at otherwise.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from huggingface_hub import try_to_load_from_cache

from taskvec.core import Encoder

TEXT = "Jina Embeddings V3 is great for semantic search."
BASE = [
    [-3.1011, 0.8560, -0.2491, 0.9427, 1.4015, -1.1527, 1.3804, -0.5453, -1.8164],
    [-3.1108, 1.0107, -0.2097, 1.3495, 0.9984, -0.9518, 1.3189, -0.6295, -2.1128],
    [-2.7095, 0.6469, -0.4475, 1.1364, 1.5975, -0.7545, 1.0803, 0.5199, -2.3569],
]
FIRST_ROW = {
    "retrieval.query": [
        -1.9765,
        0.7356,
        -0.4414,
        0.5823,
        2.1507,
        -0.8906,
        0.0233,
        -0.2389,
        -1.5708,
    ],
    "retrieval.passage": [
        *(-1.7028, 0.5688, -0.8541, 0.4696, 2.5396, -0.8374, -0.1404, -0.3123, -1.4636)
    ],
    "separation": [-3.0336, 1.4392, 0.2875, 0.7660, 0.7054, -1.1701, 1.6121, -0.6325, -1.5177],
    "classification": [-2.7150, 0.2485, 1.2297, 0.6988, 0.9804, -1.2831, 1.3446, -0.1663, -0.6874],
    "text-matching": [-1.5888, 1.0527, 0.1237, -0.0822, 1.6507, -1.0371, -0.8815, -0.8082, -0.6564],
}


def published() -> str | None:
    if folder := os.environ.get("TASKVEC_TEST_JINA"):
        return folder
    names = ("jinaai/jina-embeddings-v3-hf", "jinaai/jina-embeddings-v3")
    cached = (name for name in names if try_to_load_from_cache(name, "model.safetensors"))
    return next(cached, None)


pytestmark = pytest.mark.skipif(
    published() is None, reason="the published weights are not on this machine: TASKVEC_TEST_JINA"
)


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    with Encoder.load(published() or "", dtype="float32", device="cpu") as loaded:
        yield loaded


def hidden(encoder: Encoder, task: str | None) -> torch.Tensor:
    """Token vectors of the reference text without a prompt, (17, 1024)."""
    ids = encoder._tokenizer.ids([TEXT])
    found = encoder._tasks.find([task], max_tokens=encoder.max_tokens)
    return encoder._models[0].forward(ids, found)


def test_base_weights_give_the_published_values(encoder: Encoder) -> None:
    states = hidden(encoder, None)
    assert states.shape == (17, 1024)
    np.testing.assert_allclose(states[1:4, 1:10], BASE, rtol=0, atol=1e-4)


@pytest.mark.parametrize("task", FIRST_ROW)
def test_each_lora_gives_the_published_values(encoder: Encoder, task: str) -> None:
    states = hidden(encoder, task)
    np.testing.assert_allclose(states[1, 1:10], FIRST_ROW[task], rtol=0, atol=1e-4)
