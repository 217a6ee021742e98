"""OpenVINO on the CPU in float32, bfloat16 or int8, one request after another or side by side."""

import functools
from typing import Any

import numpy as np
import openvino as ov

from benchmarks import workloads
from benchmarks.models import Size
from benchmarks.peers import Setting, Spec, Vectors
from benchmarks.peers.exporting import exported
from benchmarks.peers.openvino_int8 import quantize
from benchmarks.peers.padding import Batcher

# Beside int8 products everything else runs in the fastest format the CPU has.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
SAMPLE = 16  # texts that int8 ranges are taken from


class Merged:
    """A compiled model per task and number of streams, made when first needed."""

    def __init__(self, spec: Spec, size: Size) -> None:
        self._spec, self._hidden = spec, size.hidden
        self._batcher = Batcher(spec.folder)
        self._core = ov.Core()
        self._queue = functools.cache(self._load)

    def encode(self, texts: list[str], tasks: list[str], setting: Setting) -> Vectors:
        """(B, D) unit vectors."""
        out = np.empty((len(texts), self._hidden), dtype=np.float32)
        queues = {task: self._queue(task, setting.streams) for task in dict.fromkeys(tasks)}
        for batch in self._batcher.batches(texts, tasks, setting.batch):
            inputs = [batch.ids, batch.mask]
            queues[batch.task].start_async(inputs, userdata=(out, batch.rows))
        for queue in queues.values():
            queue.wait_all()
        return out

    def facts(self) -> dict[str, Any]:
        """How it was quantized."""
        fixed = (
            f"uint8 activations per tensor, ranges from {SAMPLE} texts; int8 weights per channel"
        )
        return {"settings": fixed} if self._spec.dtype == "int8" else {}

    def _load(self, task: str, streams: int) -> ov.AsyncInferQueue:
        graph = self._core.read_model(exported(self._spec, task, "openvino"))
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self._spec.dtype],
            "INFERENCE_NUM_THREADS": self._spec.threads,
            "NUM_STREAMS": streams,
        }
        if self._spec.dtype == "int8":
            sample = workloads.texts(workloads.log_normal_lengths(SAMPLE))
            batches = self._batcher.batches(sample, [task] * SAMPLE, 1)
            quantize(self._core, graph, [[batch.ids, batch.mask] for batch in batches])
        queue = ov.AsyncInferQueue(self._core.compile_model(graph, "CPU", options), streams)
        queue.set_callback(_keep)
        return queue


def _keep(request: ov.InferRequest, where: tuple[Vectors, list[int]]) -> None:
    out, rows = where
    out[rows] = request.get_output_tensor(0).data
