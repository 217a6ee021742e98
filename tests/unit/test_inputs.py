"""Bad input is refused with the item's index, what was given and what is allowed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskvec.core import Encoder, Roles
from taskvec.core.errors import DimensionError, InputError, LengthError, TaskError, TaskvecError

Call = Callable[[Encoder], Any]

REFUSED: dict[str, tuple[Call, type[TaskvecError], str]] = {
    "no str": (lambda e: e.encode(["a", 3]), InputError, r"texts\[1\] is int: expected str"),
    "None": (lambda e: e.encode(["a", "b", None]), InputError, r"texts\[2\] is NoneType"),
    "bytes": (lambda e: e.encode(b"abc"), InputError, "texts is bytes"),
    "a mapping": (lambda e: e.encode({"a": 1}), InputError, "texts is dict"),
    "a number": (lambda e: e.encode(5), InputError, "texts is int"),
    "task": (lambda e: e.encode("a", task="query"), TaskError, "unknown task 'query'.*separation"),
    "tasks": (lambda e: e.encode(["a", "b"], task=[None, "x"]), TaskError, r"task\[1\].*'x'"),
    "task count": (lambda e: e.encode(["a"], task=[None, None]), InputError, "2 tasks for 1 texts"),
    "dim": (lambda e: e.encode("a", dim=7), DimensionError, r"unknown dim 7.*\(8, 16, 32\)"),
    "dim bool": (lambda e: e.encode("a", dim=True), DimensionError, "unknown dim True"),
    "dim str": (lambda e: e.encode("a", dim="8"), DimensionError, "unknown dim '8'"),
    "lane": (lambda e: e.encode("a", lane="fast"), InputError, "unknown lane 'fast'"),
    "overflow": (lambda e: e.encode("a", overflow="cut"), InputError, "unknown overflow 'cut'"),
    "span end": (lambda e: e.encode_chunks("abc", [(0, 1), (1, 4)]), InputError, r"spans\[1\]"),
    "span start": (lambda e: e.encode_chunks("abc", [(-1, 2)]), InputError, r"spans\[0\]"),
    "empty span": (lambda e: e.encode_chunks("abc", [(1, 1)]), InputError, r"spans\[0\]"),
    "no span": (lambda e: e.encode_chunks("abc", [3]), InputError, r"spans\[0\] is 3"),
    "no document": (lambda e: e.encode_chunks(None, []), InputError, "document is NoneType"),
    "chunk task": (lambda e: e.encode_chunks("a", [(0, 1)], task="x"), TaskError, "unknown task"),
    "chunk dim": (lambda e: e.encode_chunks("a", [(0, 1)], dim=9), DimensionError, "unknown dim 9"),
    "print task": (lambda e: e.fingerprint("x"), TaskError, "unknown task 'x'"),
    "no task": (lambda e: e.encode("a", task=5), TaskError, "task is int"),
    "no spans": (lambda e: e.encode_chunks("abc", None), InputError, "spans is NoneType"),
    "span of floats": (lambda e: e.encode_chunks("abc", [(0.9, 1.9)]), InputError, r"spans\[0\]"),
    "span of text": (lambda e: e.encode_chunks("abc", ["01"]), InputError, r"spans\[0\] is '01'"),
    "task name": (lambda e: e.add_task("", "folder"), TaskError, "task name ''"),
    "task path": (lambda e: e.add_task("../x", "folder"), TaskError, "task name '../x'"),
    "prompt": (lambda e: e.add_task("x", "folder", prompt=None), InputError, "prompt is NoneType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_named(encoder: Encoder, name: str) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call(encoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:77"}, "CUDA devices"),
        ({"device": ["cpu"]}, "unknown device"),
        ({"dtype": ["float32"]}, "unknown dtype"),
        ({"device": "meta"}, "unknown device 'meta'"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"max_tokens": 2}, "max_tokens is 2: expected a whole number from 3 to 1024"),
        ({"max_tokens": 5000}, "max_tokens is 5000"),
        ({"max_tokens": "many"}, "max_tokens is 'many'"),
        ({"token_budget": 0}, "token_budget is 0"),
    ],
)
def test_bad_options_are_named(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoder.load(checkpoint, **options)


def test_errors_are_value_errors(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="unknown task"):
        encoder.encode("a", task="x")


def test_shapes(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode([], dim=8, task=[]).shape == (0, 8)
    assert encoder.encode("a").shape == (32,)
    assert encoder.encode(["a"], dim=16).shape == (1, 16)
    assert encoder.encode(("a", "b")).shape == (2, 32)
    assert encoder.encode_chunks("abc", []).shape == (0, 32)
    assert encoder.encode_chunks("", [(0, 0)]).shape == (1, 32)
    assert encoder.encode_chunks("", [(0, 0), (0, 0)]).shape == (2, 32)


def test_a_text_beyond_the_context_is_cut_or_refused(checkpoint: Path) -> None:
    long = ("the file " * 50).strip()
    with Encoder.load(checkpoint, dtype="float32", max_tokens=20) as encoder:
        assert encoder.max_tokens == 20
        assert encoder.count_tokens(["the file", long]) == [4, 102]
        shorter = "the file " * 9
        np.testing.assert_allclose(encoder.encode(long), encoder.encode(shorter), atol=1e-5)
        with pytest.raises(LengthError, match=r"texts\[1\] has 102 tokens: the context holds 20"):
            encoder.encode(["a", long], overflow="error")
        with pytest.raises(LengthError, match="leaves no room in 20 tokens"):
            encoder.encode_chunks(long, [(0, 5)], task="retrieval.query")
        with pytest.raises(LengthError, match="leaves no room in 20 tokens"):
            encoder.encode("the file", task="retrieval.query")


def test_count_tokens_includes_the_prompt_of_a_task(encoder: Encoder) -> None:
    bare, prompted = (
        encoder.count_tokens("file"),
        encoder.count_tokens("file", task="retrieval.query"),
    )
    assert bare == [3]
    assert prompted == [3 + encoder.count_tokens(encoder.prompts["retrieval.query"].strip())[0] - 2]


def test_a_span_without_a_token_of_its_own_takes_the_one_after_it(encoder: Encoder) -> None:
    text = "read the file path"  # pieces "▁read" "▁the" "▁file" "▁path", known by their last letter
    spans = [(0, 4), (9, 11), (9, 13), (13, 18)]
    vectors = encoder.encode_chunks(text, spans, task=None)
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)
    assert abs(vectors[1] - vectors[0]).max() > 0.01


def test_equal_spans_have_equal_vectors_in_any_order(encoder: Encoder) -> None:
    text = "read the file path of the json document"
    spans = [(0, 8), (0, 8), (0, len(text)), (9, len(text)), (0, len(text))]
    vectors = encoder.encode_chunks(text, spans)
    backwards = encoder.encode_chunks(text, spans[::-1])[::-1]
    np.testing.assert_allclose(vectors, backwards, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    np.testing.assert_allclose(
        vectors[2], encoder.encode(text, task="retrieval.passage"), atol=1e-6
    )


def test_roles() -> None:
    assert Roles().task("query") == "retrieval.query"
    assert Roles().task("passage") == "retrieval.passage"
    both = Roles.symmetric("text-matching")
    assert (both.query, both.passage) == ("text-matching", "text-matching")
    with pytest.raises(InputError, match="unknown role 'document'"):
        Roles().task("document")  # type: ignore[arg-type]
