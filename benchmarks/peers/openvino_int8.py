"""Int8 for OpenVINO: fixed ranges from a few texts, as its tool nncf makes them.

The graph gets the same FakeQuantize nodes that nncf would insert, here because that is a further
package. Weight-only int8 with dynamically quantized activations was slower in every setting.
"""

from collections.abc import Iterable

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

Feed = list[NDArray[np.int64]]


def quantize(core: ov.Core, graph: ov.Model, samples: Iterable[Feed]) -> None:
    """Uint8 activations per tensor and int8 weights per channel for every linear layer."""
    ranges = _observed(core, graph, samples)
    for node, (low, high) in zip(_linears(graph), ranges, strict=True):
        fake = _fake(node.input_value(0), low, high, levels=256)
        node.input(0).replace_source_output(fake.output(0))
        weight = node.input_value(1).get_node()
        edge = np.abs(weight.data).max(axis=1, keepdims=True)
        fake = _fake(weight.output(0), -edge, edge, levels=255)
        node.input(1).replace_source_output(fake.output(0))


def _linears(graph: ov.Model) -> list[ov.Node]:
    return [
        node
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "MatMul"
        and node.input_value(1).get_node().get_type_name() == "Constant"
        and len(node.input_value(1).get_shape()) == 2
    ]


def _observed(core: ov.Core, graph: ov.Model, samples: Iterable[Feed]) -> NDArray[np.float32]:
    """Least and greatest input of each linear layer, (layers, 2)."""
    axes = ops.constant(np.array([0, 1, 2]))
    edges = [
        reduce(node.input_value(0), axes, keep_dims=False)
        for node in _linears(graph)
        for reduce in (ops.reduce_min, ops.reduce_max)
    ]
    results = [ops.result(edge) for edge in edges]
    observer = core.compile_model(ov.Model(results, graph.get_parameters()), "CPU")
    seen = np.array([[float(x) for x in observer(feed).values()] for feed in samples])
    seen = seen.reshape(len(seen), -1, 2)
    return np.stack([seen[..., 0].min(axis=0), seen[..., 1].max(axis=0)], axis=1).astype(np.float32)


def _fake(source: ov.Output, low: object, high: object, *, levels: int) -> ov.Node:
    edges = [ops.constant(np.asarray(edge, dtype=np.float32)) for edge in (low, high)]
    return ops.fake_quantize(source, *edges, *edges, levels)
