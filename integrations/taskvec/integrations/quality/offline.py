"""Sets that need no download: the standard library's docstrings, and what packages carry."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

from taskvec.core.errors import MissingExtraError
from taskvec.integrations.quality.collections import Collection, paired
from taskvec.integrations.quality.probes import Labelled, Scored
from taskvec.integrations.train.texts.docstrings import docstring_pairs

MIN_OF_A_MODULE = 20


def docstrings() -> Collection:
    """A docstring's first sentence → its other text, in the modules that no training here saw."""
    pairs = docstring_pairs("test")
    asked = {str(number): pair.first for number, pair in enumerate(pairs)}
    return paired("docstrings", asked, {str(n): pair.rest for n, pair in enumerate(pairs)})


def construction_faq(questions: str = "en", answers: str = "en") -> Collection:
    """Questions on building in Sweden → their answers, each in English or Swedish.

    Source: the package `zaragoza-construction-faq`, CC-BY-4.0, doi:10.5281/zenodo.19630803.
    """
    asked = {key: question for key, (question, _) in _faq(questions).items()}
    told = {key: answer for key, (_, answer) in _faq(answers).items()}
    name = f"construction FAQ, {questions}" + (f" → {answers}" if answers != questions else "")
    return paired(name, asked, told)


def docstring_modules() -> Labelled:
    """Docstrings by the module that they are of, in the modules that no training here saw."""
    rows = [(pair.rest, pair.module.split(".")[0]) for pair in docstring_pairs("test")]
    counts = Counter(module for _, module in rows)
    kept = [(text, module) for text, module in rows if counts[module] >= MIN_OF_A_MODULE]
    return Labelled("docstrings by module", *map(list, zip(*kept, strict=True)))


def news() -> Scored:
    """Every two of fifty short news items, and how alike students found them, from 0 to 1.

    Source: M. D. Lee, B. Pincombe and M. Welsh (2005), An empirical evaluation of models of text
    document similarity, as the package `gensim` carries it.
    """
    folder = _gensim()
    texts = (folder / "lee.cor").read_text(encoding="latin-1").splitlines()
    table = (folder / "similarities0-1.txt").read_text(encoding="utf-8").splitlines()
    left, right, scores = [], [], []
    for row, line in enumerate(table):
        values = [float(value) for value in line.split()]
        for column in range(row + 1, len(texts)):
            left.append(texts[row])
            right.append(texts[column])
            scores.append(values[column])
    return Scored("news", left, right, scores)


def word_pairs() -> Scored:
    """Pairs of English words and how similar they are, not how related.

    Source: SimLex-999, doi:10.1162/COLI_a_00237, as the package `gensim` carries it.
    """
    lines = (_gensim() / "simlex999.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    found = [(row[0], row[1], float(row[2])) for row in rows]
    return Scored("SimLex-999", *map(list, zip(*found, strict=True)))


def _gensim() -> Path:
    return _folder("gensim", "news and word pairs") / "test" / "test_data"


def _folder(package: str, what: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(what, "quality")
    return Path(spec.submodule_search_locations[0])


def _faq(language: str) -> dict[str, tuple[str, str]]:
    folder = _folder("zaragoza_construction_faq", "the construction FAQ") / "data"
    name = "faq.jsonl" if language == "sv" else f"faq-{language}.jsonl"
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return {entry["id"]: (entry["q"], entry["a"]) for entry in entries}
