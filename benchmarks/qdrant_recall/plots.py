"""Recall against memory and against time, as a PNG file."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.qdrant_recall.measuring import Found
from benchmarks.qdrant_recall.report import MS, Run
from benchmarks.qdrant_recall.searches import K

MARKERS = {"none": "o", "scalar": "s", "binary": "^"}


def lines(run: Run) -> dict[tuple[int, str], list[Found]]:
    """Searches in two stages that end with the full dim, by first stage, fewest candidates up."""
    found: dict[tuple[int, str], list[Found]] = defaultdict(list)
    for one in run.found:
        if one.search.full == run.dims[-1] and not one.search.rescored:
            found[one.search.small, one.search.quantisation].append(one)
    return {
        first: sorted(line, key=lambda one: one.search.oversampling)
        for first, line in found.items()
    }


def draw(run: Run, path: Path) -> None:
    """Two panels that share their recall."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and not needed to measure

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.ticker import LogLocator, ScalarFormatter  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    for (dim, kind), line in lines(run).items():
        style: dict[str, Any] = {
            "marker": MARKERS[kind],
            "color": f"C{run.dims.index(dim)}",
            "label": f"{dim}, {kind.replace('none', 'float32')}",
            "linewidth": 1,
            "markersize": 5,
        }
        shares = [one.recall for one in line]
        left.plot([one.memory_bytes for one in line], shares, **style)
        right.plot([one.median_s * MS for one in line], shares, **style)
    for axes, value in ((left, run.plain.memory_bytes), (right, run.plain.median_s * MS)):
        axes.plot(
            [value], [run.plain.recall], marker="*", color="black", markersize=12, label="one stage"
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.set(xlabel="bytes in memory of a passage, graph included", ylabel=f"recall@{K}")
    right.set(xlabel="ms of a query, median")
    right.legend(fontsize="small", title="first stage")
    figure.savefig(path, dpi=150)
    plt.close(figure)
