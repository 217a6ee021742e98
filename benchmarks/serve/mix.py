"""What clients ask for: queries, a few texts, passages, and documents to chunk late."""

import random
from collections.abc import Iterator
from typing import Any, TypeAlias

from benchmarks.serve.servers import NAME
from benchmarks.workloads import TASKS, log_normal_lengths, texts

Body: TypeAlias = dict[str, Any]
QUERY, FEW, PASSAGES, LATE = "query", "few texts", "passages", "late chunking"
# Of all requests.
SHARES = {QUERY: 0.7, FEW: 0.1, PASSAGES: 0.15, LATE: 0.05}
POOL = 512


class Mix:
    """Requests without end, the same ones for the same seed."""

    def __init__(self) -> None:
        lengths = random.Random(0)  # noqa: S311 - the same texts in every run
        self._short = texts([lengths.randint(4, 14) for _ in range(POOL)])
        self._long = texts(log_normal_lengths(POOL, median=60, longest=400))
        self._chunks = texts([lengths.randint(20, 60) for _ in range(POOL)])

    def requests(self, seed: int) -> Iterator[tuple[str, Body]]:
        """Each with its kind."""
        chosen = random.Random(seed)  # noqa: S311
        while True:
            [kind] = chosen.choices(list(SHARES), list(SHARES.values()))
            yield kind, {"model": NAME, **self._body(kind, chosen)}

    def _body(self, kind: str, chosen: random.Random) -> Body:
        if kind == QUERY:
            return {"input": [chosen.choice(self._short)], "task": "retrieval.query"}
        if kind == FEW:
            few = chosen.sample(self._short, chosen.randint(2, 8))
            return {"input": few, "task": chosen.choice([None, *TASKS])}
        if kind == PASSAGES:
            passages = chosen.sample(self._long, chosen.randint(8, 24))
            return {"input": passages, "task": "retrieval.passage", "truncate": True}
        chunks = chosen.sample(self._chunks, chosen.randint(4, 12))
        return {"input": chunks, "task": "retrieval.passage", "late_chunking": True}
