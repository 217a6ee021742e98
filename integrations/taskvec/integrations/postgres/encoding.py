"""Encodes the rows of a batch; a text that fails is found by halving, the others go on."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from taskvec.core.embedder import Embedder
from taskvec.core.errors import BusyError, TaskvecError
from taskvec.integrations.postgres.chunks import cut
from taskvec.integrations.postgres.halving import Outcome, halving
from taskvec.integrations.postgres.queue import Claimed
from taskvec.integrations.postgres.registry import Column
from taskvec.integrations.postgres.writing import Made

WORD = "word"


def encode(
    embedder: Embedder, column: Column, rows: Sequence[Claimed], *, blamed: bool = False
) -> Outcome[Claimed, Made]:
    """What is to be written of rows. Raises an outage as it is.

    blamed: the encoder answers others, so that an outage is a failure of the rows in hand.
    """
    outage = _never if blamed else is_outage
    full = [row for row in rows if row.text is not None]
    outcome = halving(full, partial(_whole, embedder, column), outage=outage)
    if column.chunks is not None:
        # Each document's chunks are encoded by themselves, so there is nothing to halve.
        whole, outcome.results = outcome.results, []
        for made in whole:
            one = halving([made], partial(_chunked, embedder, column), outage=outage)
            outcome.results += one.results
            outcome.failed += [(failed.row, error) for failed, error in one.failed]
    outcome.results += [Made(row, None) for row in rows if row.text is None]
    return outcome


def answers(embedder: Embedder, column: Column) -> bool:
    """Whether an encoder has an answer to a text that can harm nobody, be it an error."""
    try:
        embedder.encode([WORD], task=column.task, dim=column.dim)
    except Exception as error:  # noqa: BLE001 - an encoder may raise anything
        return not is_outage(error)
    return True


def is_outage(error: Exception) -> bool:
    """Whether an error comes from an encoder that cannot be reached or takes no work."""
    cause = error.__cause__ or error.__context__
    unreached = type(error) is TaskvecError and type(cause).__module__.startswith("httpx")
    return unreached or isinstance(error, BusyError | ConnectionError)


def _never(error: Exception) -> bool:  # noqa: ARG001 - of halving's shape
    return False


def _whole(embedder: Embedder, column: Column, rows: Sequence[Claimed]) -> list[Made]:
    """One vector per row, where there is a column for it."""
    if column.embedding is None:
        return [Made(row, None) for row in rows]
    texts = [row.text or "" for row in rows]
    vectors = embedder.encode(texts, task=column.task, dim=column.dim)
    return [Made(row, vector) for row, vector in zip(rows, vectors, strict=True)]


def _chunked(embedder: Embedder, column: Column, made: Sequence[Made]) -> list[Made]:
    return [replace(one, chunks=tuple(cut(embedder, column, one.row.text or ""))) for one in made]
