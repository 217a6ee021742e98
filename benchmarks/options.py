"""What a run is asked to do."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.peers import OURS, PEERS

DTYPES = ("float32", "bfloat16", "int8")
PARTS = ("A", "B", "C", "D", "E", "mixed", "lengths", "deep", "service", "memory", "start")
QUICK = tuple(part for part in PARTS if part != "deep")
ON_CARDS = ("A", "B", "mixed")
# Big blocks stay with the process: it lifts padded contenders by a tenth, and ours not at all.
TUNED_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
}


@dataclass(frozen=True)
class Options:
    """A run. dtypes: those that workload A is measured in; dtype: that of everything else."""

    full: bool
    parts: tuple[str, ...]
    peers: tuple[str, ...]
    dtypes: tuple[str, ...]
    dtype: str
    device: str
    isa: str | None
    threads: int
    out: Path

    def environment(self, name: str = OURS) -> dict[str, str]:
        """Variables of a contender's process."""
        threads = str(self.threads)
        chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if self.isa:
            chosen["ONEDNN_MAX_CPU_ISA"] = self.isa.upper()
        if name != OURS:
            chosen |= TUNED_MALLOC
        return {**os.environ, **chosen, "HF_HUB_OFFLINE": "1"}

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self.out / "logs" / f"{name}.log"


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options of a command line. Exits with a message where they make no sense."""
    parser = _parser()
    given = parser.parse_args(arguments)
    known = ON_CARDS if given.device == "cuda" else PARTS if given.full else QUICK
    parts = _names(parser, "--only", given.only, PARTS) or known
    if given.device == "cuda" and not set(parts) <= set(ON_CARDS):
        parser.error(f"--device cuda measures {', '.join(ON_CARDS)} only")
    able = [name for name, entry in PEERS.items() if given.device in entry.devices]
    peers = _names(parser, "--peers", given.peers, tuple(PEERS))
    dtype, dtypes = _dtypes(given)
    return Options(
        full=given.full,
        parts=parts,
        peers=tuple(name for name in able if name == OURS or not peers or name in peers),
        dtypes=dtypes,
        dtype=dtype,
        device=given.device,
        isa=given.isa,
        threads=given.threads or machine.usable_cpus(),
        out=given.out.absolute(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Speed against peers in the same run, on the same weights and texts.",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="some ten minutes; the default")
    size.add_argument("--full", action="store_true", help="everything, with more repeats")
    parser.add_argument("--only", metavar="PART,…", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--peers", metavar="NAME,…", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--dtype", choices=DTYPES, help="measure everything in this one alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--isa", choices=machine.ISAS, help="the most that oneDNN may use")
    parser.add_argument("--threads", type=int, help="of each contender; all CPUs by default")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder")
    return parser


def _names(
    parser: argparse.ArgumentParser, option: str, given: str | None, known: tuple[str, ...]
) -> tuple[str, ...]:
    names = tuple(filter(None, (given or "").split(",")))
    for name in names:
        if name not in known:
            parser.error(f"{option} {name!r}: use some of {', '.join(known)}")
    return names


def _dtypes(given: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """The dtype of most parts, and those of workload A."""
    if given.dtype:
        return given.dtype, (given.dtype,)
    if given.device == "cuda":
        return "bfloat16", ("bfloat16",)
    if machine.has_bfloat16(given.isa):
        return "bfloat16", DTYPES
    return "float32", ("float32", "int8")
