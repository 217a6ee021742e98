"""Throughput against the length of texts and against the mix of tasks, as PNG files."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers import OURS, PEERS
from benchmarks.report import Results

Lines = dict[str, list[tuple[int, float]]]


def draw(results: Results, folder: Path) -> list[Path]:
    """The plots that the results allow for."""
    wanted = {
        "lengths/": ("lengths.png", "tokens of each text", True),
        "mixed/A/": ("mix.png", "tasks mixed in a call", False),
    }
    drawn = []
    for prefix, (name, label, logarithmic) in wanted.items():
        lines = points(results, prefix)
        if lines:
            _plot(lines, folder / name, label, logarithmic=logarithmic)
            drawn.append(folder / name)
    return drawn


def points(results: Results, prefix: str) -> Lines:
    """(x, tokens per second) of each contender over the contests whose keys begin so."""
    lines: Lines = {}
    for key, rows in results.rows.items():
        if key.startswith(prefix):
            tokens = sum(results.lengths[key])
            for row in rows:
                if row.seconds:
                    point = int(key.removeprefix(prefix)), tokens / row.median
                    lines.setdefault(row.peer, []).append(point)
    return lines


def _plot(
    lines: Mapping[str, list[tuple[int, float]]], path: Path, label: str, *, logarithmic: bool
) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and not needed to measure

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for peer, line in lines.items():
        title = PEERS[peer].title.strip("*")
        axes.plot(
            *zip(*line, strict=True), marker="o", label=title, linewidth=3 if peer == OURS else 1.5
        )
    ticks = sorted({x for line in lines.values() for x, _ in line})
    if logarithmic:
        axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set(xlabel=label, ylabel="tokens per second")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
