"""Rows and figures as a Markdown report and one JSON file."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import Contest, Row, times_as_fast
from benchmarks.models import prompts
from benchmarks.options import Options
from benchmarks.peers import OURS

MS = 1e3
GIB = 1 << 30
# Dense bfloat16 FLOP/s that the makers state.
CARD_PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
}


@dataclass
class Results:
    """Everything measured; what failed stands beside it."""

    machine: Mapping[str, object]
    options: Options
    contests: dict[str, Contest] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, contest: Contest, rows: Sequence[Row], folder: Path) -> None:
        """Rows of a contest in one dtype."""
        self.contests[contest.key] = contest
        self.rows.setdefault(contest.key, []).extend(rows)
        self.lengths[contest.key] = contest.workload.lengths(prompts(folder))

    def of(self, key: str, peer: str, dtype: str) -> Row | None:
        """A contender's row, if it finished."""
        rows = (row for row in self.rows.get(key, ()) if (row.peer, row.dtype) == (peer, dtype))
        return next((row for row in rows if row.seconds), None)


def write(results: Results, folder: Path) -> None:
    """report.md and results.json."""
    (folder / "results.json").write_text(
        json.dumps(as_json(results), indent=1, allow_nan=False) + "\n"
    )
    (folder / "report.md").write_text(markdown(results) + "\n")


def as_json(results: Results) -> dict[str, Any]:
    """What the report says and the raw seconds behind it."""
    options = asdict(results.options) | {"out": str(results.options.out)}
    contests = {
        key: {
            "title": results.contests[key].title,
            "model": asdict(results.contests[key].size),
            "texts": len(results.lengths[key]),
            "tokens": sum(results.lengths[key]),
            "rows": [_row_json(results, key, row) for row in rows],
        }
        for key, rows in results.rows.items()
    }
    return {
        "machine": results.machine,
        "options": options,
        "contests": contests,
        "figures": results.figures,
        "failures": results.failures,
    }


def _row_json(results: Results, key: str, row: Row) -> dict[str, Any]:
    told = asdict(row) | {"cosine": None if np.isnan(row.cosine) else row.cosine}
    if not row.seconds:
        return told
    ours = results.of(key, OURS, row.dtype)
    return told | {
        "median_s": row.median,
        "spread": (max(row.seconds) - min(row.seconds)) / row.median,
        "taskvec_is_times_as_fast": times_as_fast(ours, row) if ours else None,
    }


def markdown(results: Results) -> str:
    """The report, to be included as it is."""
    parts = [_head(results)]
    tables = [key for key in results.rows if "/" not in key]
    parts += [_contest(results, key) for key in tables]
    parts += [text for text in (_mixed(results), _lengths(results)) if text]
    writers = {"late": _late, "service": _service, "memory": _memory, "start": _start}
    parts += [writers[key](figure) for key, figure in results.figures.items()]
    if results.failures:
        lines = [f"- {what}: {why}" for what, why in results.failures.items()]
        parts.append("### Not measured\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is kept from ending it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)


def _head(results: Results) -> str:
    machine, options = results.machine, results.options
    versions: Any = machine["versions"]
    flags: Any = machine["flags"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [
        f"Machine: {machine['cpu']}, {options.threads} threads of {machine['cpus']} CPUs.",
        f"Flags: {', '.join(flags) or 'none of interest'}.",
        f"{machine['system']}, Python {machine['python']}; {packages}.",
    ]
    if "card" in machine:
        lines.insert(0, f"Card: {machine['card']}.")
    if options.isa:
        lines.append(
            f"oneDNN (torch, taskvec, OpenVINO) was limited to {options.isa}; ONNX Runtime has "
            "kernels of its own, which this does not limit."
        )
    return "\n".join(lines)


def _contest(results: Results, key: str) -> str:
    contest, lengths = results.contests[key], results.lengths[key]
    write = _latencies if contest.each else _card if "card" in results.machine else _throughput
    told = f"Model: {contest.size.title}. {len(lengths)} texts, {sum(lengths):,} tokens."
    parts = [f"### {contest.title}", told, write(results, key)]
    parts += [text for text in (_ceiling(results, key), _settings(results.rows[key])) if text]
    return "\n\n".join(parts)


def _throughput(results: Results, key: str) -> str:
    tokens = sum(results.lengths[key])
    rows = []
    for row in results.rows[key]:
        speed = _speed(row, tokens)
        rows.append([row.dtype, row.title, row.setting, *speed, _ratio(results, key, row)])
    head = ("precision", "contender", "batches", "tokens/s", "from … to", "taskvec is")
    return table(head, rows)


def _speed(row: Row, tokens: int) -> list[str]:
    if not row.seconds:
        return [f"failed: {row.failure}", ""]
    slowest, fastest = tokens / max(row.seconds), tokens / min(row.seconds)
    return [f"{tokens / row.median:,.0f}", f"{slowest:,.0f} to {fastest:,.0f}"]


def _ratio(results: Results, key: str, row: Row) -> str:
    ours = results.of(key, OURS, row.dtype)
    if row.peer == OURS or not ours or not row.seconds:
        return ""
    return f"{times_as_fast(ours, row):.2f} times as fast"


def _latencies(results: Results, key: str) -> str:
    rows = []
    for row in results.rows[key]:
        times = [f"failed: {row.failure}", "", ""]
        if row.seconds:
            half, most = (float(np.quantile(row.seconds, q)) * MS for q in (0.5, 0.9))
            times = [f"{half:.2f} ms", f"{most:.2f} ms", _ratio_of_medians(results, key, row)]
        rows.append([row.dtype, row.title, *times])
    return table(("precision", "contender", "p50", "p90", "taskvec is"), rows)


def _ratio_of_medians(results: Results, key: str, row: Row) -> str:
    ours = results.of(key, OURS, row.dtype)
    if row.peer == OURS or not ours:
        return ""
    return f"{row.median / ours.median:.2f} times as fast"


def _card(results: Results, key: str) -> str:
    peak = card_peak(str(results.machine["card"]))
    contest, lengths = results.contests[key], results.lengths[key]
    flops = contest.size.linear_flops(sum(lengths)) + contest.size.attention_flops(lengths)
    rows = []
    for row in results.rows[key]:
        speed = _speed(row, sum(lengths))
        share = f"{flops / row.median / peak:.0%}" if peak and row.seconds else ""
        memory = row.facts.get("peak_memory_bytes")
        used = f"{memory / GIB:.1f} GiB" if memory else ""
        rows.append([row.title, row.setting, *speed, share, used, _ratio(results, key, row)])
    head = ("contender", "batches", "tokens/s", "from … to", "of bf16 peak", "memory", "taskvec is")
    return table(head, rows)


def card_peak(name: str) -> float | None:
    """The maker's dense bfloat16 FLOP/s of a card by its name."""
    return next((peak for part, peak in CARD_PEAKS.items() if part in name), None)


def _ceiling(results: Results, key: str) -> str:
    """How much of what the matrix products reach alone is left in the whole."""
    contest, lengths = results.contests[key], results.lengths[key]
    linear = contest.size.linear_flops(sum(lengths))
    attention = contest.size.attention_flops(lengths)
    rows = []
    for row in results.rows[key]:
        ceiling = row.facts.get("ceiling")
        if row.peer == OURS and row.seconds and ceiling and not contest.each:
            most = ceiling["flops_per_s"]
            shares = [f"{flops / row.median / most:.0%}" for flops in (linear, linear + attention)]
            rows.append([row.dtype, ceiling["operator"], f"{most / 1e9:,.0f} GFLOP/s", *shares])
    if not rows:
        return ""
    head = ("precision", "ceiling", "it reaches", "taskvec, linear layers", "with attention's own")
    return table(head, rows)


def _settings(rows: Sequence[Row]) -> str:
    """What contenders say of how they ran, each thing once."""
    said: dict[str, None] = {}
    for row in rows:
        told = row.facts.get("settings")
        if row.seconds and told:
            said[f"{row.title}{', int8' if row.dtype == 'int8' else ''}: {told}."] = None
    return "\n".join(said)


def _mixed(results: Results) -> str:
    keys = [key for key in results.rows if key.startswith("mixed/")]
    rows = []
    for key in keys:
        tokens = sum(results.lengths[key])
        for row in results.rows[key]:
            speed = _speed(row, tokens)
            title = results.contests[key].title
            rows.append([title, row.title, row.setting, *speed, _ratio(results, key, row)])
    if not rows:
        return ""
    size = results.contests[keys[0]].size.title
    head = ("workload", "contender", "batches", "tokens/s", "from … to", "taskvec is")
    note = (
        "taskvec serves all tasks of a batch at once; transformers + PEFT switches its LoRA "
        "between groups of texts, the others hold one merged model per task and split."
    )
    dtype = results.rows[keys[0]][0].dtype
    return f"### Tasks mixed\n\nModel: {size}, {dtype}. {note}\n\n{table(head, rows)}"


def _lengths(results: Results) -> str:
    keys = [key for key in results.rows if key.startswith("lengths/")]
    if not keys:
        return ""
    titles = {row.peer: row.title for key in keys for row in results.rows[key]}
    dtype = results.rows[keys[0]][0].dtype
    rows = []
    for key in keys:
        found = [results.of(key, peer, dtype) for peer in titles]
        tokens = sum(results.lengths[key])
        cells = [f"{tokens / row.median:,.0f}" if row else "failed" for row in found]
        rows.append([results.contests[key].title, *cells])
    size = results.contests[keys[0]].size.title
    head = table(("tokens/s", *titles.values()), rows)
    return f"### Equal texts of growing length\n\nModel: {size}, {dtype}.\n\n{head}"


def _late(figure: dict[str, Any]) -> str:
    plain, late = (statistics.median(figure[key]) for key in ("plain_s", "late_s"))
    more = statistics.median(
        b / a for a, b in zip(figure["plain_s"], figure["late_s"], strict=True)
    )
    return (
        f"### Late chunking\n\nOne document of 8 192 tokens: {plain:.2f} s as one vector, "
        f"{late:.2f} s as {figure['chunks']} late chunks ({more - 1:+.1%}; {len(figure['late_s'])} "
        "interleaved runs of each)."
    )


def _service(figure: dict[str, Any]) -> str:
    beside, crowd = figure["beside"], figure["crowd"]
    idle = np.quantile(beside["idle_s"], 0.5) * MS
    half, most = (np.quantile(beside["busy_s"], q) * MS for q in (0.5, 0.95))
    batch = statistics.median(beside["batch_s"]) * MS
    together, apart = (
        crowd["texts"] / statistics.median(crowd[key]) for key in ("together_s", "apart_s")
    )
    rows = [
        ["an idle query, p50", f"{idle:.1f} ms"],
        ["one bulk batch", f"{batch:.1f} ms"],
        ["a query beside an endless bulk job, p50", f"{half:.1f} ms"],
        ["the same, p95", f"{most:.1f} ms"],
        [f"{crowd['texts']} queries in one call", f"{together:,.0f} texts/s"],
        [f"the same from {crowd['threads']} threads, one each", f"{apart:,.0f} texts/s"],
        ["share of the one call's throughput", f"{apart / together:.0%}"],
    ]
    told = (
        f"Model: {figure['model']}, {figure['dtype']}, token_budget {beside['token_budget']}. "
        f"Queries of 12 tokens in lane `query`."
    )
    return f"### As a service\n\n{told}\n\n{table(('taskvec', ''), rows)}"


def _memory(figure: dict[str, Any]) -> str:
    weights, imported = figure["weights"], figure["imported"]
    rows = [
        ["weights on disk", f"{weights / GIB:.2f} GiB", ""],
        ["process with its libraries", f"{imported / GIB:.2f} GiB", ""],
        *(
            [title, f"{figure[key] / GIB:.2f} GiB", f"{(figure[key] - imported) / weights:.2f}"]
            for title, key in (
                ("peak until loaded", "loaded"),
                (f"peak with a batch of {figure['tokens']} tokens", "ran"),
            )
        ),
    ]
    head = (
        "full size: 24 layers, 250 002 words, bfloat16",
        "resident",
        "as a share of the weights, libraries left out",
    )
    return f"### Peak memory\n\n{table(head, rows)}"


def _start(figure: dict[str, list[float]]) -> str:
    rows = [[f"`{name}`", f"{statistics.median(taken):.2f} s"] for name, taken in figure.items()]
    return f"### Start of a fresh process\n\n{table(('', 'median'), rows)}"
