"""Collections to search: documents, queries, and which answers which.

A folder in BEIR's format is one: `corpus.jsonl`, `queries.jsonl`, and judgements in
`qrels/test.tsv`, or in TREC's four columns in `qrels/test.txt` or `qrels.txt`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from taskvec.core.errors import InputError

Judgements = Mapping[str, Mapping[str, int]]
JUDGEMENTS = ("qrels/{split}.tsv", "qrels/{split}.txt", "qrels.txt")
HEADER = "query-id"


@dataclass(frozen=True)
class Collection:
    """Texts by id, and for each query the grade of every document that was judged for it."""

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    judgements: Judgements

    def __post_init__(self) -> None:
        if not self.documents or not self.queries:
            raise InputError(f"{self.name} has no {'queries' if self.documents else 'documents'}")


def paired(name: str, asked: Mapping[str, str], told: Mapping[str, str]) -> Collection:
    """A collection in which the document of a query's own key, alone, answers it.

    asked, told: queries and documents by key; a query without a document is left out.
    """
    kept = [key for key in asked if key in told]
    documents = {f"document {key}": text for key, text in told.items()}
    queries = {f"query {key}": asked[key] for key in kept}
    judged = {f"query {key}": {f"document {key}": 1} for key in kept}
    return Collection(name, documents, queries, judged)


def read_collection(folder: Path, split: str = "test") -> Collection:
    """A collection in BEIR's format; queries without a grade above 0 are left out.

    A document's title stands before its text. Raises InputError, with file and line, for what is
    missing or not readable.
    """
    documents = dict(_texts(folder / "corpus.jsonl"))
    queries = dict(_texts(folder / "queries.jsonl"))
    judgements: dict[str, dict[str, int]] = {}
    for query, document, grade in _judgements(folder, split):
        judgements.setdefault(query, {})[document] = grade
    strangers = [key for key in judgements if key not in queries]
    if strangers:
        raise InputError(f"{folder.name} judges a query that it lacks: {strangers[0]!r}")
    answered = {key for key, grades in judgements.items() if max(grades.values()) > 0}
    if judgements and not answered:
        raise InputError(f"{folder.name} judges no document above 0")
    asked = {key: text for key, text in queries.items() if key in answered}
    judgements = {key: judgements[key] for key in asked}
    return Collection(folder.name, documents, asked, judgements)


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in lines_of(path):
        try:
            entry = json.loads(line)
            title, text = entry.get("title") or "", entry["text"]
            yield str(entry["_id"]), f"{title} {text}".strip()
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path}:{number}: not a text with an _id: {error!r}") from error


def _judgements(folder: Path, split: str) -> Iterator[tuple[str, str, int]]:
    names = [name.format(split=split) for name in JUDGEMENTS]
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise InputError(f"{folder} has no judgements: none of {', '.join(names)}")
    for number, line in lines_of(path):
        fields = line.split("\t") if path.suffix == ".tsv" else line.split()
        if fields[0] == HEADER:
            continue
        try:
            # TREC's second column is a number that nothing reads.
            query, document, grade = fields if len(fields) == 3 else (fields[0], *fields[2:])
            yield query, document, int(grade)
        except ValueError:
            raise InputError(f"{path}:{number}: not a query, a document and a grade") from None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1. Raises InputError for an unreadable file."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8") from error
