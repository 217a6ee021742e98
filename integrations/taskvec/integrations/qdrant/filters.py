"""Plain mappings as Qdrant filters on the metadata of documents."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, TypeAlias

from qdrant_client import models

from taskvec.core.errors import InputError

Filter: TypeAlias = models.Filter | Mapping[str, Any]

METADATA = "metadata"
DOCUMENT_ID = "document_id"
# What Qdrant reads as a path; other names are put in quotation marks.
PLAIN = re.compile(r"[\w-]+(\[\d*\])*(\.[\w-]+(\[\d*\])*)*")
BOUNDS = ("gt", "gte", "lt", "lte")


def filter_of(given: Filter | None) -> models.Filter | None:
    """A filter that all conditions of a mapping must meet; Qdrant's own are taken as they are.

    {"lang": "en"}: equal; {"lang": ["en", "de"]}: one of them; {"year": {"gte": 2020}}: a range
    of numbers or dates, by gt, gte, lt and lte. "document_id" is a document's own id, unless its
    metadata have a field of that name.

    Raises InputError for anything else.
    """
    if given is None or isinstance(given, models.Filter):
        return given
    if not isinstance(given, Mapping):
        raise InputError(
            f"filter is {type(given).__name__}: expected a mapping of metadata, or models.Filter"
        )
    return models.Filter(must=[_condition(key, value) for key, value in given.items()])


def path_of(where: str, key: object) -> str:
    """Where a field of metadata stands in a payload: {"a": {"b": …}} has "a" and "a.b".

    Raises InputError for what is no name, has a quotation mark, which no path of Qdrant's can, or
    begins as the payload's own keys do, and would be looked for in metadata of metadata.
    """
    if not isinstance(key, str) or not key or '"' in key:
        raise InputError(
            f"{where} has the key {key!r}: expected the name of a metadata field, without '\"'"
        )
    if key.startswith(f"{METADATA}."):
        raise InputError(
            f"{where} has the key {key!r}: names are those of metadata already, so give "
            f"{key.removeprefix(f'{METADATA}.')!r}"
        )
    return f"{METADATA}.{key}" if PLAIN.fullmatch(key) else f'{METADATA}."{key}"'


def _condition(key: str, value: object) -> models.FieldCondition | models.Filter:
    path = path_of("filter", key)
    if key != DOCUMENT_ID:
        return _compared(path, key, value)
    field = models.PayloadField(key=path)
    own: list[models.Condition] = [
        models.IsEmptyCondition(is_empty=field),
        _compared(DOCUMENT_ID, key, value),
    ]
    return models.Filter(should=[_compared(path, key, value), models.Filter(must=own)])


def _compared(path: str, key: str, value: object) -> models.FieldCondition:
    if isinstance(value, str | int):  # bool is an int
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    if isinstance(value, Mapping):
        return models.FieldCondition(key=path, range=_range(key, value))
    if isinstance(value, Sequence) and value and _are_alike(value):
        return models.FieldCondition(key=path, match=models.MatchAny(any=list(value)))
    raise InputError(
        f"filter has {value!r} for {key!r}: expected a str, int or bool, a list of str or of int, "
        f"or a mapping of {', '.join(BOUNDS)}; for more, give models.Filter"
    )


def _are_alike(values: Sequence[object]) -> bool:
    return any(all(type(value) is kind for value in values) for kind in (str, int))


def _range(key: str, bounds: Mapping[Any, Any]) -> models.Range | models.DatetimeRange:
    if not bounds or (unknown := [name for name in bounds if name not in BOUNDS]):
        named = f"the unknown bound {unknown[0]!r}" if bounds else "no bound"
        raise InputError(f"filter has {named} for {key!r}: use {', '.join(BOUNDS)}")
    if all(isinstance(bound, date) for bound in bounds.values()):
        return models.DatetimeRange(**bounds)
    for name, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise InputError(
                f"filter has {bound!r} as {name!r} of {key!r}: expected a number, or dates alone"
            )
    return models.Range(**bounds)
