"""Late chunking against token vectors of transformers' model, pooled by hand."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from taskvec.core import Encoder
from tests.checkpoints import PROMPTS, TASKS, WORDS, tiny_checkpoint, tokenizer
from tests.parity.oracle import Oracle

TASK = "retrieval.passage"
PROMPT = PROMPTS[TASK]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("late"), "hf")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Oracle:
    return Oracle(folder)


def document(words: int) -> str:
    return " ".join(np.random.default_rng(3).choice(WORDS, size=words))


def token_vectors(oracle: Oracle, ids: list[int], task: str | None) -> npt.NDArray[np.float32]:
    oracle._switch(task)
    with torch.inference_mode():
        hidden: torch.Tensor = oracle.model(input_ids=torch.tensor([ids])).last_hidden_state
    vectors: npt.NDArray[np.float32] = hidden[0].numpy()
    return vectors


def unit(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    normalised: npt.NDArray[np.float32] = vector / np.linalg.norm(vector)
    return normalised


@pytest.mark.parametrize("task", [None, TASK, "text-matching"])
def test_span_vectors_are_means_of_the_documents_token_vectors(
    folder: Path, oracle: Oracle, task: str | None
) -> None:
    prompt, text = PROMPTS.get(task or "", ""), document(120)
    cuts = [0, 90, 110, 300, len(text)]
    spans = list(pairwise(cuts))
    encoding = tokenizer().encode(prompt + text)
    vectors = token_vectors(oracle, encoding.ids, task)
    want = []
    for number, (start, end) in enumerate(spans):
        inside = [start <= right - 1 - len(prompt) < end for _, right in encoding.offsets]
        inside[0], inside[-1] = number == 0, number == len(spans) - 1
        if number == 0:
            inside = [
                own or right <= len(prompt)
                for own, (_, right) in zip(inside, encoding.offsets, strict=True)
            ]
            inside[-1] = False
        want.append(unit(vectors[np.array(inside)].mean(axis=0)))
    with Encoder.load(folder, dtype="float32") as encoder:
        got = encoder.encode_chunks(text, spans, task=task)
    np.testing.assert_allclose(got, np.stack(want), rtol=0, atol=1e-5)


def test_a_long_document_is_read_in_overlapping_windows(folder: Path, oracle: Oracle) -> None:
    """A window is BOS, prompt, a part of the text and EOS; overlaps are split in the middle."""
    text = document(300)
    encoding = tokenizer().encode(PROMPT + text)
    ids = encoding.ids
    head = 1 + sum(right <= len(PROMPT) for _, right in encoding.offsets[1:-1])
    room, body = 128 - head - 1, len(ids) - head - 1
    assert body > 2 * room
    with Encoder.load(folder, dtype="float32", max_tokens=128) as encoder:
        whole = encoder.encode_chunks(text, [(0, len(text))], task=TASK)
    # 128 tokens of context overlap by a quarter of it, 32.
    count = -(-(body - 32) // (room - 32))
    starts = [round(i * (body - room) / (count - 1)) for i in range(count)]
    assert all(b - a <= room - 32 for a, b in pairwise(starts))
    kept = []
    for number, start in enumerate(starts):
        window = [*ids[:head], *ids[head + start : head + start + room], ids[-1]]
        left = 0 if number == 0 else (start + starts[number - 1] + room) // 2
        right = body if number == count - 1 else (start + room + starts[number + 1]) // 2
        vectors = token_vectors(oracle, window, TASK)
        first = 0 if number == 0 else head + left - start
        last = len(window) if number == count - 1 else head + right - start
        kept.append(vectors[first:last])
    pooled = np.concatenate(kept)
    assert len(pooled) == len(ids)
    np.testing.assert_allclose(whole[0], unit(pooled.mean(axis=0)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", [None, *TASKS])
@pytest.mark.parametrize("text", ["", " ", "the file", document(200)])
def test_one_span_over_the_whole_text_is_plain_encoding(
    folder: Path, text: str, task: str | None
) -> None:
    with Encoder.load(folder, dtype="float32") as encoder:
        chunk = encoder.encode_chunks(text, [(0, len(text))], task=task)
        np.testing.assert_array_equal(chunk[0], encoder.encode(text, task=task))
