"""Collections that need no download: the standard library's docstrings, and an installed FAQ."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

from taskvec.core.errors import MissingExtraError
from taskvec.integrations.quality.collections import Collection
from taskvec.integrations.train.texts.docstrings import docstring_pairs

Texts = Mapping[str, tuple[str, str]]


def docstrings() -> Collection:
    """A docstring's first sentence → its other text, in the modules that no training here saw."""
    pairs = docstring_pairs("test")
    texts = {str(number): (pair.first, pair.rest) for number, pair in enumerate(pairs)}
    return _paired("docstrings", texts, texts)


def construction_faq(questions: str = "en", answers: str = "en") -> Collection:
    """Questions on building in Sweden → their answers, each in English or Swedish.

    Source: the package `zaragoza-construction-faq`, CC-BY-4.0, doi:10.5281/zenodo.19630803.
    """
    asked, told = _faq(questions), _faq(answers)
    name = f"construction FAQ, {questions}" + (f" → {answers}" if answers != questions else "")
    return _paired(name, asked, told)


def _paired(name: str, asked: Texts, told: Texts) -> Collection:
    """Every query is answered by the document of its own number alone."""
    queries = {f"query {key}": query for key, (query, _) in asked.items()}
    documents = {f"document {key}": document for key, (_, document) in told.items()}
    judged = {f"query {key}": {f"document {key}": 1} for key in asked}
    return Collection(name, documents, queries, judged)


def _faq(language: str) -> dict[str, tuple[str, str]]:
    spec = importlib.util.find_spec("zaragoza_construction_faq")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the construction FAQ", "quality")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    name = "faq.jsonl" if language == "sv" else f"faq-{language}.jsonl"
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return {entry["id"]: (entry["q"], entry["a"]) for entry in entries}
