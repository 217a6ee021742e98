"""A whole evaluation: collections, who ranks them, and where the report goes."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from taskvec.core import Embedder, Encoder
from taskvec.integrations.quality import offline, report
from taskvec.integrations.quality.collections import Collection, read_collection
from taskvec.integrations.quality.measures import measure
from taskvec.integrations.quality.rankers import Bm25, Model, Peer, Ranker

RETRIEVAL = ("retrieval.query", "retrieval.passage")


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate.

    models: taskvec's sources. dims: of each model; none: all that it was trained for.
    folders: collections in BEIR's format; none: those that need no download. all_tasks: every
    task, and none, for queries and documents alike, beside the retrieval pair. peers:
    sentence-transformers models.
    """

    models: Sequence[str]
    folders: Sequence[Path] = ()
    split: str = "test"
    dims: Sequence[int] = ()
    all_tasks: bool = False
    peers: Sequence[str] = ()
    bm25: bool = False


def evaluate(evaluation: Evaluation) -> list[report.Line]:
    """Rank every collection with everything, and measure.

    Raises InputError for a collection that cannot be read, DimensionError for a dim that a model
    lacks, TaskError for a model without the retrieval tasks.
    """
    collections = list(_collections(evaluation))
    lines = []
    with ExitStack() as stack:
        rankers = list(_rankers(evaluation, stack))
        for collection in collections:
            for ranker in rankers:
                for name, dim, ranking in ranker.rank(collection):
                    figures = measure(collection.judgements, ranking)
                    lines.append(report.Line(collection.name, name, dim, figures))
    return lines


def _collections(evaluation: Evaluation) -> Iterator[Collection]:
    if evaluation.folders:
        yield from (read_collection(folder, evaluation.split) for folder in evaluation.folders)
        return
    yield offline.docstrings()
    if importlib.util.find_spec("zaragoza_construction_faq"):
        yield offline.construction_faq()
        yield offline.construction_faq("sv", "en")


def _rankers(evaluation: Evaluation, stack: ExitStack) -> Iterator[Ranker]:
    for source in evaluation.models:
        encoder = stack.enter_context(Encoder.load(source))
        dims = sorted(evaluation.dims or encoder.dims, reverse=True)
        yield Model(source, encoder, dims=dims, tasks=RETRIEVAL)
        if evaluation.all_tasks:
            yield from _by_task(source, encoder)
    for name in evaluation.peers:
        # Not above: a run without peers should not wait for the library.
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        yield Peer(name, SentenceTransformer(name, trust_remote_code=False))
    if evaluation.bm25:
        yield Bm25()


def _by_task(source: str, embedder: Embedder) -> Iterator[Ranker]:
    for task in (None, *embedder.tasks):
        name = f"{source}, {task or 'no task'} on both sides"
        yield Model(name, embedder, tasks=(task, task))
