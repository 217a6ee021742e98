"""`taskvec search`: the chunks of an index that answer a question."""

import argparse
import json
import sys
from collections.abc import Sequence

from taskvec.core.errors import InputError
from taskvec.integrations.cli.commands.index import wanted_about
from taskvec.integrations.cli.console import output
from taskvec.integrations.cli.failures import one_line
from taskvec.integrations.cli.files import short_path
from taskvec.integrations.cli.stores.base import QUERY_TASK, Hit, check_same_query, require_about
from taskvec.integrations.cli.stores.opening import open_store

SNIPPET_CHARACTERS = 240


def run(arguments: argparse.Namespace) -> int:
    """Print the k nearest chunks."""
    hits = _search(arguments)
    if arguments.json:
        for hit in hits:
            sys.stdout.write(json.dumps(_record(hit)) + "\n")
    else:
        _print(hits)
    return 0


def _search(arguments: argparse.Namespace) -> list[Hit]:
    if not arguments.query.strip():
        raise InputError("the query is empty: say what to look for")
    with open_store(arguments.store, arguments.collection, create=False) as store:
        stored = require_about(store)
        embedder, about = wanted_about(arguments, stored)
        check_same_query(store, stored, about)
        vector = embedder.encode(arguments.query, task=QUERY_TASK, dim=about.dim, lane="query")
        return store.search(vector, arguments.k)


def _record(hit: Hit) -> dict[str, object]:
    return {
        "score": round(hit.score, 6),
        "source": hit.source,
        hit.unit: hit.place,
        "text": hit.text,
    }


def _print(hits: Sequence[Hit]) -> None:
    console = output()
    if not hits:
        console.print("the index holds no text")
    for hit in hits:
        console.print(f"{hit.score:.3f}  {_place(hit)}", style="bold")
        console.print(f"       {_snippet(hit.text)}")


def _place(hit: Hit) -> str:
    path = one_line(short_path(hit.source))
    return f"{path}:{hit.place}" if hit.unit == "line" else f"{path}, page {hit.place}"


def _snippet(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= SNIPPET_CHARACTERS else line[: SNIPPET_CHARACTERS - 1] + "…"
