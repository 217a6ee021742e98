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
    "task name": (lambda e: e.add_task("", "folder"), TaskError, "non-empty"),
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
        ({"device": "cuda:77"}, "cuda"),
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


def test_count_tokens_includes_the_prompt_of_a_task(encoder: Encoder) -> None:
    bare, prompted = (
        encoder.count_tokens("file"),
        encoder.count_tokens("file", task="retrieval.query"),
    )
    assert bare == [3]
    assert prompted == [3 + encoder.count_tokens(encoder.prompts["retrieval.query"].strip())[0] - 2]


def test_a_span_of_white_space_takes_its_nearest_token(encoder: Encoder) -> None:
    text = "file   \n\n   path"
    vectors = encoder.encode_chunks(text, [(0, 4), (5, 9), (12, 16)], task=None)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_roles() -> None:
    assert Roles().task("query") == "retrieval.query"
    assert Roles().task("passage") == "retrieval.passage"
    both = Roles.symmetric("text-matching")
    assert (both.query, both.passage) == ("text-matching", "text-matching")
    with pytest.raises(InputError, match="unknown role 'document'"):
        Roles().task("document")  # type: ignore[arg-type]
