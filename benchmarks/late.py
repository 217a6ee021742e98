"""Late chunking of one long document against plain encoding of it."""

import gc
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TypedDict

from benchmarks.models import Size
from benchmarks.peers import Setting, Spec
from benchmarks.peers.ours import Ours

CHUNK = 1200  # characters


class Times(TypedDict):
    """Seconds of interleaved runs."""

    chunks: int
    plain_s: list[float]
    late_s: list[float]


class Late:
    """Lives in a worker."""

    def __init__(self, spec: Spec, size: Size) -> None:
        self._ours = Ours(spec, size)

    def compare(self, document: str, task: str, repeats: int) -> Times:
        """A document within the context, each way in turns."""
        edges = [*range(0, len(document), CHUNK), len(document)]
        spans = list(pairwise(edges))
        ways: dict[str, Callable[[], object]] = {
            "plain": lambda: self._ours.encode([document], [task], Setting()),
            "late": lambda: self._ours.encode_late(document, spans, task),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(repeats + 1):
            for way, run in ways.items():
                gc.collect()
                start = time.perf_counter()
                run()
                if turn:
                    taken[way].append(time.perf_counter() - start)
        return {"chunks": len(spans), "plain_s": taken["plain"], "late_s": taken["late"]}
