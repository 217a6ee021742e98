"""`python -m benchmarks.postgres`: what an attached column costs, and how fast it is filled."""

import argparse
import os
from collections.abc import Iterator, Sequence

from benchmarks import machine
from benchmarks.postgres import filling, loading, writes
from benchmarks.postgres.filling import Filled
from benchmarks.postgres.loading import Loaded
from benchmarks.postgres.server import fresh_server
from benchmarks.postgres.writes import AGAIN, ATTACHED, PLAIN, STATEMENT, WRITES, Costs
from benchmarks.progress import say
from benchmarks.report import table

MIB = 1 << 20
PARTS = ("writes", "filling", "loading")


def main() -> None:
    """Measure on a fresh server, print Markdown."""
    given = _parse()
    repeats = 3 if given.quick else 9
    parts = given.only or PARTS
    print(f"{_machine()}\n", flush=True)
    with fresh_server(quiet=True) as server:
        if "writes" in parts:
            print(*_writes(writes.measure(server.dsn, given.rows, repeats)), sep="\n", flush=True)
    with fresh_server() as server:
        if "filling" in parts:
            print(*_filling(filling.measure(server.dsn, given.rows)), sep="\n", flush=True)
        if "loading" in parts:
            loaded = loading.measure(server.dsn, max(given.rows // 10, 1), repeats)
            print(*_loading(loaded), sep="\n", flush=True)
    say("done")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 repeats instead of 9")
    parser.add_argument("--rows", type=int, default=100_000, help="of each table (100000)")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="some parts instead of all")
    return parser.parse_args()


def _machine() -> str:
    found = machine.describe()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"Machine: {found['cpu']}, {found['cpus']} CPUs, load {load:.1f} before the run. "
        f"{found['system']}, Python {found['python']}."
    )


def _writes(costs: Costs) -> Iterator[str]:
    yield f"### Writes of {costs.rows:,} rows in one statement\n"
    yield table(
        ["write", "plain table", "another plain one", "attached", "trigger by statement"],
        [_write(costs, write) for write in WRITES],
    )
    yield "\nThe same by the server's CPU time, which a busy machine blurs less:\n"
    yield table(
        ["write", "another plain one", "attached", "trigger by statement"],
        [[write, *_ratios(costs, write, cpu=True)] for write in WRITES],
    )
    yield (
        f"\nThe plain table's median, and the others as times of it: median (least to most) of "
        f"{len(costs.taken['INSERT'][PLAIN])} neighbouring runs. The second plain table shows "
        "the noise; the last column is a trigger with transition tables, for UPDATE alone. fsync "
        "and autovacuum are off.\n"
    )


def _write(costs: Costs, write: str) -> list[str]:
    return [write, f"{costs.median(write, PLAIN):.2f} s", *_ratios(costs, write, cpu=False)]


def _ratios(costs: Costs, write: str, *, cpu: bool) -> list[str]:
    tables = [AGAIN, ATTACHED, *([STATEMENT] if write.startswith("UPDATE") else [])]
    cells = [_times(costs.times(write, name, cpu=cpu)) for name in tables]
    return cells + [""] * (3 - len(cells))


def _times(ratios: Sequence[float]) -> str:
    middle = ratios[len(ratios) // 2]
    return f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _filling(found: Sequence[Filled]) -> Iterator[str]:
    yield f"### One worker, {found[0].rows:,} rows, an encoder that answers at once\n"
    head = ["rows", "batch", "time", "rows/s", "memory after a batch", "after a tenth", "at most"]
    yield table(
        head,
        [
            [
                one.title,
                str(one.batch),
                f"{one.seconds:.1f} s",
                f"{one.rows / one.seconds:,.0f}",
                *(f"{b / MIB:.1f} MiB" for b in (one.rss_first, one.rss_tenth, one.rss_peak)),
            ]
            for one in found
        ],
    )
    yield ""


def _loading(found: Sequence[Loaded]) -> Iterator[str]:
    yield f"### Loading {found[0].rows:,} vectors\n"
    yield table(["store", "its own insert", "binary COPY", "COPY is"], map(_load, found))
    yield (
        "\nInto the same emptied table of the store, in turn: medians, and the ratio's median "
        "(least to most).\n"
    )


def _load(one: Loaded) -> list[str]:
    if one.failure:
        return [one.peer, one.failure, "", ""]
    ratios = sorted(t / c for t, c in zip(one.theirs, one.copied, strict=True))
    medians = [f"{sorted(times)[len(times) // 2]:.2f} s" for times in (one.theirs, one.copied)]
    middle = ratios[len(ratios) // 2]
    faster = f"{middle:.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    return [one.peer, *medians, faster]


if __name__ == "__main__":
    main()
