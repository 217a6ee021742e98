"""Docstrings of the running interpreter's standard library, PSF-2.0, in three splits by module."""

import ast
import hashlib
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

Split: TypeAlias = Literal["train", "dev", "test"]

SKIPPED = frozenset(
    [
        "test",
        "tests",
        "idle_test",
        "idlelib",
        "lib2to3",
        "site-packages",
        "dist-packages",
        "lib-dynload",
        "pydoc_data",
    ]
)
TEST_PERCENT = 45
DEV_PERCENT = 10
MIN_FIRST_CHARS = 15
MIN_REST_CHARS = 40


class Docstring(NamedTuple):
    """A docstring cut after its first sentence; `rest` is empty for a single sentence."""

    module: str
    first: str
    rest: str


def split_of(module: str) -> Split:
    """The split that a module's docstrings belong to, by a hash of its top-level name.

    `_pydecimal` goes with `decimal` and `_pyio` with `io`, which share their texts.
    """
    top = module.split(".", maxsplit=1)[0]
    key = top.removeprefix("_py").lstrip("_")
    bucket = int(hashlib.sha256(f"taskvec:{key}".encode()).hexdigest(), 16) % 100
    if bucket < TEST_PERCENT:
        return "test"
    return "dev" if bucket < TEST_PERCENT + DEV_PERCENT else "train"


def first_sentence(text: str) -> tuple[str, str]:
    """Cut a text after its first sentence: (first sentence, rest), white space collapsed.

    A blank line ends a sentence too. A full stop ends one only before white space and outside
    abbreviations such as "e.g.".
    """
    head, _, tail = text.strip().partition("\n\n")
    head, tail = " ".join(head.split()), " ".join(tail.split())
    for match in re.finditer(r"[.!?:][\"')\]]*\s+", head):
        before = head[: match.end()].rstrip()
        if not re.search(r"(?:\b[a-zA-Z]\.|\b(?:etc|vs|cf|eg|ie|i\.e|e\.g)\.)$", before):
            return before, " ".join([head[match.end() :], tail]).strip()
    return head, tail


def docstrings(split: Split, root: Path | None = None) -> list[Docstring]:
    """Docstrings of a split, from the sources of the running interpreter's standard library.

    Read with `ast`: no module is imported. Each text occurs once, in the order of the files;
    a text that modules of several splits share belongs to none.
    """
    found: dict[tuple[str, str], Docstring] = {}
    splits: dict[str, set[Split]] = defaultdict(set)
    for doc in _all_docstrings(root or Path(sysconfig.get_path("stdlib"))):
        own = split_of(doc.module)
        splits[doc.rest or doc.first].add(own)
        if own == split:
            found.setdefault((doc.first, doc.rest), doc)
    return [doc for doc in found.values() if len(splits[doc.rest or doc.first]) == 1]


@cache
def _all_docstrings(root: Path) -> tuple[Docstring, ...]:
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        module = ".".join(parts).removesuffix(".py").removesuffix(".__init__")
        if SKIPPED.isdisjoint(parts):
            found += [Docstring(module, *first_sentence(text)) for text in _docstrings_of(path)]
    return tuple(found)


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def docstring_pairs(split: Split, root: Path | None = None) -> list[Docstring]:
    """Docstrings that are a retrieval pair: long enough, and neither half occurs twice.

    A first sentence that stands in a module of another split as well is left out.
    """
    everywhere = _all_docstrings(root or Path(sysconfig.get_path("stdlib")))
    elsewhere = {doc.first for doc in everywhere if split_of(doc.module) != split}
    long = [
        doc
        for doc in docstrings(split, root)
        if len(doc.first) >= MIN_FIRST_CHARS and len(doc.rest) >= MIN_REST_CHARS
    ]
    long = [doc for doc in long if doc.first not in elsewhere]
    by_first = {doc.first: doc for doc in reversed(long)}
    by_rest = {doc.rest: doc for doc in reversed(by_first.values())}
    return [doc for doc in long if by_rest.get(doc.rest) is doc]
