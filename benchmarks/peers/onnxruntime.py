"""ONNX Runtime on the CPU, in float32 or with its dynamic int8 quantization."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.models import Size
from benchmarks.peers import Setting, Spec, Vectors
from benchmarks.peers.exporting import INPUTS, exported
from benchmarks.peers.padding import Batcher


class Merged:
    """A session per task, made when the task first occurs."""

    def __init__(self, spec: Spec, size: Size) -> None:
        self._spec, self._hidden = spec, size.hidden
        self._batcher = Batcher(spec.folder)
        self._session = functools.cache(self._load)

    def encode(self, texts: list[str], tasks: list[str], setting: Setting) -> Vectors:
        """(B, D) unit vectors."""
        out = np.empty((len(texts), self._hidden), dtype=np.float32)
        for batch in self._batcher.batches(texts, tasks, setting.batch):
            feed = dict(zip(INPUTS, (batch.ids, batch.mask), strict=True))
            out[batch.rows] = self._session(batch.task).run(None, feed)[0]
        return out

    def facts(self) -> dict[str, Any]:
        """How it was quantized."""
        dynamic = "quantize_dynamic: int8 weights per channel, uint8 activations per tensor"
        return {"settings": dynamic} if self._spec.dtype == "int8" else {}

    def _load(self, task: str) -> ort.InferenceSession:
        path = exported(self._spec, task, "onnx")
        if self._spec.dtype == "int8":
            path = _quantized(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._spec.threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _quantized(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    target = path.with_name("int8.onnx")
    if not target.exists():
        scratch = path.with_name("int8.part.onnx")
        quantize_dynamic(
            path,
            scratch,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        scratch.rename(target)
    return target
