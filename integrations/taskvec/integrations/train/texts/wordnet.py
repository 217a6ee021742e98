"""WordNet 3.0's synsets, under the WordNet licence."""

import re
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
