"""A whole evaluation: collections, who ranks them, and where the report goes."""

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from taskvec.core import Encoder
from taskvec.core.errors import InputError
from taskvec.integrations.quality import offline, probes, report
from taskvec.integrations.quality.collections import Collection, read_collection
from taskvec.integrations.quality.measures import measure
from taskvec.integrations.quality.probes import read_probes
from taskvec.integrations.quality.rankers import Bm25, Model, Peer, Ranker


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate.

    models: taskvec's sources. dims: of each model; none: all that it was trained for.
    data: folders in BEIR's format to search, and files of scored pairs or labelled texts; none:
    what needs no download. all_tasks: every task, and none, on both sides of each. peers:
    sentence-transformers models, which search.
    """

    models: Sequence[str]
    data: Sequence[Path] = ()
    split: str = "test"
    dims: Sequence[int] = ()
    all_tasks: bool = False
    peers: Sequence[str] = ()
    bm25: bool = False


def evaluate(evaluation: Evaluation) -> report.Report:
    """Rank every collection with everything, and measure.

    Raises InputError for data that cannot be read, DimensionError for a dim that a model lacks,
    TaskError for a model without the retrieval tasks.
    """
    collections = list(_collections(evaluation))
    others = list(_others(evaluation))
    _check(evaluation, collections, others)
    lines, tables = [], {}
    with ExitStack() as stack:
        encoders = {name: stack.enter_context(Encoder.load(name)) for name in evaluation.models}
        rankers = list(_rankers(evaluation, encoders))
        for collection in collections:
            for ranker in rankers:
                for name, dim, ranking in ranker.rank(collection):
                    figures = measure(collection.judgements, ranking)
                    lines.append(report.Line(collection.name, name, dim, figures))
        asked = [probes.retrieval(found) for found in collections] if evaluation.all_tasks else []
        if asked or others:
            tables = {k: probes.by_task(v, [*asked, *others]) for k, v in encoders.items()}
    return report.Report(lines, tables)


def _check(
    evaluation: Evaluation, collections: Sequence[Collection], others: Sequence[probes.Probe]
) -> None:
    """Refuse, before anything is encoded, what would be ignored or overwritten."""
    names = [found.name for found in collections] + [f"{p.kind} of {p.name}" for p in others]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise InputError(f"two sets are called {twice[0]}: rename a folder or file")
    if not collections and (evaluation.peers or evaluation.bm25 or evaluation.dims):
        raise InputError("dims, peers and BM25 are of searches: the data has no collection")


def _collections(evaluation: Evaluation) -> Iterator[Collection]:
    if evaluation.data:
        folders = [path for path in evaluation.data if not path.is_file()]
        yield from (read_collection(folder, evaluation.split) for folder in folders)
        return
    yield offline.docstrings()
    if importlib.util.find_spec("zaragoza_construction_faq"):
        yield offline.construction_faq()
        yield offline.construction_faq("sv", "en")


def _others(evaluation: Evaluation) -> Iterator[probes.Probe]:
    """What is no search."""
    for path in evaluation.data:
        if path.is_file():
            yield from read_probes(path)
    if evaluation.all_tasks and not evaluation.data:
        yield from probes.of_labelled(offline.docstring_modules())
        if importlib.util.find_spec("gensim"):
            yield probes.similarity(offline.news())
            yield probes.similarity(offline.word_pairs())


def _rankers(evaluation: Evaluation, encoders: Mapping[str, Encoder]) -> Iterator[Ranker]:
    for source, encoder in encoders.items():
        dims = sorted(evaluation.dims or encoder.dims, reverse=True)
        yield Model(source, encoder, dims=dims, tasks=probes.RETRIEVAL)
    for name in evaluation.peers:
        # Not above: a run without peers should not wait for the library.
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        yield Peer(name, SentenceTransformer(name, trust_remote_code=False))
    if evaluation.bm25:
        yield Bm25()
