"""How much of a long list of texts goes into one request."""

from collections.abc import Iterator, Sequence

# About 65,000 tokens: far from what a server refuses, and soon answered. A longer text is alone.
CHARACTERS = 1 << 18


def batched(
    rows: Sequence[int], texts: Sequence[str], most: int, characters: int = CHARACTERS
) -> Iterator[list[int]]:
    """Rows of texts in order, in batches of at most `most` texts and `characters` of them."""
    batch: list[int] = []
    size = 0
    for row in rows:
        full = len(batch) == most or size + len(texts[row]) > characters
        if batch and full:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(texts[row])
    if batch:
        yield batch
