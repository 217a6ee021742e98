"""The multilingual body's pieces: XLM-R's, cut down by the mix and by what is common anyway.

The mix is technical. So that everyday words stay whole, a language's count is blended with XLM-R's
own probability of the pieces that are words of its dictionary, or written in its script.
"""

import math
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from taskvec.integrations.train.recipe.mix import LANGUAGES, Texts
from taskvec.integrations.train.teachers.e5 import Piece
from taskvec.integrations.train.texts.archive import Archive
from taskvec.integrations.train.vocabulary import choose, count_pieces

SIZE = 36_000
COUNTED = 12_000
COMMON_SHARE = 0.4
# Debian's word lists: SCOWL, and the GPL's for the others. Only which words there are is read.
DICTIONARIES = {
    "en": ("wamerican-large", "american-english-large"),
    "de": ("wngerman", "ngerman"),
    "fr": ("wfrench", "french"),
    "es": ("wspanish", "spanish"),
    "it": ("witalian", "italian"),
}
SCRIPTS = {
    "zh_CN": re.compile("^▁?[\u4e00-\u9fff]+$"),
    "ja": re.compile(
        "^▁?[\u3040-\u30ff\u4e00-\u9fffー]*[\u3040-\u30ff]+[\u3040-\u30ff\u4e00-\u9fffー]*$"
    ),
}
KINDS = {
    "descriptions": 0.2,
    "paragraphs": 0.3,
    "stories": 0.3,
    "docstrings": 0.1,
    "glosses": 0.15,
    "examples": 0.2,
}


def choose_pieces(
    archive: Archive, pieces: Sequence[Piece], tokenizer: Tokenizer, texts: Mapping[str, Texts]
) -> list[int]:
    """Ids of the SIZE pieces that the body keeps, ascending. tokenizer: of all pieces."""
    weights = {}
    for language in LANGUAGES:
        counted = _unit(_counted(tokenizer, texts[language]))
        common = _unit(_common(archive, pieces, language))
        weights[language] = {
            index: (1 - COMMON_SHARE) * counted.get(index, 0) + COMMON_SHARE * common.get(index, 0)
            for index in counted.keys() | common.keys()
        }
    return choose(pieces, weights, LANGUAGES, SIZE)


def _counted(tokenizer: Tokenizer, texts: Texts) -> dict[int, float]:
    counts: dict[int, float] = defaultdict(float)
    for kind, share in KINDS.items():
        if kind in texts:
            order = random.Random(0)  # noqa: S311
            some = order.sample(texts[kind], min(COUNTED, len(texts[kind])))
            for index, part in _unit(count_pieces(tokenizer, some)).items():
                counts[index] += share * part
    return counts


def _common(archive: Archive, pieces: Sequence[Piece], language: str) -> dict[int, float]:
    if language in SCRIPTS:
        fits = SCRIPTS[language].match
        chosen = [index for index, piece in enumerate(pieces) if fits(piece.text)]
    else:
        words = _words(archive, language)
        chosen = [
            i for i, piece in enumerate(pieces) if piece.text[:1] == "▁" and piece.text[1:] in words
        ]
    return {index: math.exp(pieces[index].score) for index in chosen}


def _words(archive: Archive, language: str) -> set[str]:
    package, name = DICTIONARIES[language]
    raw = (archive.package(package) / "usr/share/dict" / name).read_bytes()
    try:
        words = set(raw.decode().split())
    except UnicodeDecodeError:
        words = set(raw.decode("latin-1").split())
    return words | {word.capitalize() for word in words}


def _unit(counts: Mapping[int, float]) -> dict[int, float]:
    total = sum(counts.values())
    return {index: count / total for index, count in counts.items()}
