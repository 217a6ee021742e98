"""Peak memory of a card, as torch counts it."""

from typing import Any

import torch


def peak_memory(device: str) -> dict[str, Any]:
    """Bytes that tensors of this process took at most; nothing on a CPU."""
    if device != "cuda":
        return {}
    return {"peak_memory_bytes": torch.cuda.max_memory_allocated()}
