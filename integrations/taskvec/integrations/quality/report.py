"""What was measured, as a Markdown table, as JSON, and as a plot of quality against dim."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from taskvec.integrations.quality.measures import Measures
from taskvec.integrations.quality.probes import Probe, Table

FLOAT_BYTES = 4


class Line(NamedTuple):
    """One ranker at one dim on one collection."""

    collection: str
    ranker: str
    dim: int
    measures: Measures


class Report(NamedTuple):
    """All figures: of searches, and for each model of every task on every probe."""

    lines: Sequence[Line]
    tasks: Mapping[str, Table]


def markdown(report: Report) -> str:
    """One table a collection, then one a model with its tasks."""
    parts = []
    lines = report.lines
    for collection in dict.fromkeys(line.collection for line in lines):
        rows = [line for line in lines if line.collection == collection]
        parts += [
            f"## {collection}",
            "",
            "| ranker | dim | bytes | nDCG@10 | recall@10 | recall@100 | MRR | MAP |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(line) for line in rows),
            "",
        ]
    for model, table in report.tasks.items():
        parts += [f"## {model}, by task", "", by_task(table), ""]
    return "\n".join(parts)


def _row(line: Line) -> str:
    size = [str(line.dim), str(FLOAT_BYTES * line.dim)] if line.dim else ["", ""]
    figures = [f"{value:.3f}" for value in line.measures]
    return f"| {' | '.join([line.ranker, *size, *figures])} |"


def by_task(table: Table) -> str:
    """Rows of tasks, a column a probe, and a kind's mean where it has several probes."""
    probes = list(next(iter(table.values())))
    kinds: dict[str, list[Probe]] = {}
    for probe in probes:
        kinds.setdefault(probe.kind, []).append(probe)
    columns = {f"{probe.kind}: {probe.name}": [probe] for probe in probes}
    columns |= {f"{kind}, mean": found for kind, found in kinds.items() if len(found) > 1}
    rows = [f"| task | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for task, figures in table.items():
        cells = [_mean([figures[p] for p in found if p in figures]) for found in columns.values()]
        rows.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _mean(figures: Sequence[float]) -> str:
    return f"{sum(figures) / len(figures):.3f}" if figures else ""


def write(report: Report, folder: Path) -> None:
    """Write `quality.md`, `quality.json`, and a plot where a ranker has several dims."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.md").write_text(markdown(report) + "\n", encoding="utf-8")
    lines = report.lines
    entries = [line._replace(measures=line.measures._asdict())._asdict() for line in lines]  # type: ignore[arg-type]
    tasks = {
        model: {
            task: [{"kind": p.kind, "set": p.name, "figure": figure} for p, figure in found.items()]
            for task, found in table.items()
        }
        for model, table in report.tasks.items()
    }
    text = json.dumps({"searches": entries, "tasks": tasks}, indent=2, ensure_ascii=False)
    (folder / "quality.json").write_text(text + "\n", encoding="utf-8")
    curves = {
        key: [line for line in lines if (line.collection, line.ranker) == key]
        for key in dict.fromkeys((line.collection, line.ranker) for line in lines)
    }
    several = {key: rows for key, rows in curves.items() if len(rows) > 1}
    if several:
        _plot(several, folder / "quality.svg")


def _plot(curves: dict[tuple[str, str], list[Line]], path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (collection, ranker), rows in curves.items():
        points = sorted((line.dim, line.measures.ndcg_10) for line in rows)
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{ranker}, {collection}")
    axes.set_xscale("log", base=2)
    ticks = sorted({line.dim for rows in curves.values() for line in rows})
    axes.set_xticks(ticks, [f"{dim}\n{FLOAT_BYTES * dim} B" for dim in ticks])
    axes.set(xlabel="dim, and bytes of a float32 vector", ylabel="nDCG@10")
    axes.legend()
    figure.savefig(path)
