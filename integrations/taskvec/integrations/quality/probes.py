"""What a task is for, as one figure each: similarity, clusters and classes of labelled texts.

The measures are in MTEB's manner, though not comparable with its figures: Spearman's correlation,
V-measure of k-means, and a linear classifier taught with a few texts of each class.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score

from taskvec.core import Embedder
from taskvec.core.embedder import Array
from taskvec.core.errors import InputError
from taskvec.integrations.quality.collections import Collection, lines_of
from taskvec.integrations.quality.measures import measure
from taskvec.integrations.quality.rankers import Once, nearest

SEEDS = range(5)
# Starts of each k-means, the best of which counts: one alone moves the figure by some hundredths.
STARTS = 5
TAUGHT = 16
ITERATIONS = 1000
SCORED = ("text1", "text2", "score")
LABELLED = ("text", "label")
RETRIEVAL = ("retrieval.query", "retrieval.passage")
PAIR = "retrieval.query → retrieval.passage"
NO_TASK = "no task"


@dataclass(frozen=True)
class Scored:
    """Pairs of texts and how alike people find them, on any scale."""

    name: str
    left: Sequence[str]
    right: Sequence[str]
    scores: Sequence[float]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.scores)) or len(set(self.scores)) < 2:
            raise InputError(f"{self.name}: its scores must be finite, and not all the same")


@dataclass(frozen=True)
class Labelled:
    """Texts and each one's class."""

    name: str
    texts: Sequence[str]
    labels: Sequence[str]

    def __post_init__(self) -> None:
        several = [label for label, count in Counter(self.labels).items() if count > 1]
        if len(several) < 2:
            raise InputError(f"{self.name}: fewer than two labels have two texts or more")


class Encode(Protocol):
    """Texts to unit vectors (B, D)."""

    def __call__(self, texts: Sequence[str]) -> Array:
        """Encode."""


class Probe(NamedTuple):
    """A figure to take: of which kind, on what, and how from a query's and a document's encode."""

    kind: str
    name: str
    measure: Callable[[Encode, Encode], float]


def retrieval(collection: Collection) -> Probe:
    """NDCG@10 of a collection."""

    def figure(query: Encode, document: Encode) -> float:
        queries = query(list(collection.queries.values()))
        documents = document(list(collection.documents.values()))
        ranking = nearest(collection, queries, documents)
        return measure(collection.judgements, ranking).ndcg_10

    return Probe("retrieval", collection.name, figure)


def similarity(data: Scored) -> Probe:
    """Spearman's correlation of the cosines with the scores."""

    def figure(left: Encode, right: Encode) -> float:
        cosines = (left(data.left) * right(data.right)).sum(1)
        return float(spearmanr(cosines, data.scores).statistic)

    return Probe("similarity", data.name, figure)


def clustering(data: Labelled) -> Probe:
    """V-measure of k-means with as many clusters as classes, the mean of some seeds.

    Of a seed the best of STARTS counts.
    """

    def figure(encode: Encode, _: Encode) -> float:
        vectors = encode(data.texts)
        count = len(set(data.labels))
        means = [
            KMeans(count, n_init=STARTS, random_state=seed).fit_predict(vectors) for seed in SEEDS
        ]
        return float(np.mean([v_measure_score(data.labels, found) for found in means]))

    return Probe("clustering", data.name, figure)


def classification(data: Labelled) -> Probe:
    """Accuracy of logistic regression taught with TAUGHT texts a class, the mean of some draws.

    A class of few texts teaches half of them.
    """

    def figure(encode: Encode, _: Encode) -> float:
        vectors, labels = encode(data.texts), np.array(data.labels)
        return float(np.mean([_accuracy(vectors, labels, seed) for seed in SEEDS]))

    return Probe("classification", data.name, figure)


def _accuracy(vectors: Array, labels: npt.NDArray[np.str_], seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(labels))
    taught = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        taught[own[: min(TAUGHT, len(own) // 2)]] = True
    model = LogisticRegression(max_iter=ITERATIONS).fit(vectors[taught], labels[taught])
    return float(model.score(vectors[~taught], labels[~taught]))


def of_labelled(data: Labelled) -> list[Probe]:
    """Both figures of labelled texts."""
    return [clustering(data), classification(data)]


def read_probes(path: Path) -> list[Probe]:
    """The figures that a file of JSON lines allows, by its columns.

    `text1`, `text2`, `score`: similarity. `text`, `label`: clustering and classification. Raises
    InputError, with file and line, for what is missing or not readable.
    """
    rows = [_row(path, number, line) for number, line in lines_of(path)]
    if rows and set(SCORED) <= rows[0].keys():
        left, right, scores = (_column(path, rows, name) for name in SCORED)
        return [similarity(Scored(path.stem, left, right, [float(score) for score in scores]))]
    if rows and set(LABELLED) <= rows[0].keys():
        texts, labels = (_column(path, rows, name) for name in LABELLED)
        return of_labelled(Labelled(path.stem, texts, [str(label) for label in labels]))
    raise InputError(f"{path} has neither {', '.join(SCORED)} nor {', '.join(LABELLED)}")


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}:{number}: not an object")
    return row


def _column(path: Path, rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    wanted = (int, float) if name == "score" else (str, int) if name == "label" else str
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get(name), wanted):
            raise InputError(f"{path}: row {number}: {name!r} is {row.get(name)!r}")
    return [row[name] for row in rows]


Table = Mapping[str, Mapping[Probe, float]]


def by_task(embedder: Embedder, probes: Sequence[Probe]) -> Table:
    """Every probe under no task, under each task on both sides, and under the retrieval pair.

    The pair is measured on retrieval alone.
    """
    sides: dict[str, tuple[str | None, str | None]] = {NO_TASK: (None, None)}
    sides |= {task: (task, task) for task in embedder.tasks}
    if set(RETRIEVAL) <= set(embedder.tasks):
        sides[PAIR] = RETRIEVAL
    known = {task: Once(partial(_encode, embedder, task)) for task in (None, *embedder.tasks)}
    table: dict[str, dict[Probe, float]] = defaultdict(dict)
    for row, tasks in sides.items():
        query, document = (known[task] for task in tasks)
        for probe in probes:
            if row != PAIR or probe.kind == "retrieval":
                table[row][probe] = probe.measure(query, document)
    return table


def _encode(embedder: Embedder, task: str | None, texts: list[str]) -> Array:
    vectors: Array = embedder.encode(texts, task=task)
    return vectors
