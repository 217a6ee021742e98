"""taskvec itself, through its public interface and with its default settings."""

from collections.abc import Sequence
from typing import Any

from benchmarks.ceiling import Ceiling, measured_aside
from benchmarks.models import Size
from benchmarks.peers import Setting, Spec, Vectors
from benchmarks.peers.torch_memory import peak_memory
from taskvec.core import Encoder
from taskvec.core.placement import TOKEN_BUDGETS


class Ours:
    """An encoder, and the ceiling of the process it lives in."""

    def __init__(self, spec: Spec, size: Size) -> None:
        self._ceiling: Ceiling | None = measured_aside(size, spec.dtype, spec.device)
        self._encoder = Encoder.load(spec.folder, device=spec.device, dtype=spec.dtype)
        self._device = spec.device

    def encode(self, texts: list[str], tasks: list[str], setting: Setting) -> Vectors:  # noqa: ARG002
        """(B, D) unit vectors."""
        return self._encoder.encode(texts, task=tasks)

    def encode_late(self, document: str, spans: Sequence[tuple[int, int]], task: str) -> Vectors:
        """(K, D) unit vectors, late-chunked."""
        return self._encoder.encode_chunks(document, spans, task=task)

    def facts(self) -> dict[str, Any]:
        """Batches, the ceiling, peak memory."""
        return {
            "settings": f"token_budget {TOKEN_BUDGETS[self._device]}",
            "ceiling": self._ceiling,
            **peak_memory(self._device),
        }
