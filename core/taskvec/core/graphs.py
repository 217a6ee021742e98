"""CUDA graphs of small batches, whose kernels take longer to launch than to run."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from taskvec.core.packing import BASE, Packed

SIZES = (16, 32, 64, 128, 256, 512)  # tokens; a batch takes the next larger one
ROWS = 32
WARM_UPS = 3  # what is made at first use is no part of a recording

RECORDING = threading.Lock()  # torch allows one recording at a time in a process

Layers = TypeVar("Layers", bound=Sequence[object])
Run: TypeAlias = Callable[[Packed, Layers], Tensor]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """A graph, the batch that it reads, and the token vectors that it leaves, (size, D)."""

    graph: torch.cuda.CUDAGraph
    batch: Packed
    hidden: Tensor


class Graphs(Generic[Layers]):
    """Runs small batches as recordings, made when a size is first met."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recordings: dict[tuple[int, int], Recording] = {}
        self._stream: torch.cuda.Stream | None = None
        self._failed: list[torch.cuda.CUDAGraph] = []

    def clear(self) -> None:
        """Forget recordings: the weights that they read are about to change."""
        self._recordings.clear()

    def __call__(self, run: Run[Layers], packed: Packed, layers: Layers) -> Tensor:
        """Token vectors of a batch, (T, D) or longer, valid until the next call.

        run: the network without anything that waits for the device, (T, D). It is not kept: the
        model that it belongs to holds this object.
        """
        size = next((size for size in SIZES if packed.tokens <= size), None)
        if size is None or len(packed.lengths) >= ROWS or self._failed:
            return run(packed, layers)
        key = size, id(layers)
        if key not in self._recordings and not self._recorded(key, run, layers):
            return run(packed, layers)
        recording = self._recordings[key]
        place(packed, recording.batch)
        recording.graph.replay()
        return recording.hidden

    def _recorded(self, key: tuple[int, int], run: Run[Layers], layers: Layers) -> bool:
        """Whether a recording could be made. Slower is better than failing where it could not."""
        graph = torch.cuda.CUDAGraph()
        # A recording that fails leaves its own stream current: the outer one is put back here.
        current = torch.cuda.current_stream(self._device)
        try:
            with RECORDING, torch.cuda.device(self._device), torch.cuda.stream(current):
                self._recordings[key] = self._record(graph, key[0], run, layers)
        except torch.OutOfMemoryError:
            log.info("no memory to record batches of %d tokens", key[0])
        except RuntimeError:
            # A driver or a kernel may not allow it. The graph is kept: torch may still refer to it.
            log.warning("CUDA graphs do not work here: short texts run without", exc_info=True)
            self._failed.append(graph)
            self._recordings.clear()
        else:
            return True
        torch.cuda.empty_cache()
        return False

    def _record(
        self, graph: torch.cuda.CUDAGraph, size: int, run: Run[Layers], layers: Layers
    ) -> Recording:
        batch = blank(size, self._device)
        # One stream for all, without which they could not share a pool.
        stream = self._stream = self._stream or torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                run(batch, layers)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        # One pool for all: no two of them run at once, and none's result outlives the next run.
        pool = next((other.graph.pool() for other in self._recordings.values()), None)
        # Another replica's thread may allocate meanwhile: only this thread's calls are held to
        # what a recording allows.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            hidden = run(batch, layers)
        return Recording(graph, batch, hidden)


def blank(size: int, device: torch.device) -> Packed:
    """A batch of filler alone, with room for any small one. Its lengths and runs are bounds."""
    line = torch.zeros((3, size), dtype=torch.int32, device=device)
    line[2] = BASE
    offsets = torch.full((ROWS + 1,), size, dtype=torch.int32, device=device)
    offsets[0] = 0
    return Packed(line, lengths=(size,), offsets=offsets, runs=((1, size),), fill=0, block=size)


def place(packed: Packed, batch: Packed) -> None:
    """Write a small batch into a blank or used one; what is left of it is one more row."""
    rows = len(packed.lengths)
    batch.line[:, : packed.tokens].copy_(packed.line)
    batch.offsets[: rows + 1].copy_(packed.offsets)
    batch.offsets[rows + 1 :].fill_(batch.tokens)
