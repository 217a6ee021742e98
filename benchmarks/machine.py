"""What machine and versions the figures belong to."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FLAGS = (
    *("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2"),
    *("asimd", "bf16", "i8mm"),
)
# oneDNN's names, ascending.
ISAS = (
    *("sse41", "avx", "avx2", "avx512_core", "avx512_core_vnni", "avx512_core_bf16"),
    *("avx512_core_fp16", "avx512_core_amx"),
)
PACKAGES = (
    *("torch", "transformers", "peft", "sentence-transformers", "onnxruntime", "openvino"),
    *("tokenizers", "numpy"),
)


def describe() -> dict[str, object]:
    """The CPU, its flags that matter here, and versions."""
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cpus": usable_cpus(),
        "flags": flags(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flags() -> list[str]:
    """The CPU's flags that decide how fast it multiplies."""
    found = set((_cpu_field("flags") or _cpu_field("Features")).split())
    return [flag for flag in FLAGS if flag in found]


def has_bfloat16(isa: str | None) -> bool:
    """Whether the CPU multiplies bfloat16, under an upper limit of its instruction set."""
    allowed = isa is None or ISAS.index(isa) >= ISAS.index("avx512_core_bf16")
    return allowed and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags())


def _cpu_field(name: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    values = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(values, "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
