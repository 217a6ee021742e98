"""WordNet 3.0's synsets, under the WordNet licence."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from taskvec.integrations.train.texts.archive import Archive


class Gloss(NamedTuple):
    """A synset: its words, its lexicographer file (0 to 44), its definition and its examples."""

    words: str
    file: int
    text: str
    examples: tuple[str, ...]


def glosses(archive: Archive) -> list[Gloss]:
    """All synsets."""
    found = []
    root = archive.package("wordnet-base")
    for path in sorted(root.glob("usr/share/wordnet/data.*")):
        for line in path.read_text(encoding="latin-1").splitlines():
            head, bar, text = line.partition(" | ")
            if bar and not line.startswith("  "):
                fields = head.split()
                words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                name = ", ".join(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words)
                definition, *examples = text.strip().split('; "')
                shown = tuple(example.rstrip('" ') for example in examples)
                found.append(Gloss(name, int(fields[1]), definition.strip(), shown))
    return found


# How near two words are by what joins their synsets; antonyms are near in all but what they say.
SAME, PARENT, SIMILAR, SIBLINGS, OPPOSITE = 1.0, 0.75, 0.75, 0.6, 0.2
PARENTS = {"@", "@i"}
MAX_SIBLINGS = 12


class Synset(NamedTuple):
    """The words of a synset that it is the commonest sense of, and its pointers.

    pointers: each one's symbol and the synset that it names.
    """

    words: tuple[str, ...]
    pointers: tuple[tuple[str, str], ...]


def near_words(archive: Archive) -> list[tuple[str, str, float]]:
    """Pairs of common single words and how near they are, 0 to 1, by WordNet alone.

    Common is what stands in WordNet's tagged texts. A word counts in its commonest sense. Each
    pair occurs once, with the greatest of its scores.
    """
    found: dict[tuple[str, str], float] = {}
    for kind in ("noun", "verb", "adj"):
        for first, second, score in _joined(_synsets(archive, kind)):
            if first != second:
                pair = min(first, second), max(first, second)
                found[pair] = max(score, found.get(pair, 0.0))
    return [(first, second, score) for (first, second), score in sorted(found.items())]


def _joined(synsets: dict[str, Synset]) -> Iterator[tuple[str, str, float]]:
    children: dict[str, list[str]] = defaultdict(list)
    for synset in synsets.values():
        words = synset.words
        yield from ((a, b, SAME) for i, a in enumerate(words) for b in words[i + 1 :])
        for symbol, target in synset.pointers:
            score = {"!": OPPOSITE, "&": SIMILAR}.get(symbol, PARENT)
            others = synsets[target].words if target in synsets else ()
            yield from ((a, b, score) for a in words for b in others)
            if symbol in PARENTS:
                children[target].extend(words[:1])
    for siblings in children.values():
        if len(siblings) <= MAX_SIBLINGS:
            yield from ((a, b, SIBLINGS) for i, a in enumerate(siblings) for b in siblings[i + 1 :])


def _synsets(archive: Archive, kind: str) -> dict[str, Synset]:
    """Synsets of a part of speech by their offset, those that no common word means first too."""
    root = archive.package("wordnet-base") / "usr/share/wordnet"
    words: dict[str, list[str]] = defaultdict(list)
    for line in (root / f"index.{kind}").read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):
            lemma, _, senses, pointers, *rest = line.split()
            tagged = int(rest[int(pointers) + 1])
            if tagged and lemma.isalpha():
                words[rest[-int(senses)]].append(lemma)
    found = {}
    for line in (root / f"data.{kind}").read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):
            fields = line.partition(" | ")[0].split()
            start = 4 + 2 * int(fields[3], 16)
            each = range(start + 1, start + 1 + 4 * int(fields[start]), 4)
            wanted = PARENTS | {"!", "&"}
            pointers_ = tuple((fields[i], fields[i + 1]) for i in each if fields[i] in wanted)
            found[fields[0]] = Synset(tuple(words[fields[0]]), pointers_)
    return found
