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
from sentence_transformers import SentenceTransformer

from taskvec.core import Encoder
from taskvec.integrations.quality import probes, report
from taskvec.integrations.quality.collections import Collection
from taskvec.integrations.quality.measures import measure
from taskvec.integrations.quality.rankers import Bm25, Model, Peer, Ranker, nearest
from taskvec.integrations.quality.report import Line
from taskvec.integrations.train.recipe import sets
from taskvec.integrations.train.recipe.card import write_card
from taskvec.integrations.train.recipe.stages import Recipe
from taskvec.integrations.train.teachers.sentences import minilm
from taskvec.integrations.train.transplant import ROPE_BASE

QUERY, PASSAGE = "retrieval.query", "retrieval.passage"
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
    """Sections encoded within their pages, and the same sections encoded one by one."""
    collection = found.collection
    asked = encoder.encode(list(collection.queries.values()), task=QUERY)
    alone = encoder.encode(list(collection.documents.values()), task=PASSAGE)
    late = np.concatenate([within(encoder, parts) for parts in found.pages.values()])
    return [
        Line(collection.name, name, encoder.dim, measure(collection.judgements, ranking))
        for name, ranking in (
            ("chunk by chunk", nearest(collection, asked, alone)),
            ("late chunking", nearest(collection, asked, late)),
        )
    ]


def within(encoder: Encoder, parts: Sequence[str]) -> np.ndarray:
    """Vectors of a page's parts but the first, read in one text."""
    ends = np.cumsum([len(part) + 1 for part in parts])
    spans = [(int(end) - len(p) - 1, int(end)) for p, end in zip(parts, ends, strict=True)]
    return encoder.encode_chunks("\n".join(parts) + "\n", spans, task=PASSAGE)[1:]


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
            rankers.append(Model(f"RoPE base {ROPE_BASE:g}", other))
            return measured(rankers, collections)


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


def teachers(recipe: Recipe) -> Iterator[Peer]:
    """The two teachers, each as its own makers use it."""
    e5, *_ = recipe.teachers["teachers"]
    # Without the shift of its centre, which is ours.
    parts = SentenceTransformer(e5)
    prompts = {name: prompt or "" for name, prompt in parts.prompts.items()}
    plain = SentenceTransformer(modules=[parts[0], parts[1]], prompts=prompts)
    yield Peer("multilingual-e5-small", plain)
    yield Peer("all-MiniLM-L6-v2", SentenceTransformer(str(minilm())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="the recipe's folder")
    parser.add_argument("--model", default="starter", help="name or folder (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--card", action="store_true", help="write MODEL's README.md too")
    options = parser.parse_args(arguments)
    recipe = Recipe(options.work.resolve())
    tables = {}
    for part in options.only:
        tables[part] = PARTS[part](recipe, options.model)
        print(f"## {part}\n\n{tables[part]}\n", flush=True)  # noqa: T201
    if options.card:
        write_card(recipe, Path(options.model), tables)


def _searches(recipe: Recipe, model: str) -> str:
    collections = list(sets.searches(recipe.work.archive))
    with Encoder.load(model) as encoder:
        dims = [dim for dim in (384, 64) if dim in encoder.dims]
        lines = measured([Model(model, encoder, dims=dims)], collections)
    lines += measured(teachers(recipe), collections)
    english = [collection for collection in collections if collection.name in ENGLISH]
    return table(lines + measured([Bm25()], english))


def _tasks(recipe: Recipe, model: str) -> str:
    with Encoder.load(model) as encoder:
        return report.by_task(probes.by_task(encoder, sets.tasks(recipe.work.archive)))


def _lengths(recipe: Recipe, model: str) -> str:
    with Encoder.load(model) as encoder:
        bands = list(sets.by_length(recipe.work.archive, encoder.count_tokens))
        return table(rope(encoder, bands))


def _chunking(recipe: Recipe, model: str) -> str:
    with Encoder.load(model) as encoder:
        return table(chunking(encoder, sets.sections(recipe.work.archive)))


PARTS = {"searches": _searches, "tasks": _tasks, "lengths": _lengths, "chunking": _chunking}

if __name__ == "__main__":
    main()
