"""Training and evaluation text: docstrings, Debian package descriptions, WordNet glosses.

| source | licence |
|---|---|
| Python standard library docstrings | PSF-2.0 |
| Debian package descriptions | each package's own free licence |
| WordNet 3.0 glosses | WordNet 3.0 licence |

Nothing of it is shipped: the texts are read from the running interpreter and from apt.
"""

import ast
import hashlib
import re
import subprocess
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from taskvec.core.errors import InputError

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

APT_CONFIGURATION = """#clear Acquire::Languages;
Acquire::Languages {{"en";}};
Acquire::GzipIndexes "false";
Dir::State::Lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{sources}";
Dir::Etc::SourceParts "/dev/null";
APT::Sandbox::User "root";
"""


class Docstring(NamedTuple):
    """A docstring cut after its first sentence; `rest` is empty for a single sentence."""

    module: str
    first: str
    rest: str


class Package(NamedTuple):
    """A Debian package: its archive section, one-line title and long description."""

    name: str
    section: str
    title: str
    text: str


class Gloss(NamedTuple):
    """A WordNet synset: its words, its lexicographer file (0 to 44) and its definition."""

    words: str
    file: int
    text: str


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
    """Docstrings that are a retrieval pair: long enough, and neither half occurs twice."""
    long = [
        doc
        for doc in docstrings(split, root)
        if len(doc.first) >= MIN_FIRST_CHARS and len(doc.rest) >= MIN_REST_CHARS
    ]
    by_first = {doc.first: doc for doc in reversed(long)}
    by_rest = {doc.rest: doc for doc in reversed(by_first.values())}
    return [doc for doc in long if by_rest.get(doc.rest) is doc]


def fetch(folder: Path) -> None:
    """Fetch Debian's English descriptions and WordNet with apt into a folder of their own.

    Neither the system's package lists nor its packages are touched. Finished work is kept.
    Raises InputError where apt is missing or finds nothing.
    """
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    configuration = folder / "apt.conf"
    configuration.write_text(APT_CONFIGURATION.format(folder=folder, sources=_sources()))
    if not any((folder / "lists").glob("*Translation-en")):
        _run(["apt-get", "-c", str(configuration), "update"], folder)
    if not (folder / "usr/share/wordnet").exists():
        _run(["apt-get", "-c", str(configuration), "download", "wordnet-base"], folder)
        for archive in folder.glob("wordnet-base_*.deb"):
            _run(["dpkg-deb", "-x", archive.name, "."], folder)


def _sources() -> Path:
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if path.exists():
            return path
    raise InputError("no apt sources: the training text comes from Debian's archive")


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"") or str(error).encode()
        raise InputError(f"{command[0]} failed: {reason.decode(errors='replace')}") from error


def packages(folder: Path) -> list[Package]:
    """Debian packages with a description, each text once. folder: what `fetch` filled."""
    sections: dict[str, str] = {}
    for path in sorted((folder / "lists").glob("*_Packages")):
        for name, field in _fields(path, "Section"):
            sections.setdefault(name, field.split("/")[-1])
    found: dict[str, Package] = {}
    for path in sorted((folder / "lists").glob("*Translation-en")):
        for name, field in _fields(path, "Description-en"):
            title, _, text = field.partition("\n")
            text = _unfold(text)
            if text and name in sections:
                found.setdefault(text, Package(name, sections[name], title.strip(), text))
    return list(found.values())


def _fields(path: Path, wanted: str) -> Iterator[tuple[str, str]]:
    for stanza in path.read_text(encoding="utf-8").split("\n\n"):
        name = re.match(r"Package: (\S+)", stanza)
        field = re.search(rf"^{wanted}: (.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        if name and field:
            yield name[1], field[1]


def _unfold(text: str) -> str:
    lines = [line[1:] for line in text.splitlines()]
    return "\n".join("" if line.strip() == "." else line for line in lines).strip()


def glosses(folder: Path) -> list[Gloss]:
    """WordNet's synsets, examples left out. folder: what `fetch` filled."""
    found = []
    for path in sorted((folder / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="latin-1").splitlines():
            head, bar, text = line.partition(" | ")
            if bar and not line.startswith("  "):
                fields = head.split()
                words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                name = ", ".join(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words)
                found.append(Gloss(name, int(fields[1]), text.split('; "')[0].strip()))
    return found
