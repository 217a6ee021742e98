"""Documentation of Python's own modules in a Qdrant collection, found by meaning and by words.

Needs taskvec[qdrant]. Run: python examples/qdrant_collection.py
"""

import gzip
import heapq
import json
import shutil
from inspect import getdoc, getmembers, isfunction
from types import ModuleType

from qdrant_client import QdrantClient

from taskvec.integrations.qdrant import Document, TaskvecCollection

QUESTION = "How do I read compressed data?"


def document(module: ModuleType) -> Document:
    """A module's functions with what they say of themselves, one document a module."""
    functions = getmembers(module, isfunction)
    parts = [f"{name}: {getdoc(function)}" for name, function in functions if getdoc(function)]
    return Document(module.__name__, "\n\n".join(parts), {"functions": len(functions)})


def main() -> None:
    documents = [document(module) for module in (gzip, heapq, json, shutil)]
    # Local mode; QdrantClient("http://localhost:6333") makes the same collection on a server.
    collection = TaskvecCollection.create(
        QdrantClient(":memory:"), "docs", sparse="bm25", payload_indexes={"functions": "integer"}
    )
    collection.ingest(documents)  # once more, it would find all of them there and do nothing
    found = collection.search(QUESTION, k=2, group_by_document=True, explain=True)
    print(QUESTION)
    for hit in found.hits:
        stages = ", ".join(f"{stage} {score:.2f}" for stage, score in hit.scores.items())
        print(f"  {hit.document_id} ({stages}): {hit.text.splitlines()[0]}")


if __name__ == "__main__":
    main()
