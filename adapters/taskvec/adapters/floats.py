"""Vectors as the plain floats that frameworks want."""

import asyncio

from taskvec.core.embedder import Array

Rows = list[list[float]]

# Some milliseconds' worth: a conversion holds up every thread of the process.
AT_ONCE = 1 << 16


def rows_of(vectors: Array) -> Rows:
    """(B, dim) as B lists of floats."""
    rows: Rows = vectors.tolist()
    return rows


async def arows_of(vectors: Array) -> Rows:
    """`rows_of`, part by part, with the event loop's other tasks in between."""
    rows: Rows = []
    step = max(1, AT_ONCE // vectors.shape[1])
    for start in range(0, len(vectors), step):
        if start:
            await asyncio.sleep(0)
        rows += rows_of(vectors[start : start + step])
    return rows
