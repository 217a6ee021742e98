"""From what a caller hands in to rows that the engine can run."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taskvec.core.embedder import Overflow, Span, TaskArgument
from taskvec.core.errors import LengthError
from taskvec.core.inputs import check_overflow, check_task, check_tasks, check_text, check_texts
from taskvec.core.tasks import Task, Tasks
from taskvec.core.tokenizer import Ids, Tokenizer
from taskvec.core.windows import Window, check_spans, token_ranges, windows

if TYPE_CHECKING:
    from taskvec.core.checkpoint import Lora

MAX_OVERLAP = 512
# A slice takes some 100 ms to tokenize, which is how soon Ctrl-C acts; it holds enough batches to
# sort rows by length, and is small beside the vectors it gives.
SLICE_TEXTS = 1024
SLICE_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class Slice:
    """Rows of a call, longest first, each with its task. seconds: what tokenizing them took."""

    windows: list[Window]
    tasks: list[Task | None]
    seconds: float


@dataclass(frozen=True)
class Job:
    """A checked call. slots: how many vectors it gives. rows: how many rows the slices have.

    slices: tokenizes a slice whenever one is asked for; raises LengthError at a text that is too
    long, where that was not to be cut.
    """

    slots: int
    rows: int
    slices: Iterator[Slice]


class Preparer:
    """Checks, prompts, tokenizes and cuts. Methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    def task(self, name: str, prompt: str, lora: "Lora") -> Task:
        """A task, its prompt measured in tokens."""
        [ids] = self._tokenizer.ids([prompt])
        return Task(name, prompt, lora, head=len(ids) - 1)

    def texts(
        self, tasks: Tasks, texts: str | Sequence[str], task: TaskArgument, overflow: Overflow
    ) -> Job:
        """One row per text. Raises InputError at once, before anything is tokenized."""
        check_overflow(overflow)
        checked, found = self._checked(tasks, texts, task)
        slices = self._slices(checked, found, cut=overflow == "truncate")
        return Job(len(checked), len(checked), slices)

    def chunks(self, tasks: Tasks, document: str, spans: Sequence[Span], task: str | None) -> Job:
        """One row per window of the document, one slot per span. Raises InputError."""
        start = time.perf_counter()
        check_task(task, tasks.names)
        checked = check_spans(spans, len(check_text(document)))
        [found] = tasks.find([task], max_tokens=self.max_tokens)
        prompt = found.prompt if found else ""
        tokens = self._tokenizer.tokens(prompt + document)
        rows = windows(
            tokens.ids,
            token_ranges(tokens, checked, len(prompt)),
            head=tokens.head(len(prompt)),
            max_tokens=self.max_tokens,
            overlap=min(MAX_OVERLAP, self.max_tokens // 4),
        )
        rows.sort(key=_length, reverse=True)
        part = Slice(rows, [found] * len(rows), time.perf_counter() - start)
        return Job(len(checked), len(rows), iter([part]))

    def counts(self, tasks: Tasks, texts: str | Sequence[str], task: TaskArgument) -> list[int]:
        """Tokens of each whole text, specials and prompt included."""
        checked, found = self._checked(tasks, texts, task)
        return [len(row) for row in self._ids(checked, found)]

    def _checked(
        self, tasks: Tasks, texts: str | Sequence[str], task: TaskArgument
    ) -> tuple[list[str], list[Task | None]]:
        checked = check_texts(texts)
        names = check_tasks(task, len(checked), tasks.names)
        return checked, tasks.find(names, max_tokens=self.max_tokens)

    def _slices(
        self, texts: Sequence[str], tasks: Sequence[Task | None], *, cut: bool
    ) -> Iterator[Slice]:
        for start, end in _ranges(texts):
            begin = time.perf_counter()
            ids = self._ids(texts[start:end], tasks[start:end])
            rows = [self._row(slot, row, cut=cut) for slot, row in enumerate(ids, start)]
            # The longest first: whatever memory they need is asked for at once, and several
            # replicas end at the same time.
            rows.sort(key=_length, reverse=True)
            found = [tasks[row.pieces[0][2]] for row in rows]
            yield Slice(rows, found, time.perf_counter() - begin)

    def _ids(self, texts: Sequence[str], tasks: Sequence[Task | None]) -> list[Ids]:
        pairs = zip(texts, tasks, strict=True)
        return self._tokenizer.ids([task.prompt + text if task else text for text, task in pairs])

    def _row(self, slot: int, ids: Ids, *, cut: bool) -> Window:
        """A text as a row; one that is too long keeps its beginning and its EOS."""
        if len(ids) > self.max_tokens:
            if not cut:
                raise LengthError(
                    f"texts[{slot}] has {len(ids)} tokens: the context holds {self.max_tokens}"
                )
            ids = np.concatenate([ids[: self.max_tokens - 1], ids[-1:]])
        return Window(ids, ((0, len(ids), slot),))


def _length(window: Window) -> int:
    return len(window.ids)


def _ranges(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where slices of the texts begin and end; a text longer than a slice is one by itself."""
    start = size = 0
    for i, text in enumerate(texts):
        full = i - start == SLICE_TEXTS or size + len(text) > SLICE_CHARACTERS
        if full and i > start:
            yield start, i
            start, size = i, 0
        size += len(text)
    if start < len(texts):
        yield start, len(texts)
