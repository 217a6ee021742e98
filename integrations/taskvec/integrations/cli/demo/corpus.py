"""The docstrings of the running interpreter's standard library, as documents of passages.

The sources are parsed, never imported.
"""

import ast
import hashlib
import sysconfig
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

from taskvec.core.embedder import Span
from taskvec.integrations.extras import needs_extra

LONGEST_PASSAGE = 700
# About 350 tokens: a class with its methods stays together, and no model's context is exceeded.
LONGEST_DOCUMENT = 1_500
SHORTEST_DOCSTRING = 20
# Not for readers: tests, code of others, tables. And large packages for few, so that the demo
# stays quick.
BYPASSED = frozenset({
    "__pycache__", "_bundled", "encodings", "idlelib", "lib2to3", "msilib", "pydoc_data",
    "site-packages", "test", "tests", "turtledemo",
    "distutils", "imaplib", "importlib", "mailbox", "multiprocessing", "nntplib", "tkinter",
    "turtle", "unittest", "wsgiref", "xml", "xmlrpc",
})  # fmt: skip
# Modules written in C have a twin in Python, which has the same docstrings.
PUBLIC_NAMES = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
}
PUBLIC_FILES = {"__init__", "__main__", *PUBLIC_NAMES}
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "taskvec:demo")

Described: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Passage:
    """One docstring, or a part of a long one, under the qualified name that it describes."""

    id: str
    name: str
    text: str


@dataclass(frozen=True)
class Document:
    """A class with its methods, or a module with its functions: what is encoded at once.

    spans: one a passage, in characters of the text.
    """

    text: str
    spans: tuple[Span, ...]
    passages: tuple[Passage, ...]


def read_corpus(*, limit: int | None = None, library: Path | None = None) -> list[Document]:
    """The documents of the standard library, in a fixed order.

    limit: at most this many passages, drawn from all over the library. library: where its
    sources are, by default those of this interpreter.
    """
    root = library or Path(sysconfig.get_path("stdlib"))
    entries = (
        group for path in _modules(root) for group in _groups(path, _module_name(path, root))
    )
    documents = [document for group in entries for document in _documents(group)]
    return documents if limit is None else _draw(documents, limit)


def _modules(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root).with_suffix("").parts
        private = [part for part in inner if part.startswith("_") and part not in PUBLIC_FILES]
        if not private and not BYPASSED.intersection(inner):
            yield path


def _module_name(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] in {"__init__", "__main__"}:
        parts.pop()
    parts[:1] = [PUBLIC_NAMES.get(part, part) for part in parts[:1]]
    return ".".join(parts)


def _groups(path: Path, module: str) -> Iterator[list[tuple[str, str]]]:
    """Per document: the heading and docstring of each member."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        # A distribution may ship templates and broken examples among its sources.
        return
    yield from _scope(tree, module)


def _scope(node: ast.Module | ast.ClassDef, name: str) -> Iterator[list[tuple[str, str]]]:
    own = _entry(node, name)
    members = [
        _entry(child, f"{name}.{child.name}")
        for child in node.body
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and _public(child.name)
    ]
    yield [entry for entry in (own, *members) if entry is not None]
    for child in node.body:
        if isinstance(child, ast.ClassDef) and _public(child.name):
            yield from _scope(child, f"{name}.{child.name}")


def _public(name: str) -> bool:
    return not name.startswith("_")


def _entry(node: Described, name: str) -> tuple[str, str] | None:
    docstring = (ast.get_docstring(node) or "").strip()
    if len(docstring) < SHORTEST_DOCSTRING:
        return None
    heading = name + _signature(node) if isinstance(node, Function) else name
    # Some sources hold characters that no database takes.
    return heading, docstring.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


def _signature(node: Function) -> str:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return f"({', '.join(name for name in names if name not in {'self', 'cls'})})"


def _documents(group: Sequence[tuple[str, str]]) -> Iterator[Document]:
    pieces = [piece for heading, docstring in group for piece in _pieces(heading, docstring)]
    waiting: list[tuple[str, str]] = []
    for piece in pieces:
        if waiting and sum(len(text) for _, text in (*waiting, piece)) > LONGEST_DOCUMENT:
            yield _document(waiting)
            waiting = []
        waiting.append(piece)
    if waiting:
        yield _document(waiting)


def _pieces(heading: str, docstring: str) -> Iterator[tuple[str, str]]:
    """The passages of one docstring: (qualified name, text); the heading begins each."""
    name = heading.partition("(")[0]
    for number, part in enumerate(_split(docstring), 1):
        yield name if number == 1 else f"{name} [{number}]", f"{heading}\n{part}"


def _split(docstring: str) -> list[str]:
    if len(docstring) <= LONGEST_PASSAGE:
        return [docstring]
    with needs_extra("taskvec demo", "demo"):
        from semantic_text_splitter import TextSplitter
    return TextSplitter(LONGEST_PASSAGE).chunks(docstring)


def _document(pieces: Sequence[tuple[str, str]]) -> Document:
    texts = [text for _, text in pieces]
    ends = accumulate(len(text) + 2 for text in texts)
    spans = tuple((end - 2 - len(text), end - 2) for text, end in zip(texts, ends, strict=True))
    passages = tuple(
        Passage(str(uuid.uuid5(NAMESPACE, f"{name}\0{text}")), name, text) for name, text in pieces
    )
    return Document("\n\n".join(texts), spans, passages)


def _draw(documents: Sequence[Document], limit: int) -> list[Document]:
    """Documents of at most `limit` passages in all: the same ones on every run."""
    mixed = sorted(documents, key=lambda item: hashlib.sha256(item.text.encode()).digest())
    drawn: list[Document] = []
    left = limit
    for document in mixed:
        if len(document.passages) <= left:
            drawn.append(document)
            left -= len(document.passages)
    return drawn
