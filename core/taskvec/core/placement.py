"""Which device and number format a model runs in."""

import torch

from taskvec.core.errors import InputError
from taskvec.core.quantized import can_quantize

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
# Tokens per batch. On a CPU larger ones only add page faults; a GPU wants to be filled.
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 32768, "mps": 8192}


def choose_device(device: str) -> torch.device:
    """The device of a name; "auto" is CUDA, then MPS, then the CPU. Raises InputError."""
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"unknown device {device!r}: use 'auto', 'cpu', 'cuda' or 'mps'") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {device!r}: torch sees no MPS device")
    if chosen.type not in TOKEN_BUDGETS:
        raise InputError(f"unknown device {device!r}: use 'auto', 'cpu', 'cuda' or 'mps'")
    return chosen


def choose_devices(device: str) -> list[torch.device]:
    """The devices of a comma-separated list, one per replica; "cuda:*" is all CUDA devices.

    Raises InputError for an unknown or absent device, and for devices of different types: their
    replicas would not give the same vectors.
    """
    names = [name.strip() for name in device.split(",")] if isinstance(device, str) else [device]
    if len(names) > 1 and "" in names:
        raise InputError(f"devices {device!r}: a name is missing beside a comma")
    if "cuda:*" in names:
        if len(names) > 1:
            raise InputError(f"devices {device!r}: 'cuda:*' names them all, give it alone")
        if not torch.cuda.is_available():
            raise InputError("device 'cuda:*': torch sees no CUDA device")
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    chosen = [choose_device(name) for name in names]
    if len({place.type for place in chosen}) > 1:
        raise InputError(f"devices {device!r}: use devices of one type")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto" is bfloat16 where the hardware multiplies it, else float32.

    "int8" is that of a CPU's weights; the rest of the model is what "auto" gives.
    """
    if dtype == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: use 'auto' or one of {tuple(DTYPES)}")
    if dtype == "int8":
        _check_int8(device)
    return DTYPES[dtype]


def _check_int8(device: torch.device) -> None:
    if device.type != "cpu":
        raise InputError(f"dtype 'int8' is for CPUs: use 'auto' on {device}")
    if not can_quantize(choose_dtype("auto", device)):
        raise InputError("dtype 'int8': this torch or CPU has no int8 product, use 'auto'")


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    return False
