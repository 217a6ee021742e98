"""From texts to a report: encode, store, search, compare, write."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.progress import say
from benchmarks.qdrant_recall import plots, report, vectors
from benchmarks.qdrant_recall.corpus import Corpus
from benchmarks.qdrant_recall.engine import BUILT_WITH, ENGINE, Index
from benchmarks.qdrant_recall.measuring import measure
from benchmarks.qdrant_recall.report import Run
from benchmarks.qdrant_recall.searches import searches
from taskvec.core import Embedder

QUERY, PASSAGE = "retrieval.query", "retrieval.passage"


def run(texts: Corpus, encoder: Embedder, model: str, out: Path) -> Run:
    """Measure all searches of the encoder's dims, and write recall.md, recall.json, recall.png.

    out: keeps vectors and index below itself, by what they depend on, for the next run. model: its
    name in the report.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    queries = vectors.encoded(texts.queries, QUERY, encoder, out / "vectors")
    passages = vectors.encoded(texts.passages, PASSAGE, encoder, out / "vectors")
    settings = (version(ENGINE), str(BUILT_WITH), str(encoder.dims))
    key = vectors.key(encoder.fingerprint(PASSAGE), *settings, *texts.passages)
    index = Index.opened(out / f"index-{key}", passages, encoder.dims)
    try:
        found = measure(index, searches(encoder.dims), passages, queries)
    finally:
        index.close()
    described: dict[str, Any] = {
        "machine": machine.describe(),
        "load": load,
        "engine": version(ENGINE),
        "built_with": BUILT_WITH,
        "model": model,
        "fingerprint": encoder.fingerprint(PASSAGE),
        "max_tokens": encoder.max_tokens,
        "passages": len(passages),
        "queries": len(queries),
    }
    made = Run(described, found)
    report.write(made, out)
    plots.draw(made, out / "recall.png")
    say(f"written to {out}: recall.md, recall.json, recall.png")
    return made
