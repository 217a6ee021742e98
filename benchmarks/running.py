"""What a contender's worker does: load one model with one setting, encode, and time it."""

import gc
import time
from typing import Any

from benchmarks.models import Size
from benchmarks.peers import PEERS, Peer, Setting, Spec, Vectors
from benchmarks.worker import make


class Runner:
    """A contender and a clock."""

    def __init__(self, name: str, spec: Spec, size: Size) -> None:
        self._peer: Peer = make(PEERS[name].target, spec, size)

    def vectors(self, texts: list[str], tasks: list[str], setting: Setting) -> Vectors:
        """(B, D) unit vectors."""
        return self._peer.encode(texts, tasks, setting)

    def seconds(self, texts: list[str], tasks: list[str], setting: Setting) -> float:
        """Of one call with all texts."""
        gc.collect()
        start = time.perf_counter()
        self._peer.encode(texts, tasks, setting)
        return time.perf_counter() - start

    def seconds_each(self, texts: list[str], tasks: list[str], setting: Setting) -> list[float]:
        """Of one call per text."""
        gc.collect()
        taken = []
        for text, task in zip(texts, tasks, strict=True):
            start = time.perf_counter()
            self._peer.encode([text], [task], setting)
            taken.append(time.perf_counter() - start)
        return taken

    def facts(self) -> dict[str, Any]:
        """What the contender says of itself."""
        return self._peer.facts()
