"""From what a caller hands in to rows that the engine can run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskvec.core.checkpoint import Lora
from taskvec.core.embedder import Overflow, Span, TaskArgument
from taskvec.core.errors import LengthError
from taskvec.core.inputs import check_overflow, check_task, check_tasks, check_text, check_texts
from taskvec.core.tasks import Task, Tasks
from taskvec.core.tokenizer import Ids, Tokenizer
from taskvec.core.windows import Window, check_spans, token_ranges, windows

MAX_OVERLAP = 512


@dataclass(frozen=True)
class Prepared:
    """A call's rows. slots: how many vectors they give."""

    rows: list[Window]
    tasks: list[Task | None]
    slots: int


class Preparer:
    """Checks, prompts, tokenizes and cuts. Methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    def task(self, name: str, prompt: str, lora: Lora) -> Task:
        """A task, its prompt measured in tokens."""
        [ids] = self._tokenizer.ids([prompt])
        return Task(name, prompt, lora, head=len(ids) - 1)

    def texts(
        self, tasks: Tasks, texts: str | Sequence[str], task: TaskArgument, overflow: Overflow
    ) -> Prepared:
        """One row per text. Raises InputError, LengthError where `overflow` is "error"."""
        check_overflow(overflow)
        ids, found = self._tokenize(tasks, texts, task)
        if overflow == "error":
            self._refuse_long(ids)
        rows = [self._truncated(row) for row in ids]
        whole = [Window(row, ((0, len(row), slot),)) for slot, row in enumerate(rows)]
        return Prepared(whole, found, len(rows))

    def chunks(
        self, tasks: Tasks, document: str, spans: Sequence[Span], task: str | None
    ) -> Prepared:
        """One row per window of the document, one slot per span. Raises InputError."""
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
        return Prepared(rows, [found] * len(rows), len(checked))

    def counts(self, tasks: Tasks, texts: str | Sequence[str], task: TaskArgument) -> list[int]:
        """Tokens of each whole text, specials and prompt included."""
        ids, _ = self._tokenize(tasks, texts, task)
        return [len(row) for row in ids]

    def _tokenize(
        self, tasks: Tasks, texts: str | Sequence[str], task: TaskArgument
    ) -> tuple[list[Ids], list[Task | None]]:
        checked = check_texts(texts)
        names = check_tasks(task, len(checked), tasks.names)
        found = tasks.find(names, max_tokens=self.max_tokens)
        pairs = zip(checked, found, strict=True)
        prompted = [task.prompt + text if task else text for text, task in pairs]
        return self._tokenizer.ids(prompted), found

    def _refuse_long(self, ids: Sequence[Ids]) -> None:
        for i, row in enumerate(ids):
            if len(row) > self.max_tokens:
                raise LengthError(
                    f"texts[{i}] has {len(row)} tokens: the context holds {self.max_tokens}"
                )

    def _truncated(self, ids: Ids) -> Ids:
        """The beginning of a text that is too long, with its EOS."""
        if len(ids) <= self.max_tokens:
            return ids
        return np.concatenate([ids[: self.max_tokens - 1], ids[-1:]])
