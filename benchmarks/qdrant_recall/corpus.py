"""Passages and queries of Debian's archive: packages' descriptions and WordNet's glosses."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from taskvec.core.errors import InputError
from taskvec.integrations.train.recipe.aligned import is_held_out
from taskvec.integrations.train.texts import descriptions, wordnet
from taskvec.integrations.train.texts.archive import Archive, collapse


class Pair(NamedTuple):
    """A query and the passage that it belongs to. key: by which the recipe keeps it from stages."""

    key: str
    query: str
    passage: str


class Corpus(NamedTuple):
    """Passages to find, and queries that are no passages and were kept from the starter's training.

    Each query belongs to one of the passages: a package's title, a synset's words.
    """

    passages: tuple[str, ...]
    queries: tuple[str, ...]


def read(folder: Path, passages: int, queries: int) -> Corpus:
    """So many passages and queries, half of them of each kind; the archive's texts lie in a folder.

    They are fetched with apt where they are missing. Raises InputError where apt is missing, or the
    archive holds fewer.
    """
    archive = Archive(folder)
    described = [
        Pair(item.key, collapse(item.title), collapse(item.text))
        for item in descriptions.descriptions(archive, "en")
    ]
    defined = [Pair(item.text, item.words, item.text) for item in wordnet.glosses(archive)]
    return drawn([described, defined], passages, queries)


def drawn(kinds: Sequence[Sequence[Pair]], passages: int, queries: int) -> Corpus:
    """A corpus of pairs, as many of each kind, always the same ones.

    Raises InputError where a kind has too few of either.
    """
    order = random.Random(0)  # noqa: S311
    found = [_some(_once(pairs), passages // len(kinds), "passages", order) for pairs in kinds]
    texts = {pair.passage for pairs in found for pair in pairs}
    held = [[p for p in pairs if is_held_out(p.key) and p.query not in texts] for pairs in found]
    asked = [_some(pairs, queries // len(kinds), "queries", order) for pairs in held]
    return Corpus(
        tuple(pair.passage for pairs in found for pair in pairs),
        tuple(pair.query for pairs in asked for pair in pairs),
    )


def _once(pairs: Sequence[Pair]) -> list[Pair]:
    """Each passage and each query once."""
    by_passage = {pair.passage: pair for pair in pairs}
    return list({pair.query: pair for pair in by_passage.values()}.values())


def _some(pairs: Sequence[Pair], count: int, what: str, order: random.Random) -> list[Pair]:
    if len(pairs) < count:
        raise InputError(
            f"{count} {what} of each kind were asked for, and one has {len(pairs)}: ask for fewer"
        )
    return order.sample(pairs, count)
