"""The rows that the starter's second and third stages learn from, as files in its folder."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sentence_transformers import SentenceTransformer

from taskvec.core.errors import InputError
from taskvec.core.writing import new_folder
from taskvec.integrations.train.recipe.aligned import Aligned, Passage, is_held_out
from taskvec.integrations.train.recipe.asking import asked
from taskvec.integrations.train.texts.docstrings import docstring_pairs, first_sentence
from taskvec.integrations.train.texts.questions import Question
from taskvec.integrations.train.texts.wordnet import Gloss

Row: TypeAlias = dict[str, Any]
Vectors = npt.NDArray[np.float32]

# Pairs of a kind in a file; a language other than English gets its share of the last two.
PAIRS = {"docstrings": 1_500, "headings": 4_000, "sentences": 1_200, "glosses": 1_800, "faq": 500}
OWN_PAIRS = {"de": 1_000, "fr": 1_000, "ja": 1_000, "zh_CN": 1_000, "es": 300, "it": 300}
CROSS_PAIRS = {"de": 800, "fr": 800, "ja": 800, "zh_CN": 800, "es": 200, "it": 200}
STORY_SHARE = 0.5
MIN_REST_CHARS = 40
# Pairs of near words, and of any two words, to score.
NEAR_WORDS, ANY_WORDS = 9_000, 3_000
# Texts of a kind to label, in English; each other language has OTHERS of it.
LABELLED = {"packages": 2_400, "pages": 2_400, "modules": 1_500, "stories": 1_200}
OTHERS = 0.3
MIN_STORY_CHARS = 80
# How much is taken of a file that has no share of its own.
SHARE = 0.5
MIN_OF_A_LABEL = 4


def pairs(
    texts: Mapping[str, Aligned], glosses: Sequence[Gloss], faq: Sequence[Question], seed: int
) -> dict[str, list[Row]]:
    """Pairs by file: each kind of English pairs, each language's own, and those across.

    texts: aligned, by language. Rows hold `anchor` and `positive`, and the English of each beside
    them as its pivot where they are in another language. Some headings are put as questions.
    """
    order = random.Random(seed)  # noqa: S311
    english = texts["en"].passages
    cut = [first_sentence(item.text) for item in english]
    documented = [(doc.first, doc.rest) for doc in docstring_pairs("train")]
    kinds = {
        "docstrings": documented,
        "headings": [(asked(item.heading, "en", order)[0], item.text) for item in english],
        "sentences": [part for part in cut if len(part[1]) >= MIN_REST_CHARS],
        "glosses": [
            (asked(gloss.words, "en", order)[0], gloss.text)
            for gloss in glosses
            if not is_held_out(gloss.text)
        ],
        "faq": faq,
    }
    files = {
        f"en-{kind}": [_pair(*pair) for pair in _some(found, PAIRS[kind], order)]
        for kind, found in kinds.items()
    }
    for language, count in OWN_PAIRS.items():
        own = texts[language]
        files[language] = []
        for item in _some(own.passages, count, order):
            anchor, pivot = asked(item.heading, language, order, item.english_heading)
            files[language].append(_pair(anchor, item.text, pivot, item.english_text))
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
    """What several teachers think of two English texts: the mean of their cosines."""

    def __init__(self, *teachers: SentenceTransformer) -> None:
        self.teachers = teachers

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors whose products are the mean cosines, (B, sum of their dims) float32."""
        parts = [
            teacher.encode_query(list(texts), normalize_embeddings=True)
            for teacher in self.teachers
        ]
        joined: Vectors = np.concatenate(parts, 1) / np.sqrt(len(parts))
        return joined.astype(np.float32)


def scored(
    words: Sequence[tuple[str, str, float]], judges: Judges, seed: int
) -> dict[str, list[Row]]:
    """Scored pairs of words: near ones, and any two of these.

    words: with WordNet's scores; theirs and the teachers' are halved between. Sentences scored
    by teachers beside them took back what the words had brought.
    """
    order = random.Random(seed)  # noqa: S311
    kept = [pair for pair in words if not is_held_out(" ".join(pair[:2]))]
    near = _some(kept, NEAR_WORDS, order)
    everything = sorted({word for pair in near for word in pair[:2]})
    known = {pair[:2]: pair[2] for pair in words}
    anyhow = [tuple(sorted(order.sample(everything, 2))) for _ in range(min(ANY_WORDS, len(near)))]
    drawn = [*near, *((a, b, known.get((a, b), 0.0)) for a, b in anyhow)]
    vectors = dict(zip(everything, judges.vectors(everything), strict=True))
    rows = [
        {"text1": a, "text2": b, "score": (score + float(vectors[a] @ vectors[b])) / 2}
        for a, b, score in drawn
    ]
    return {"words": rows}


def labelled(texts: Mapping[str, Aligned], seed: int) -> dict[str, list[Row]]:
    """Labelled texts by file: what each is of, and in the last column of what that is a part.

    Packages by section; help pages' passages by page, within applications; docstrings by module,
    within packages; stories by campaign.
    """
    order = random.Random(seed)  # noqa: S311
    files: dict[str, list[Row]] = {"packages": [], "pages": [], "stories": []}
    for language, own in texts.items():
        share = 1 if language == "en" else OTHERS
        found: dict[str, list[Row]] = {
            "packages": [
                _label(f"{item.heading}. {item.text}", item.group, item.group)
                for item in own.passages
                if not _is_page(item)
            ],
            "pages": [
                _label(f"{item.heading}. {item.text}", item.document, item.group)
                for item in own.passages
                if _is_page(item)
            ],
            "stories": [
                _label(text, own.campaigns[source], own.campaigns[source])
                for source, text in own.sentences.items()
                if len(source) >= MIN_STORY_CHARS
            ],
        }
        for name, rows in found.items():
            kept = rows if name == "packages" else _frequent(rows)
            files[name] += _some(kept, round(LABELLED[name] * share), order)
    modules = [
        _label(f"{doc.first} {doc.rest}", doc.module, doc.module.split(".")[0])
        for doc in docstring_pairs("train")
    ]
    files["modules"] = _some(modules, LABELLED["modules"], order)
    return {name: _frequent(rows) for name, rows in files.items()}


def _label(text: str, label: str, group: str) -> Row:
    return {"text": text, "label": label, "group": group}


def _is_page(item: Passage) -> bool:
    """Whether a passage is of a help page, whose name is a path."""
    return "/" in item.document


def grouped(files: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Texts by the coarser group, and docstrings by module, whose packages are too few."""
    columns = {"packages": "group", "pages": "group", "stories": "group", "modules": "label"}
    return {
        name: [{"text": row["text"], "label": row[column]} for row in files[name]]
        for name, column in columns.items()
    }


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


def shares(paths: Sequence[Path], named: Mapping[str, float], folder: Path) -> tuple[Path, ...]:
    """A share of each file's rows, in files of the same names in another folder.

    named: by a file's name without its ending, SHARE where it is not named: 0.5 is every second
    row, 2.0 is each row twice.
    """
    unknown = named.keys() - {path.stem for path in paths}
    if unknown:
        raise InputError(f"there are no rows of {', '.join(sorted(unknown))}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in paths:
        with path.open(encoding="utf-8") as file:
            rows = list(file)
        share = named.get(path.stem, SHARE)
        kept = [rows[int(number / share)] for number in range(round(len(rows) * share))]
        written.append(folder / path.name)
        written[-1].write_text("".join(kept), encoding="utf-8")
    return tuple(written)
