"""Running all searches by turns, and how much each finds of what an exact search finds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmarks.qdrant_recall.engine import Index
from benchmarks.qdrant_recall.searches import K, Search
from taskvec.core.embedder import Array
from taskvec.core.pooling import cut

Ids: TypeAlias = npt.NDArray[np.int64]
# Queries that one search runs before the next has its turn.
TURN = 50
# Scores that rounding alone tells apart.
NEAR = 1e-6


@dataclass(frozen=True)
class Found:
    """A search's figures.

    recall: of the K nearest of its own dim, 0 to 1, mean over the queries; recall_of_all: of the K
    nearest of the model's full dim. seconds: of each query. graph_bytes: by passage.
    """

    search: Search
    recall: float
    recall_of_all: float
    seconds: tuple[float, ...]
    graph_bytes: float

    @property
    def median_s(self) -> float:
        """Seconds of the middle query."""
        return float(np.median(self.seconds))

    @property
    def memory_bytes(self) -> float:
        """In memory by passage: the first stage's vector and its graph."""
        return self.search.memory_bytes + self.graph_bytes


def measure(
    index: Index, searches: Sequence[Search], passages: Array, queries: Array
) -> list[Found]:
    """All searches of an index. passages: (P, D), queries: (Q, D), float32 of unit norm.

    An exact search does not use the index's graph, and holds none.
    """
    ids, seconds = _run(index, searches, queries)
    recalls = _recalls(searches, ids, passages, queries)
    return [
        Found(search, *recalls[search], tuple(seconds[search]), _graph_bytes(index, search))
        for search in searches
    ]


def least_of_best(scores: Array) -> Array:
    """The K-th highest of each query's exact scores. scores: (Q, P); returns (Q,)."""
    best: Array = np.partition(scores, -K, axis=1)[:, -K]
    return best


def recall(scores: Array, least: Array, found: Ids) -> Array:
    """Share of the K best passages that were found, by query, (Q,).

    scores: (Q, P), exact; least: (Q,), the K-th highest. found: (Q, K), -1 where nothing was.
    Passages of equal scores stand for each other.
    """
    own = np.take_along_axis(scores, np.maximum(found, 0), axis=1)
    hits = (own >= least[:, None] - NEAR) & (found >= 0)
    shares: Array = hits.sum(axis=1) / np.float32(K)
    return shares


def _run(
    index: Index, searches: Sequence[Search], queries: Array
) -> tuple[dict[Search, Ids], dict[Search, list[float]]]:
    """What each search finds, and its seconds; every search runs once before any is timed."""
    ids = {search: np.full((len(queries), K), -1, np.int64) for search in searches}
    seconds: dict[Search, list[float]] = {search: [] for search in searches}
    for search in searches:
        index.run(index.request(search, queries[0]))
    with tqdm(total=len(queries) * len(searches), desc="searching", unit="query") as bar:
        for start in range(0, len(queries), TURN):
            turn = range(start, min(start + TURN, len(queries)))
            for search in searches:
                for number, request in [(i, index.request(search, queries[i])) for i in turn]:
                    begun = time.perf_counter()
                    found = index.run(request)
                    seconds[search].append(time.perf_counter() - begun)
                    ids[search][number, : len(found)] = found
                bar.update(len(turn))
    return ids, seconds


def _recalls(
    searches: Sequence[Search], ids: dict[Search, Ids], passages: Array, queries: Array
) -> dict[Search, tuple[float, float]]:
    """Mean recall of each search of what is nearest in its own dim, and in the full one."""
    full, means = passages.shape[1], {}
    for dim in tqdm(sorted({search.dim for search in searches} | {full}), desc="comparing"):
        scores = cut(queries, dim) @ cut(passages, dim).T
        least = least_of_best(scores)
        for search in searches:
            if dim in (search.dim, full):
                means[search, dim] = float(recall(scores, least, ids[search]).mean())
    return {search: (means[search, search.dim], means[search, full]) for search in searches}


def _graph_bytes(index: Index, search: Search) -> float:
    return 0.0 if search.exact else index.graph_bytes(search)
