"""CUDA graphs of small batches, whose kernels take longer to launch than to run."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from taskvec.core.packing import BASE, Packed

SIZES = (16, 32, 64, 128, 256, 512)  # tokens; a batch takes the next larger one
ROWS = 32
WARM_UPS = 3  # what is made at first use is no part of a recording

RECORDING = threading.Lock()  # torch allows one recording at a time in a process

Layers = TypeVar("Layers", bound=Sequence[object])
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """A graph, the batch that it reads, and the token vectors that it leaves, (size, D)."""

    graph: torch.cuda.CUDAGraph
    batch: Packed
    hidden: Tensor


class Graphs(Generic[Layers]):
    """Runs small batches as recordings, made when a size is first met."""

    def __init__(self, run: Callable[[Packed, Layers], Tensor], *, device: torch.device) -> None:
        """run: the network without anything that waits for the device, (T, D)."""
        self._run = run
        self._device = device
        self._recordings: dict[tuple[int, int], Recording] = {}
        self._works = True

    def clear(self) -> None:
        """Forget recordings: the weights that they read are about to change."""
        self._recordings.clear()

    def __call__(self, packed: Packed, layers: Layers) -> Tensor:
        """Token vectors of a batch, (T, D) or longer, valid until the next call."""
        size = next((size for size in SIZES if packed.tokens <= size), None)
        if size is None or len(packed.lengths) >= ROWS or not self._works:
            return self._run(packed, layers)
        key = size, id(layers)
        if key not in self._recordings:
            try:
                with RECORDING, torch.cuda.device(self._device):
                    self._recordings[key] = self._record(size, layers)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                # Slower is better than failing: a driver or a kernel may not allow recording.
                log.warning("CUDA graphs do not work here: short texts run without", exc_info=True)
                self._works = False
                return self._run(packed, layers)
        recording = self._recordings[key]
        place(packed, recording.batch)
        recording.graph.replay()
        return recording.hidden

    def _record(self, size: int, layers: Layers) -> Recording:
        batch = blank(size, self._device)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._run(batch, layers)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # One pool for all: no two of them run at once, and none's result outlives the next run.
        pool = next((other.graph.pool() for other in self._recordings.values()), None)
        # Another replica's thread may allocate meanwhile: only this thread's calls are held to
        # what a recording allows.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            hidden = self._run(batch, layers)
        return Recording(graph, batch, hidden)


def blank(size: int, device: torch.device) -> Packed:
    """A batch of filler alone, with room for any small one."""
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
