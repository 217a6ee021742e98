"""The rows that the starter's second and third stages learn from, as files in its folder."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sentence_transformers import SentenceTransformer

from taskvec.core.writing import new_folder
from taskvec.integrations.train.recipe.aligned import Aligned, is_held_out
from taskvec.integrations.train.texts.docstrings import docstring_pairs, first_sentence
from taskvec.integrations.train.texts.wordnet import Gloss

Row: TypeAlias = dict[str, Any]
Vectors = npt.NDArray[np.float32]

# Pairs of a kind in a file; a language other than English gets its share of the last two.
PAIRS = {"docstrings": 1_500, "headings": 2_600, "sentences": 800, "glosses": 1_300}
OWN_PAIRS = {"de": 800, "fr": 800, "ja": 800, "zh_CN": 800, "es": 300, "it": 300}
CROSS_PAIRS = {"de": 600, "fr": 600, "ja": 600, "zh_CN": 600, "es": 200, "it": 200}
STORY_SHARE = 0.5
MIN_REST_CHARS = 40
MIN_SENTENCE_CHARS = 20
SCORED = {"en": 2_000, "de": 800, "fr": 800, "ja": 800, "zh_CN": 800, "es": 250, "it": 250}
POOL = 1_000
# Of the pairs to score: alike by the teachers, translations of each other, and any two.
ALIKE, TRANSLATED = 0.5, 0.15
NEIGHBOURS = 12
LABELLED = {"en": 3_200, "de": 600, "fr": 600, "ja": 600, "zh_CN": 600, "es": 200, "it": 200}
# Texts of a file that are paired with one of their label and one of any.
SEPARATED = 1_000
MIN_OF_A_LABEL = 8


def pairs(
    texts: Mapping[str, Aligned], glosses: Sequence[Gloss], seed: int
) -> dict[str, list[Row]]:
    """Pairs by file: each kind of English pairs, each language's own, and those across.

    texts: aligned, by language. Rows hold `anchor` and `positive`, and the English of each beside
    them as its pivot where they are in another language.
    """
    order = random.Random(seed)  # noqa: S311
    english = texts["en"].passages
    cut = [first_sentence(item.text) for item in english]
    documented = [(doc.first, doc.rest) for doc in docstring_pairs("train")]
    kinds = {
        "docstrings": documented,
        "headings": [(item.heading, item.text) for item in english],
        "sentences": [part for part in cut if len(part[1]) >= MIN_REST_CHARS],
        "glosses": [(gloss.words, gloss.text) for gloss in glosses if not is_held_out(gloss.text)],
    }
    files = {
        f"en-{kind}": [_pair(*pair) for pair in _some(found, PAIRS[kind], order)]
        for kind, found in kinds.items()
    }
    for language, count in OWN_PAIRS.items():
        own = texts[language]
        files[language] = [
            _pair(item.heading, item.text, item.english_heading, item.english_text)
            for item in _some(own.passages, count, order)
        ]
        files[f"en-{language}"] = _across(own, CROSS_PAIRS[language], order)
    return files


def _across(own: Aligned, count: int, order: random.Random) -> list[Row]:
    """English texts and their translations, either first; a query's heading or a sentence."""
    stories = round(count * STORY_SHARE)
    told = [(b, b, a, a) for a, b in _some(sorted(own.sentences.items()), stories, order)]
    explained = [
        (item.heading, item.text, item.english_heading, item.english_text)
        for item in _some(own.passages, count - stories, order)
    ]
    rows = []
    for heading, text, english_heading, english_text in [*told, *explained]:
        if order.random() < 0.5:
            rows.append(_pair(heading, english_text, english_heading, None))
        else:
            rows.append(_pair(english_heading, text, None, english_text))
    return rows


def _pair(
    anchor: str, positive: str, anchor_pivot: str | None = None, positive_pivot: str | None = None
) -> Row:
    return {
        "anchor": anchor,
        "positive": positive,
        "anchor_pivot": anchor_pivot,
        "positive_pivot": positive_pivot,
    }


def _some(items: Sequence[Any], count: int, order: random.Random) -> list[Any]:
    return order.sample(list(items), min(count, len(items)))


class Judges:
    """What several teachers think of two texts: the mean of their cosines.

    teacher: reads every language. pivot_teacher: reads English alone.
    """

    def __init__(self, teacher: SentenceTransformer, pivot_teacher: SentenceTransformer) -> None:
        self.teacher = teacher
        self.pivot_teacher = pivot_teacher

    def vectors(self, texts: Sequence[str], english: Sequence[str]) -> Vectors:
        """Unit vectors whose products are the mean cosines, (B, E1 + E2) float32."""
        parts = [
            self.teacher.encode_query(list(texts), normalize_embeddings=True),
            self.pivot_teacher.encode_query(list(english), normalize_embeddings=True),
        ]
        joined: Vectors = np.concatenate(parts, 1) / np.sqrt(2)
        return joined.astype(np.float32)


def scored(
    texts: Mapping[str, Aligned], glosses: Sequence[Gloss], judges: Judges, seed: int
) -> dict[str, list[Row]]:
    """Scored pairs of sentences: alike ones, translations and any two, in one file."""
    order = random.Random(seed)  # noqa: S311
    rows: list[Row] = []
    for language, count in SCORED.items():
        sentences = texts[language].sentences.items()
        pool = [(b, a) for a, b in sentences if len(a) >= MIN_SENTENCE_CHARS]
        if language == "en":
            kept = [gloss for gloss in glosses if not is_held_out(gloss.text)]
            examples = [text for gloss in kept for text in gloss.examples]
            pool += [(text, text) for text in examples if len(text) >= MIN_SENTENCE_CHARS]
        pool = _some(sorted(set(pool)), POOL, order)
        own = judges.vectors([text for text, _ in pool], [english for _, english in pool])
        english = [english for _, english in pool]
        foreign = own if language == "en" else judges.vectors(english, english)
        for first, second, translated in _chosen(own, count, language != "en", order):
            other = pool[second][1 if translated else 0]
            score = own[first] @ (foreign if translated else own)[second]
            rows.append({"text1": pool[first][0], "text2": other, "score": float(score)})
    return {"scored": rows}


def _chosen(
    vectors: Vectors, count: int, translations: bool, order: random.Random
) -> Iterable[tuple[int, int, bool]]:
    """Indices of two texts to compare, and whether the second is to be read in English."""
    for _ in range(count):
        first = order.randrange(len(vectors))
        second, drawn = order.randrange(len(vectors)), order.random()
        if drawn < ALIKE:
            nearest = np.argsort(-(vectors @ vectors[first]))[1 : NEIGHBOURS + 1]
            second = int(order.choice(list(nearest)))
        elif translations and drawn < ALIKE + TRANSLATED:
            yield first, first, True
            continue
        yield first, second, translations and order.random() < 0.3


def labelled(
    texts: Mapping[str, Aligned], glosses: Sequence[Gloss], seed: int
) -> dict[str, list[Row]]:
    """Labelled texts: packages and help pages by group, meanings by lexicographer file."""
    order = random.Random(seed)  # noqa: S311
    passages = [
        {"text": f"{item.heading}. {item.text}", "label": item.group}
        for language, count in LABELLED.items()
        for item in _some(texts[language].passages, count, order)
    ]
    meanings = [
        {"text": f"{gloss.words}: {gloss.text}", "label": f"file {gloss.file}"}
        for gloss in _some(
            [gloss for gloss in glosses if not is_held_out(gloss.text)], LABELLED["en"], order
        )
    ]
    return {"passages": _frequent(passages), "meanings": _frequent(meanings)}


def separated(files: Mapping[str, Sequence[Row]], seed: int) -> dict[str, list[Row]]:
    """Scored pairs of labelled texts, by file: 1 with a text of its label, 0 with another's."""
    order = random.Random(seed)  # noqa: S311
    made = {}
    for name, rows in files.items():
        mates: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            mates[row["label"]].append(row["text"])
        found = []
        for row in _some(rows, SEPARATED, order):
            other = order.choice(rows)
            mate = order.choice([text for text in mates[row["label"]] if text != row["text"]])
            same = float(other["label"] == row["label"])
            found.append({"text1": row["text"], "text2": mate, "score": 1.0})
            found.append({"text1": row["text"], "text2": other["text"], "score": same})
        made[f"{name}-separated"] = found
    return made


def _frequent(rows: Sequence[Row]) -> list[Row]:
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[row["label"]] += 1
    return [row for row in rows if counts[row["label"]] >= MIN_OF_A_LABEL]


def once(folder: Path, make: Callable[[], Mapping[str, Sequence[Row]]]) -> tuple[Path, ...]:
    """The files of a folder, in the order in which they were made, if they are not there yet.

    A run that goes on must find the rows of its start, to the last digit of a score.
    """
    if not folder.exists():
        with new_folder(folder) as scratch:
            paths = write(make(), scratch)
            names = json.dumps([path.name for path in paths])
            (scratch / "files.json").write_text(names, encoding="utf-8")
    names = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    return tuple(folder / name for name in names)


def write(files: Mapping[str, Sequence[Row]], folder: Path) -> tuple[Path, ...]:
    """Write each file's rows as JSON lines, `NAME.jsonl`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in files.items():
        path = folder / f"{name}.jsonl"
        path.write_text(
            "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8"
        )
        paths.append(path)
    return tuple(paths)


def thin(paths: Sequence[Path], stride: int, folder: Path) -> tuple[Path, ...]:
    """Every stride-th row of each file, in files of the same names in another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    thinned = []
    for path in paths:
        with path.open(encoding="utf-8") as file:
            kept = list(file)[::stride]
        thinned.append(folder / path.name)
        thinned[-1].write_text("".join(kept), encoding="utf-8")
    return tuple(thinned)
