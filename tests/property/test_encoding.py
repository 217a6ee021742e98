"""What must hold for any texts at all."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskvec.core import Encoder
from tests.checkpoints import DIMS, TASKS, WORDS

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WILD = st.characters() | st.sampled_from("\x00\ud800\udc00\udfff\ufeff\u200b\U0001f600")
UNICODE = st.text(WILD, max_size=60)
WORDY = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)
TEXTS = st.lists(UNICODE | WORDY, min_size=1, max_size=8)
TASK = st.sampled_from([None, *TASKS])
TOLERANCE = 1e-5


@SETTINGS
@given(texts=TEXTS, data=st.data())
def test_order_and_neighbours_do_not_matter(
    encoder: Encoder, texts: list[str], data: st.DataObject
) -> None:
    tasks = data.draw(st.lists(TASK, min_size=len(texts), max_size=len(texts)))
    order = data.draw(st.permutations(range(len(texts))))
    together = encoder.encode(texts, task=tasks)
    shuffled = encoder.encode([texts[i] for i in order], task=[tasks[i] for i in order])
    alone = [encoder.encode(text, task=task) for text, task in zip(texts, tasks, strict=True)]
    np.testing.assert_allclose(shuffled, together[list(order)], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=TOLERANCE)


@SETTINGS
@given(text=WORDY, fillers=st.lists(WORDY, max_size=6), task=TASK)
def test_longer_neighbours_do_not_pad(
    encoder: Encoder, text: str, fillers: list[str], task: str | None
) -> None:
    longer = [text + " " + filler * 3 for filler in fillers]
    batch = encoder.encode([*longer, text], task=task)
    np.testing.assert_allclose(batch[-1], encoder.encode(text, task=task), rtol=0, atol=TOLERANCE)


@SETTINGS
@given(texts=TEXTS, task=TASK, dim=st.sampled_from(DIMS))
def test_every_dim_has_unit_norm_and_is_a_prefix_of_the_full_vector(
    encoder: Encoder, texts: list[str], task: str | None, dim: int
) -> None:
    vectors = encoder.encode(texts, task=task, dim=dim)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-6)
    prefix = encoder.encode(texts, task=task)[:, :dim]
    prefix /= np.linalg.norm(prefix, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, prefix, rtol=0, atol=TOLERANCE)


@SETTINGS
@given(text=UNICODE.filter(bool), task=TASK, data=st.data())
def test_any_spans_of_any_text_have_unit_vectors(
    encoder: Encoder, text: str, task: str | None, data: st.DataObject
) -> None:
    start = st.integers(0, len(text) - 1)
    span = start.flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, len(text))))
    spans = data.draw(st.lists(span, max_size=6))
    vectors = encoder.encode_chunks(text, spans, task=task)
    assert vectors.shape == (len(spans), DIMS[-1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-6)


@SETTINGS
@given(text=WORDY.filter(lambda text: len(text) > 10), data=st.data())
def test_the_order_of_spans_does_not_matter(
    encoder: Encoder, text: str, data: st.DataObject
) -> None:
    inner = data.draw(st.sets(st.integers(1, len(text) - 1), max_size=5))
    edges = [0, *sorted(inner), len(text)]
    spans = list(pairwise(edges))
    order = data.draw(st.permutations(range(len(spans))))
    straight = encoder.encode_chunks(text, spans)
    shuffled = encoder.encode_chunks(text, [spans[i] for i in order])
    np.testing.assert_allclose(shuffled, straight[list(order)], rtol=0, atol=TOLERANCE)


@SETTINGS
@given(text=UNICODE | WORDY, task=TASK)
def test_one_span_over_any_text_is_plain_encoding(
    encoder: Encoder, text: str, task: str | None
) -> None:
    chunk = encoder.encode_chunks(text, [(0, len(text))], task=task)
    np.testing.assert_array_equal(chunk[0], encoder.encode(text, task=task))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\t",
        "\x00",
        "a\x00b",
        "\ud800",
        "x\udfffy",
        "e\u0301",
        "\U0001f469\u200d\U0001f680",
    ],
)
def test_odd_texts_are_texts(encoder: Encoder, text: str) -> None:
    assert np.isfinite(encoder.encode(text, task="retrieval.passage")).all()
    assert np.isfinite(encoder.encode_chunks(text, [(0, len(text))])).all()


def test_a_hundred_thousand_characters_are_cut_or_read_in_windows(encoder: Encoder) -> None:
    text = ("the file is open and " * 5000)[:100_000]
    cut = encoder.encode(text, task="retrieval.passage")
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-6)
    spans = [(0, 1000), (50_000, 51_000), (99_000, 100_000)]
    assert encoder.encode_chunks(text, spans).shape == (3, DIMS[-1])
