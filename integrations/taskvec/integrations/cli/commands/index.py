"""`taskvec index`: brings an index up to date with files and folders."""

import argparse
import importlib
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from taskvec.core.embedder import Embedder
from taskvec.core.errors import InputError
from taskvec.integrations.cli.console import add_bar, output, program_name, progress_bars
from taskvec.integrations.cli.encoders import canonical_model, open_embedder, resolve_dim
from taskvec.integrations.cli.failures import one_line
from taskvec.integrations.cli.files import Found, Passed, find_files, short_path
from taskvec.integrations.cli.indexing import Indexer, Outcome, missing_paths
from taskvec.integrations.cli.parser import DEFAULT_COLLECTION, DEFAULT_MODEL, DEFAULT_STORE
from taskvec.integrations.cli.redaction import redacted
from taskvec.integrations.cli.stores.base import (
    PASSAGE_TASK,
    QUERY_TASK,
    About,
    Store,
    check_same,
    require_about,
)
from taskvec.integrations.cli.stores.opening import open_store, store_folder
from taskvec.integrations.documents.cutting import context_of
from taskvec.integrations.extras import needs_extra

NAMED_AT_MOST = 5
# What the `cli` extra brings for indexing: checked first, so that no empty store is left behind.
PACKAGES = ("rich.console", "semantic_text_splitter", "bs4", "pypdf")
STOPPED = "stopped; the same command goes on with the files that are not done"


def run(arguments: argparse.Namespace) -> int:
    """Index the paths; 1 where some files could not be read."""
    with needs_extra("indexing files", "cli"):
        for package in PACKAGES:
            importlib.import_module(package)
    folder = store_folder(arguments.store)
    found = find_files(arguments.paths, exclude=folder)
    if folder is not None and not folder.exists():
        # Before a store is made: a typing mistake should not leave an empty one behind.
        _check_paths(found, [])
        wanted_about(arguments, None)
    with open_store(arguments.store, arguments.collection, create=True) as store:
        stored = store.about()
        _check_paths(found, list(store.digests()) if stored else [])
        embedder, about = wanted_about(arguments, stored)
        if stored is None:
            store.create(about)
        # Also after creating: another process may have been quicker, with another model.
        check_same(store, require_about(store), about)
        outcome = _index(arguments, found, store, embedder, about)
    _report(arguments, found, outcome)
    return 1 if outcome.problems else 0


def wanted_about(arguments: argparse.Namespace, stored: About | None) -> tuple[Embedder, About]:
    """The embedder that the options ask for, and what an index of it is built with.

    Options that were left out are taken from the index, where there is one.
    """
    model = arguments.model or (stored.model if stored else DEFAULT_MODEL)
    embedder = open_embedder(model)
    dim = arguments.dim
    if dim is None and stored is not None and stored.dim in embedder.dims:
        dim = stored.dim
    dim = resolve_dim(embedder, dim)
    passages, queries = (
        embedder.fingerprint(task=task, dim=dim) for task in (PASSAGE_TASK, QUERY_TASK)
    )
    return embedder, About(passages, canonical_model(model), dim, queries)


def _check_paths(found: Found, known: Sequence[str]) -> None:
    missing = missing_paths(found, known)
    if missing:
        raise InputError(f"no such file or folder: {', '.join(map(str, missing))}")


def _index(
    arguments: argparse.Namespace, found: Found, store: Store, embedder: Embedder, about: About
) -> Outcome:
    with progress_bars() as progress:
        bar = add_bar(progress, "indexing", total=len(found.files))
        chunks = 0

        def count(more: int) -> None:
            nonlocal chunks
            chunks += more
            bar.advance(0, f"files, {chunks} chunks")

        context = arguments.context_chars or context_of(about.model)
        indexer = Indexer(store, embedder, about.dim, arguments.chunk_chars, context, count)
        try:
            return indexer.run(found, on_file=bar.advance)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(STOPPED) from None


def _report(arguments: argparse.Namespace, found: Found, outcome: Outcome) -> None:
    console = output()
    console.print(
        f"indexed {_files(outcome.indexed)} ({outcome.chunks} chunks), "
        f"{outcome.unchanged} unchanged, {outcome.removed} removed"
    )
    if found.skipped:
        console.print(f"skipped {_skipped(found.skipped)}")
    for problem in outcome.problems:
        print(
            f"taskvec: {one_line(f'{short_path(problem.path)}: {problem.reason}')}", file=sys.stderr
        )
    if outcome.problems:
        console.print(f"{_files(len(outcome.problems))} could not be read")
    elif outcome.indexed:
        options = _store_options(arguments)
        console.print(f'next: {program_name()} search "what you look for"{options}')


def _store_options(arguments: argparse.Namespace) -> str:
    """What a search of the same index has to be told, save a password."""
    options = {
        "store": (redacted(arguments.store), DEFAULT_STORE),
        "collection": (arguments.collection, DEFAULT_COLLECTION),
    }
    return "".join(
        f" --{name} {shlex.quote(given)}"
        for name, (given, usual) in options.items()
        if given != usual
    )


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def _skipped(skipped: Sequence[Passed]) -> str:
    """Up to five names a reason, and how many more there are."""
    parts = []
    for reason, count in Counter(item.reason for item in skipped).items():
        names = [Path(item.path).name for item in skipped if item.reason == reason]
        more = f" and {count - NAMED_AT_MOST} more" if count > NAMED_AT_MOST else ""
        parts.append(one_line(f"{', '.join(names[:NAMED_AT_MOST])}{more} ({reason})"))
    return "; ".join(parts)
