"""Plain mappings become filters, and what means nothing is refused; words become weights."""

from datetime import UTC, datetime
from typing import Any

import pytest
from qdrant_client import models

from taskvec.core.errors import InputError
from taskvec.integrations.qdrant import bm25
from taskvec.integrations.qdrant.filters import filter_of
from taskvec.integrations.qdrant.layout import payload_indexes

BAD: dict[str, tuple[Any, str]] = {
    "no mapping": ("lang", "filter is str: expected a mapping"),
    "no value": ({"lang": None}, "filter has None for 'lang'"),
    "float": ({"score": 1.5}, "filter has 1.5 for 'score'"),
    "mixed": ({"lang": ["en", 1]}, r"filter has \['en', 1\] for 'lang'"),
    "empty": ({"lang": []}, r"filter has \[\] for 'lang'"),
    "bound": ({"year": {"from": 1}}, "unknown bound 'from' for 'year': use gt, gte, lt, lte"),
    "no bound": ({"year": {}}, "no bound for 'year'"),
    "text bound": ({"year": {"gt": "2020"}}, "'2020' as 'gt' of 'year'"),
    "key": ({3: "x"}, "the key 3"),
    "quotation mark": ({'a"b': "x"}, "filter has the key 'a\"b': expected"),
    "payload's key": ({"metadata.lang": "en"}, "'metadata.lang': names are .* so give 'lang'"),
    "id": ({"document_id": None}, "filter has None for 'document_id'"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_filters_that_mean_nothing_are_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        filter_of(given)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("lang", "metadata.lang"),
        ("content-type", "metadata.content-type"),
        ("deep.er", "metadata.deep.er"),
        ("many[].one", "metadata.many[].one"),
        ("two words", 'metadata."two words"'),
        ("a/b.c", 'metadata."a/b.c"'),
        ("odd.", 'metadata."odd."'),
    ],
)
def test_names_that_are_no_path_are_quoted(key: str, path: str) -> None:
    made = filter_of({key: "x"})
    assert made is not None
    assert made.must == [models.FieldCondition(key=path, match=models.MatchValue(value="x"))]
    assert path in payload_indexes({key: "keyword"})


def test_conditions_are_on_metadata_and_all_must_hold() -> None:
    since = datetime(2024, 1, 1, tzinfo=UTC)
    made = filter_of({"lang": "en", "tags": ["a", "b"], "year": {"lte": 2}, "day": {"gt": since}})
    assert made is not None
    assert made.must == [
        models.FieldCondition(key="metadata.lang", match=models.MatchValue(value="en")),
        models.FieldCondition(key="metadata.tags", match=models.MatchAny(any=["a", "b"])),
        models.FieldCondition(key="metadata.year", range=models.Range(lte=2)),
        models.FieldCondition(key="metadata.day", range=models.DatetimeRange(gt=since)),
    ]


def test_indexes_of_the_payloads_own_keys_are_refused() -> None:
    with pytest.raises(InputError, match="payload_indexes has the key"):
        payload_indexes({"metadata.year": "integer"})


def test_what_is_a_filter_stays_one() -> None:
    given = models.Filter(should=[])
    assert filter_of(given) is given
    assert filter_of(None) is None


def weights(text: str) -> dict[int, float]:
    vector = bm25.passage_vector(text)
    return {} if vector is None else dict(zip(vector.indices, vector.values, strict=True))


def words(text: str) -> list[int]:
    vector = bm25.query_vector(text)
    assert vector is not None
    assert vector.values == [1.0] * len(vector.indices)
    return vector.indices


def test_a_word_counts_more_the_oftener_but_less_each_time() -> None:
    (word,) = words("queue")
    one, two, three = (weights("queue " * n)[word] for n in (1, 2, 3))
    assert one < two < three < 2 * two - one


def test_a_word_counts_less_in_a_longer_text() -> None:
    (word,) = words("queue")
    assert weights("queue")[word] > weights("queue " + "other " * 50)[word]


def test_bm25_weights_are_those_of_the_formula() -> None:
    (word,) = words("queue")
    text = "queue " * 3 + "other " * 7
    wanted = 3 * 2.2 / (3 + 1.2 * (0.25 + 0.75 * 10 / 100))
    assert weights(text)[word] == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["", " ", "?! …"])
def test_text_without_words_has_no_vector(text: str) -> None:
    assert bm25.passage_vector(text) is None
    assert bm25.query_vector(text) is None


def test_queries_meet_passages_whatever_the_case_and_marks() -> None:
    asked = words("Größe, QUEUE_2 gro\u0308ße")
    assert len(asked) == 3
    assert set(asked) == set(weights("grösse queue 2! GRÖSSE"))
    assert asked == sorted(asked)
