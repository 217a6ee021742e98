"""Queries beside a bulk job, and many threads with a query each."""

import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from taskvec.core import Encoder
from taskvec.core.placement import TOKEN_BUDGETS

TASK = "retrieval.query"
PAUSE_S = 0.02  # between two queries, as they come in


class Beside(TypedDict):
    """Seconds. batch_s: of bulk batches as large as the token budget."""

    token_budget: int
    idle_s: list[float]
    busy_s: list[float]
    batch_s: list[float]


class Crowd(TypedDict):
    """Seconds for all texts."""

    token_budget: int
    threads: int
    texts: int
    together_s: list[float]
    apart_s: list[float]


class Service:
    """Lives in a worker."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._encoder = Encoder.load(folder, device="cpu", dtype=dtype)
        self._budget = TOKEN_BUDGETS["cpu"]

    def beside_bulk(self, queries: Sequence[str], bulk: Sequence[str]) -> Beside:
        """Each query's latency on an idle machine and beside an endless bulk job."""
        batch = self._one_batch(bulk)
        self._encoder.encode(batch)
        batch_s = [self._seconds(lambda: self._encoder.encode(batch)) for _ in range(5)]
        idle = self._latencies(queries)
        done = threading.Event()
        thread = threading.Thread(target=self._saturate, args=(list(bulk), done))
        thread.start()
        try:
            time.sleep(max(batch_s))
            busy = self._latencies(queries)
        finally:
            done.set()
            thread.join()
        return {
            "token_budget": self._budget,
            "idle_s": idle,
            "busy_s": busy,
            "batch_s": batch_s,
        }

    def crowd(self, texts: Sequence[str], threads: int, repeats: int) -> Crowd:
        """All texts in one call, against one call per text from many threads."""
        together, apart = [], []
        with ThreadPoolExecutor(threads) as pool:
            for turn in range(repeats + 1):
                whole = self._seconds(lambda: self._encoder.encode(list(texts), task=TASK))
                single = self._seconds(lambda: list(pool.map(self._query, texts)))
                if turn:
                    together.append(whole)
                    apart.append(single)
        return {
            "token_budget": self._budget,
            "threads": threads,
            "texts": len(texts),
            "together_s": together,
            "apart_s": apart,
        }

    def _query(self, text: str) -> None:
        self._encoder.encode(text, task=TASK, lane="query")

    def _latencies(self, queries: Sequence[str]) -> list[float]:
        taken = []
        for query in queries:
            taken.append(self._seconds(functools.partial(self._query, query)))
            time.sleep(PAUSE_S)
        return taken

    def _saturate(self, bulk: list[str], done: threading.Event) -> None:
        while not done.is_set():
            self._encoder.encode(bulk)

    def _one_batch(self, bulk: Sequence[str]) -> list[str]:
        """As many texts as the token budget holds."""
        counts = self._encoder.count_tokens(bulk)
        total, batch = 0, []
        for text, count in zip(bulk, counts, strict=True):
            if total + count <= self._budget:
                batch.append(text)
                total += count
        return batch

    @staticmethod
    def _seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
