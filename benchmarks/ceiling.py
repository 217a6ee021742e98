"""What the machine's matrix products reach at a model's own shapes, to hold speeds against."""

import statistics
import threading
import time
from collections.abc import Callable
from typing import TypedDict

import torch

from benchmarks.models import Size

TOKENS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16384, 32768)}
REPEATS = 5


class Ceiling(TypedDict):
    """FLOP/s of one layer's linear layers in the weights that they occur, and how measured."""

    flops_per_s: float
    operator: str
    tokens: list[int]


def measured_aside(size: Size, dtype: str, device: str) -> Ceiling | None:
    """The ceiling, measured in a thread that ends with its pool of OpenMP threads."""
    found: list[Ceiling | None] = []
    thread = threading.Thread(target=lambda: found.append(measure(size, dtype, device)))
    thread.start()
    thread.join()
    return found[0] if found else None


def measure(size: Size, dtype: str, device: str) -> Ceiling:
    """Each of the four shapes at the number of tokens that suits it best."""
    seconds_per_token, best = 0.0, []
    for out, width in size.linears:
        timed = {
            tokens: _seconds(tokens, out, width, dtype, device) / tokens
            for tokens in TOKENS[device]
        }
        tokens = min(timed, key=timed.__getitem__)
        best.append(tokens)
        seconds_per_token += timed[tokens]
    return {
        "flops_per_s": size.linear_flops(1) / size.layers / seconds_per_token,
        "operator": "torch._int_mm" if dtype == "int8" else "torch.nn.functional.linear",
        "tokens": best,
    }


@torch.inference_mode()
def _seconds(tokens: int, out: int, width: int, dtype: str, device: str) -> float:
    product = _product(tokens, out, width, dtype, device)
    product(), product()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        product()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _product(tokens: int, out: int, width: int, dtype: str, device: str) -> Callable[[], object]:
    if dtype == "int8":
        x = torch.randint(-100, 100, (tokens, width), dtype=torch.int8, device=device)
        weight = torch.randint(-100, 100, (out, width), dtype=torch.int8, device=device).T
        return lambda: _waited(torch._int_mm(x, weight))
    kind = getattr(torch, dtype)
    x = torch.randn(tokens, width, device=device, dtype=kind)
    weight = torch.randn(out, width, device=device, dtype=kind)
    return lambda: _waited(torch.nn.functional.linear(x, weight))


def _waited(result: torch.Tensor) -> torch.Tensor:
    if result.is_cuda:
        torch.cuda.synchronize()
    return result
