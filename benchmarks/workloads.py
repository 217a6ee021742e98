"""Texts of chosen lengths and tasks, the same for every contender."""

import ast
import functools
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from benchmarks.models import tokenizer

TASKS = ("separation", "retrieval.query", "retrieval.passage", "classification", "text-matching")
PROBES = 8  # texts whose vectors are compared
PROBE_LENGTH = 6_000  # characters of each at most


@dataclass(frozen=True)
class Workload:
    """Texts, and a task for each."""

    texts: tuple[str, ...]
    tasks: tuple[str, ...]

    @property
    def probe(self) -> "Workload":
        """A few of them, by which vectors are compared; of long texts pieces."""
        cut = [
            (text[start : start + PROBE_LENGTH], task)
            for text, task in zip(self.texts, self.tasks, strict=True)
            for start in range(0, len(text), PROBE_LENGTH)
        ]
        pieces = Workload(*(tuple(column) for column in zip(*cut, strict=True)))
        return pieces.every(-(-len(cut) // PROBES))

    def every(self, step: int) -> "Workload":
        """A sample of the same lengths and mix."""
        order = sorted(range(len(self.texts)), key=lambda i: (self.tasks[i], len(self.texts[i])))
        kept = sorted(order[::step])
        return Workload(tuple(self.texts[i] for i in kept), tuple(self.tasks[i] for i in kept))

    def mixed(self, count: int) -> "Workload":
        """The same texts, `count` tasks in turns."""
        return replace(self, tasks=tuple(islice(cycle(TASKS[:count]), len(self.texts))))

    def lengths(self, prompts: dict[str, str]) -> list[int]:
        """Tokens of each text, specials and prompt included."""
        pairs = zip(self.texts, self.tasks, strict=True)
        prompted = [prompts.get(task, "") + text for text, task in pairs]
        return [len(encoding.ids) for encoding in tokenizer().encode_batch_fast(prompted)]


def one_task(texts: list[str], task: str = TASKS[0]) -> Workload:
    """Texts that share a task."""
    return Workload(tuple(texts), (task,) * len(texts))


def texts(lengths: list[int]) -> list[str]:
    """One random text per length, of that many tokens with specials and without a prompt."""
    words, rng = _words(), np.random.default_rng(0)
    chosen = (rng.integers(len(words), size=max(1, length - 2)) for length in lengths)
    return [" ".join(words[i] for i in row) for row in chosen]


@functools.cache
def _words() -> list[str]:
    """Words that are one token each."""
    pieces = sorted(piece[1:] for piece in tokenizer().get_vocab() if piece.startswith("\u2581"))
    words = [word for word in pieces if word.isalpha() and word.isascii()]
    encodings = tokenizer().encode_batch_fast(words)
    return [word for word, made in zip(words, encodings, strict=True) if len(made.ids) == 3]


def log_normal_lengths(
    count: int, *, median: int = 100, shortest: int = 4, longest: int = 512
) -> list[int]:
    """Lengths as texts have them: many short, a few long."""
    drawn = np.random.default_rng(1).lognormal(np.log(median), 0.8, size=count)
    return [int(length) for length in np.clip(drawn, shortest, longest)]


def near_lengths(count: int, *, around: int = 20) -> list[int]:
    """Lengths within a quarter of `around`."""
    low, high = around - around // 4, around + around // 4
    return [int(length) for length in np.random.default_rng(2).integers(low, high + 1, size=count)]


def docstrings(count: int) -> list[str]:
    """Docstrings of this Python's standard library, evenly chosen."""
    found = sorted(set(_docstrings(Path(sysconfig.get_paths()["stdlib"]))))
    return found[:: max(1, len(found) // count)][:count]


def _docstrings(folder: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(folder.glob("[a-z]*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield text
