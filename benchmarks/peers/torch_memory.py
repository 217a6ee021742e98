"""Peak memory of a card, as torch counts it."""

from typing import Any

import torch


def peak_memory(device: str) -> dict[str, Any]:
    """Bytes that this process's tensors took at most since last asked; nothing on a CPU."""
    if device != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_memory_bytes": peak}
