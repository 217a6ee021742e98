"""What each stage of training sees: texts, pairs and labelled texts, all from the train split."""

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from taskvec.integrations.train.texts.archive import Archive
from taskvec.integrations.train.texts.descriptions import Description, descriptions
from taskvec.integrations.train.texts.docstrings import (
    MIN_FIRST_CHARS,
    MIN_REST_CHARS,
    Docstring,
    docstrings,
    first_sentence,
)
from taskvec.integrations.train.texts.wordnet import Gloss, glosses

GLOSSES = 30_000
DOCSTRING_REPEATS = 3
LONG_TEXTS = 3_000
LONG_CHARS = 2_200
HELD_OUT_PERCENT = 3
HELD_OUT_TEXTS = 16
TRAINED_TEXTS = 1500


class Pair(NamedTuple):
    """A query and the passage that answers it."""

    query: str
    passage: str


class Labelled(NamedTuple):
    """A text and the name of its class."""

    text: str
    label: str


class Sources(NamedTuple):
    """All training text, read once; docstrings of the train split alone."""

    docstrings: list[Docstring]
    packages: list[Description]
    glosses: list[Gloss]


def read_sources(folder: Path) -> Sources:
    """Read the training text, fetching with apt what `folder` lacks."""
    archive = Archive(folder)
    return Sources(docstrings("train"), descriptions(archive, "en"), glosses(archive))


def distil_texts(sources: Sources, seed: int) -> list[str]:
    """Texts for the distillation: sentences, descriptions and some of about 512 tokens."""
    order = random.Random(seed)  # noqa: S311
    texts = []
    for doc in sources.docstrings:
        whole = f"{doc.first} {doc.rest}".strip()
        texts += [doc.first, doc.rest, whole] if doc.rest else [whole]
    texts *= DOCSTRING_REPEATS
    for package in sources.packages:
        texts += [package.title, package.text]
    for gloss in order.sample(sources.glosses, min(GLOSSES, len(sources.glosses))):
        texts.append(f"{gloss.words}: {gloss.text}")
    return texts + _long_texts(sources.packages, order)


def _long_texts(packages: Sequence[Description], order: random.Random) -> list[str]:
    texts = []
    for _ in range(LONG_TEXTS if packages else 0):
        start, parts = order.randrange(len(packages)), [""]
        while sum(map(len, parts)) < LONG_CHARS:
            package = packages[(start + len(parts)) % len(packages)]
            parts.append(f"{package.name}: {package.title}\n{package.text}")
        texts.append("\n\n".join(parts[1:]))
    return texts


def retrieval_pairs(sources: Sources, seed: int) -> dict[str, list[Pair]]:
    """Pairs by kind; neighbours in a list are alike, so that a window of it holds hard negatives.

    Docstrings' first sentence → rest by module, packages' title → description and first
    sentence → rest by archive section, words → gloss by lexicographer file.
    """
    order = random.Random(seed)  # noqa: S311
    packages = sorted(sources.packages, key=lambda package: (package.section, order.random()))
    cut = [first_sentence(package.text) for package in packages]
    return {
        "docstrings": [
            Pair(doc.first, doc.rest)
            for doc in sources.docstrings
            if len(doc.first) >= MIN_FIRST_CHARS and len(doc.rest) >= MIN_REST_CHARS
        ],
        "titles": [Pair(package.title, package.text) for package in packages],
        "sentences": [Pair(*parts) for parts in cut if len(parts[1]) >= MIN_REST_CHARS],
        "glosses": [Pair(gloss.words, gloss.text) for gloss in sources.glosses],
    }


def labelled_texts(sources: Sources, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Texts with a class, and some held out: archive sections and lexicographer files.

    Returns (training, held out), classes mixed; classes of fewer than 30 texts are left out.
    """
    order = random.Random(seed)  # noqa: S311
    classes: dict[str, list[str]] = defaultdict(list)
    for package in sources.packages:
        classes[f"section {package.section}"].append(f"{package.title}. {package.text}")
    for gloss in sources.glosses:
        classes[f"file {gloss.file}"].append(f"{gloss.words}: {gloss.text}")
    training, held_out = [], []
    for label, texts in sorted(classes.items()):
        order.shuffle(texts)
        cut = max(10, len(texts) * HELD_OUT_PERCENT // 100)
        if len(texts) >= 30:
            held_out += [Labelled(text, label) for text in texts[:cut][:HELD_OUT_TEXTS]]
            training += [Labelled(text, label) for text in texts[cut:][:TRAINED_TEXTS]]
    order.shuffle(training)
    return training, held_out
