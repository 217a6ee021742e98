"""The starter's figures on texts that no run has read, as Markdown tables.

`python -m taskvec.integrations.train.recipe.evaluation --work FOLDER --model MODEL` prints them,
the teachers' and BM25's beside the model's.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from taskvec.core import Encoder
from taskvec.core.errors import TaskvecError
from taskvec.core.source import STARTER
from taskvec.integrations.documents import DEFAULT_CHARACTERS
from taskvec.integrations.documents.cutting import context_of, encode_spans, join, split_spans
from taskvec.integrations.documents.reading import Document
from taskvec.integrations.quality import probes, report
from taskvec.integrations.quality.collections import Collection
from taskvec.integrations.quality.measures import measure
from taskvec.integrations.quality.rankers import Bm25, Model, Peer, Ranker, nearest
from taskvec.integrations.quality.report import Line
from taskvec.integrations.train.recipe import sets
from taskvec.integrations.train.recipe.body import Work
from taskvec.integrations.train.recipe.card import write_card
from taskvec.integrations.train.recipe.stages import Recipe
from taskvec.integrations.train.teachers import e5
from taskvec.integrations.train.teachers.sentences import minilm, write_e5
from taskvec.integrations.train.texts.archive import Archive
from taskvec.integrations.train.transplant import ROPE_BASE

QUERY, PASSAGE = "retrieval.query", "retrieval.passage"
HIDDEN = 384
CONTEXT = context_of(STARTER)
ENGLISH = ("docstrings", "construction FAQ, en", "Debian FAQ, en", "GNOME help, en")


def measured(rankers: Iterable[Ranker], collections: Sequence[Collection]) -> list[Line]:
    """Every ranker's figures on every collection."""
    return [
        Line(collection.name, name, dim, measure(collection.judgements, ranking))
        for ranker in rankers
        for collection in collections
        for name, dim, ranking in ranker.rank(collection)
    ]


def chunking(encoder: Encoder, found: sets.Sections) -> list[Line]:
    """Sections encoded within their pages, and the same sections encoded one by one.

    One by one also behind their page's title.
    """
    asked = encoder.encode(list(found.collection.queries.values()), task=QUERY)
    alone, titled = (
        encoder.encode(list(collection.documents.values()), task=PASSAGE)
        for collection in (found.collection, found.titled)
    )
    late = np.concatenate(
        [encoder.encode_chunks(page.text, page.spans, task=PASSAGE) for page in found.pages]
    )
    judged = found.collection.judgements
    return [
        Line(found.collection.name, name, encoder.dim, measure(judged, ranking))
        for name, ranking in (
            ("chunk by chunk", nearest(found.collection, asked, alone)),
            ("chunk by chunk, with the page's title", nearest(found.titled, asked, titled)),
            ("late chunking", nearest(found.collection, asked, late)),
        )
    ]


def rope(encoder: Encoder, collections: Sequence[Collection]) -> list[Line]:
    """A model with its own RoPE base, and with the one that it was trained at."""
    rankers = [Model(f"RoPE base {encoder.config.rope_base:g}", encoder)]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        encoder.save(folder, layout="hf")
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["rope_parameters"]["rope_theta"] = ROPE_BASE
        path.write_text(json.dumps(config), encoding="utf-8")
        with Encoder.load(folder) as other:
            rankers.append(Model(f"RoPE base {other.config.rope_base:g}", other))
            return measured(rankers, collections)


def by_best_chunk(encoder: Encoder, collections: Sequence[Collection]) -> list[Line]:
    """Documents of which the best chunk counts: each alone, late, and as taskvec's indexes do."""
    lines = []
    for collection in collections:
        queries = encoder.encode(list(collection.queries.values()), task=QUERY)
        documents = [Document(text, ()) for text in collection.documents.values()]
        counts = encoder.count_tokens(list(collection.documents.values()))
        equal = [
            sets.equal_parts(d.text, count) for d, count in zip(documents, counts, strict=True)
        ]
        own = [split_spans(document, characters=DEFAULT_CHARACTERS) for document in documents]
        # In a context of one character every chunk is read alone.
        for name, spans, context in (
            ("chunks", equal, 1),
            ("late chunks", equal, max(len(document.text) for document in documents)),
            ("chunks of taskvec's indexes", own, CONTEXT),
        ):
            vectors = [
                join(
                    list(encode_spans(encoder, document, parts, dim=encoder.dim, context=context)),
                    dim=encoder.dim,
                )
                for document, parts in zip(documents, spans, strict=True)
            ]
            scores = np.stack([(queries @ chunks.T).max(axis=1) for chunks in vectors], axis=1)
            ranking = {
                query: dict(zip(collection.documents, map(float, row), strict=True))
                for query, row in zip(collection.queries, scores, strict=True)
            }
            measures = measure(collection.judgements, ranking)
            lines.append(Line(collection.name, name, encoder.dim, measures))
    return lines


def table(lines: Sequence[Line]) -> str:
    """A row a collection, a column a ranker and dim: nDCG@10, recall@10."""
    columns = list(dict.fromkeys((line.ranker, line.dim) for line in lines))
    heads = [f"{name}, {dim}" if dim else name for name, dim in columns]
    rows = [f"| nDCG@10 / recall@10 | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for collection in dict.fromkeys(line.collection for line in lines):
        own = {(x.ranker, x.dim): x.measures for x in lines if x.collection == collection}
        cells = [
            f"{own[c].ndcg_10:.3f} / {own[c].recall_10:.3f}" if c in own else "" for c in columns
        ]
        rows.append(f"| {collection} | {' | '.join(cells)} |")
    return "\n".join(rows)


def teachers(folder: Path) -> Iterator[Peer]:
    """The two teachers, each as its own makers use it. folder: where the first is written."""
    written = write_e5(e5.read, torch.zeros(HIDDEN), folder / "e5-plain")
    yield Peer("multilingual-e5-small", SentenceTransformer(str(written)))
    yield Peer("all-MiniLM-L6-v2", SentenceTransformer(str(minilm())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="the recipe's folder")
    parser.add_argument("--model", default="starter", help="name or folder (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(CARD))
    parser.add_argument("--card", action="store_true", help="write MODEL's README.md too")
    options = parser.parse_args(arguments)
    if options.card and not (Path(options.model).is_dir() and set(options.only) >= set(CARD)):
        parser.error(f"--card needs a model's folder, and the tables {', '.join(CARD)}")
    try:
        _measure(options)
    except TaskvecError as error:
        parser.error(str(error))


def _measure(options: argparse.Namespace) -> None:
    folder = options.work.resolve()
    archive, tables = Work(folder).archive, {}
    with Encoder.load(options.model) as encoder:
        for part in options.only:
            tables[part] = PARTS[part](encoder, archive, folder)
            print(f"## {part}\n\n{tables[part]}\n", flush=True)  # noqa: T201
    if options.card:
        write_card(Recipe(folder), Path(options.model), tables)


def _searches(encoder: Encoder, archive: Archive, folder: Path) -> str:
    collections = list(sets.searches(archive))
    lines = _beside_teachers(encoder, collections, folder)
    english = [collection for collection in collections if collection.name in ENGLISH]
    return table(lines + measured([Bm25()], english))


def _development(encoder: Encoder, archive: Archive, folder: Path) -> str:
    return table(_beside_teachers(encoder, list(sets.development(archive)), folder))


def _beside_teachers(
    encoder: Encoder, collections: Sequence[Collection], folder: Path
) -> list[Line]:
    dims = [dim for dim in (384, 64) if dim in encoder.dims]
    lines = measured([Model("starter", encoder, dims=dims)], collections)
    return lines + measured(teachers(folder), collections)


def _tasks(encoder: Encoder, archive: Archive, _: Path) -> str:
    return report.by_task(probes.by_task(encoder, sets.tasks(archive)))


def _development_tasks(encoder: Encoder, archive: Archive, _: Path) -> str:
    return report.by_task(probes.by_task(encoder, list(sets.development_tasks(archive))))


def _lengths(encoder: Encoder, archive: Archive, _: Path) -> str:
    collections = list(sets.by_length(archive, encoder.count_tokens))
    lines = rope(encoder, collections) + by_best_chunk(encoder, collections)
    return table(lines + measured([Bm25()], collections))


def _chunking(encoder: Encoder, archive: Archive, _: Path) -> str:
    return table([line for found in sets.sections(archive) for line in chunking(encoder, found)])


CARD = {"searches": _searches, "tasks": _tasks, "lengths": _lengths, "chunking": _chunking}
PARTS = CARD | {"development": _development, "development-tasks": _development_tasks}

if __name__ == "__main__":
    main()
