"""Encodes the rows of a batch; a text that fails is found by halving, the others go on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from taskvec.core.embedder import Embedder
from taskvec.core.errors import BusyError, TaskvecError
from taskvec.integrations.postgres.chunks import cut
from taskvec.integrations.postgres.queue import Claimed
from taskvec.integrations.postgres.registry import Column
from taskvec.integrations.postgres.writing import Made

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Outcome(Generic[Item, Result]):
    """What became of items: results of those that went well, errors of those that did not."""

    results: list[Result] = field(default_factory=list)
    failed: list[tuple[Item, Exception]] = field(default_factory=list)


def halving(
    items: Sequence[Item],
    act: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    outage: Callable[[Exception], bool],
) -> Outcome[Item, Result]:
    """Do something to items together; where it raises, to each half, down to the culprits.

    One culprit among n costs about 2·log2(n) calls more. outage: errors that are no item's fault,
    and are raised.
    """
    outcome: Outcome[Item, Result] = Outcome()
    waiting = [items]
    while waiting:
        part = waiting.pop()
        try:
            outcome.results.extend(act(part))
        except Exception as error:  # an encoder may raise anything
            if outage(error):
                raise
            if len(part) == 1:
                outcome.failed.append((part[0], error))
            else:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
    return outcome


def encode(embedder: Embedder, column: Column, rows: Sequence[Claimed]) -> Outcome[Claimed, Made]:
    """What is to be written of rows. Raises an outage as it is."""
    empty = [Made(row, None) for row in rows if row.text is None]
    full = [row for row in rows if row.text is not None]
    outcome = halving(full, lambda part: _encode(embedder, column, part), outage=is_outage)
    outcome.results.extend(empty)
    return outcome


def is_outage(error: Exception) -> bool:
    """Whether an error comes from an encoder that cannot be reached or takes no work."""
    cause = error.__cause__ or error.__context__
    unreached = type(error) is TaskvecError and type(cause).__module__.startswith("httpx")
    return unreached or isinstance(error, BusyError | ConnectionError)


def _encode(embedder: Embedder, column: Column, rows: Sequence[Claimed]) -> list[Made]:
    texts = [row.text or "" for row in rows]
    whole: Sequence[object] = [None] * len(rows)
    if column.embedding is not None and rows:
        whole = list(embedder.encode(texts, task=column.task, dim=column.dim))
    chunks = [tuple(cut(embedder, column, text)) if column.chunks else () for text in texts]
    return [Made(*parts) for parts in zip(rows, whole, chunks, strict=True)]  # type: ignore[arg-type]
