"""What was found, as Markdown and JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.qdrant_recall.measuring import Found
from benchmarks.qdrant_recall.searches import OVERSAMPLING, K, Search
from benchmarks.report import table

MS = 1e3


@dataclass(frozen=True)
class Run:
    """A run and its figures. described: what they hold for, such as machine and model, by name."""

    described: dict[str, Any]
    found: Sequence[Found]

    def of(self, search: Search) -> Found | None:
        """A search's figures."""
        return next((one for one in self.found if one.search == search), None)

    @property
    def dims(self) -> tuple[int, ...]:
        """Of the searches in one stage, ascending."""
        return tuple(sorted({one.search.small for one in self.found}))

    @property
    def plain(self) -> Found:
        """The search that others are held against: one stage, full dim, float32, with a graph."""
        [plain] = [one for one in self.found if one.search == Search(self.dims[-1])]
        return plain


def write(run: Run, folder: Path) -> None:
    """recall.md and recall.json."""
    (folder / "recall.json").write_text(json.dumps(as_json(run), indent=1) + "\n")
    (folder / "recall.md").write_text(markdown(run) + "\n")


def as_json(run: Run) -> dict[str, Any]:
    """Every search's figures."""
    return run.described | {"k": K, "searches": [_as_json(run, one) for one in run.found]}


def _as_json(run: Run, one: Found) -> dict[str, Any]:
    return one.search._asdict() | {
        "recall": one.recall,
        "recall_of_full_dim": one.recall_of_all,
        "median_ms": one.median_s * MS,
        "times_plain": one.median_s / run.plain.median_s,
        "vector_bytes": one.search.memory_bytes,
        "graph_bytes": one.graph_bytes,
        "disk_bytes": one.search.disk_bytes,
    }


def markdown(run: Run) -> str:
    """The report, to be included as it is."""
    return "\n\n".join([_head(run), _one_stage(run), *_two_stages(run)])


def _head(run: Run) -> str:
    told = run.described
    machine = told["machine"]
    load = "unknown" if told["load"] is None else f"{told['load']:.1f}"
    return (
        f"Model: {told['model']}. {told['passages']:,} passages of at most {told['max_tokens']} "
        f"tokens, {told['queries']:,} queries. qdrant-edge-py {told['engine']}.\n"
        f"Machine: {machine['cpu']}, one thread of {machine['cpus']} CPUs, load {load} before the "
        f"run. {machine['system']}, Python {machine['python']}, numpy "
        f"{machine['versions']['numpy']}."
    )


def _one_stage(run: Run) -> str:
    rows = []
    for one in run.found:
        if one.search.full is None:
            way = "exact, no graph" if one.search.exact else _title(one.search)
            figures = [_percent(one.recall), _percent(one.recall_of_all)]
            rows.append([way, *_bytes(one), *figures, *_times(run, one)])
    head = (
        *("vector", "in memory", "its graph", "on disk", f"recall@{K}"),
        *("of the full dim's", "time", "of plain's"),
    )
    return f"### In one stage\n\n{table(head, rows)}"


def _two_stages(run: Run) -> Iterator[str]:
    for full in reversed(run.dims[1:]):
        firsts = list(
            dict.fromkeys(
                one.search._replace(oversampling=1) for one in run.found if one.search.full == full
            )
        )
        found = [[run.of(s._replace(oversampling=o)) for o in OVERSAMPLING] for s in firsts]
        rows = [
            [_title(first), *_bytes(line[0]), *(_cell(run, one) for one in line)]
            for first, line in zip(firsts, found, strict=True)
            if line[0] is not None
        ]
        head = (
            "first stage",
            "in memory",
            "its graph",
            "on disk",
            *(f"x{o}" for o in OVERSAMPLING),
        )
        yield f"### Candidates compared again by {full} dims\n\n{table(head, rows)}"


def _title(search: Search) -> str:
    kind = {"none": "float32"}.get(search.quantisation, search.quantisation)
    own = search.rescored or search.full == search.small
    return f"{search.small}, {kind}{', re-scored by its float32' if own else ''}"


def _bytes(one: Found | None) -> list[str]:
    if one is None:
        return ["", "", ""]
    sizes = (one.search.memory_bytes, one.graph_bytes, one.search.disk_bytes)
    return [f"{size:,.0f}" for size in sizes]


def _cell(run: Run, one: Found | None) -> str:
    return f"{_percent(one.recall)}, {_ratio(run, one)}" if one else ""


def _times(run: Run, one: Found) -> list[str]:
    return [f"{one.median_s * MS:.2f} ms", _ratio(run, one)]


def _ratio(run: Run, one: Found) -> str:
    return f"{one.median_s / run.plain.median_s:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
