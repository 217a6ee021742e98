"""What was found, as Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import machine
from benchmarks.report import table
from benchmarks.serve.asking import percentile
from benchmarks.serve.lanes import Lanes
from benchmarks.serve.load import Load
from benchmarks.serve.memory import LEAK, TOLD, Memory
from benchmarks.serve.mix import SHARES
from benchmarks.serve.peers import Round
from benchmarks.serve.preparing import TINY

MS = 1e3


@dataclass
class Report:
    """Figures of the parts that ran. head: what they hold for. failures: parts that broke, why."""

    head: list[str]
    load: Load | None = None
    lanes: Lanes | None = None
    peers: Sequence[Round] = ()
    memory: Memory | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether every part ran, and none found a fault of the server."""
        faults = self.load is not None and self.load.faults
        grown = self.memory is not None and not self.memory.kept
        return not (self.failures or faults or grown)


def head(model: str, dtype: str, threads: int, cpus: str) -> list[str]:
    """Lines that say what figures belong to."""
    described = machine.describe()
    versions = described["versions"]
    assert isinstance(versions, dict)  # noqa: S101 - what `describe` makes
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers"))
    machine_ = f"Machine: {described['cpu']}, {described['cpus']} CPUs. {described['system']}"
    return [
        f"Model: {model}, {dtype}, {threads} threads. {cpus}",
        f"{machine_}, Python {described['python']}, {named}.",
    ]


def as_json(report: Report) -> dict[str, Any]:
    """Every single time and sample behind the report."""
    parts: dict[str, Any] = {"head": report.head, "failures": report.failures}
    for name in ("lanes", "memory"):
        if found := getattr(report, name):
            parts[name] = vars(found)
    if report.load:
        answers = [(a.kind, a.seconds, a.waited, a.busy, a.tokens) for a in report.load.answers]
        parts["load"] = vars(report.load) | {"answers": answers}
    return parts | {"peers": [asdict(one) for one in report.peers]}


def markdown(report: Report) -> str:
    """The report, to be included as it is."""
    parts: dict[str, Callable[[], str]] = {}
    if report.load:
        parts["Many clients"] = lambda: _load(report.load)
    if report.lanes:
        parts["Queries beside bulk work"] = lambda: _lanes(report.lanes)
    if report.peers:
        parts["Other servers"] = lambda: _peers(report.peers)
    if report.memory:
        parts["Memory"] = lambda: _memory(report.memory)
    told = [f"### {title}\n\n{write()}" for title, write in parts.items()]
    broken = [f"**{part} failed: {reason}**" for part, reason in report.failures.items()]
    return "\n\n".join(["\n".join(report.head), *told, *broken])


def _load(load: Load | None) -> str:
    assert load  # noqa: S101
    rows = []
    for kind in SHARES:
        own = [answer.seconds for answer in load.answers if answer.kind == kind]
        times = [f"{MS * percentile(own, share):,.0f} ms" for share in (50, 95, 99)]
        rows.append([kind, f"{len(own):,}", *times])
    faults = "; ".join(f"{count} times {fault}" for fault, count in load.faults.items())
    told = (
        f"{load.clients} clients, {load.seconds:.0f} s, {len(load.answers):,} requests served, "
        f"{load.busy:,} refused with 429 and sent again when told, faults: {faults or 'none'}.\n"
        f"{load.tokens_s:,.0f} tokens/s; the encoder in process on the same texts: "
        f"{load.alone:,.0f}. The server has **{load.tokens_s / load.alone:.2f}** of it."
    )
    return told + "\n\n" + table(["kind", "requests", "p50", "p95", "p99"], rows)


def _lanes(lanes: Lanes | None) -> str:
    assert lanes  # noqa: S101
    rows = []
    for share in (50, 95):
        alone, beside = percentile(lanes.alone, share), percentile(lanes.beside, share)
        times = [f"{MS * alone:,.1f} ms", f"{MS * beside:,.1f} ms", f"{beside / alone:.1f}"]
        rows.append([f"p{share} of a query", *times])
    lines = (
        f"{len(lanes.alone)} queries alone, {len(lanes.beside)} beside bulk work, whose mean pass "
        f"took {MS * lanes.pass_s:,.0f} ms; it went on at {lanes.bulk_tokens_s:,.0f} tokens/s."
    )
    return f"{lines}\n\n{table(['', 'alone', 'beside bulk work', 'times'], rows)}"


def _peers(rounds: Sequence[Round]) -> str:
    rows = []
    places = dict.fromkeys((one.workload, one.clients) for one in rounds)
    for workload, clients in places:
        own = [one for one in rounds if (one.workload, one.clients) == (workload, clients)]
        ours = own[0]
        for one in own:
            figures = [f"{one.requests_s:,.1f}", f"{MS * one.p95_s:,.0f} ms"]
            ratios = [f"{ours.requests_s / one.requests_s:.2f}", f"{one.p95_s / ours.p95_s:.2f}"]
            against = ["", ""] if one is ours else ratios
            rows.append([workload, str(clients), one.server, *figures, *against])
    columns = ("request", "clients", "server", "requests/s", "p95")
    return table((*columns, "taskvec's requests/s, times", "its p95 over taskvec's"), rows)


def _memory(memory: Memory | None) -> str:
    assert memory  # noqa: S101
    slope, error = memory.growth
    low, high = min(memory.mib[memory.warm :]), max(memory.mib[memory.warm :])
    rows = [
        [f"{number:,}", f"{mib:.1f} MiB"]
        for number, mib in zip(memory.requests, memory.mib, strict=True)
        if number % TOLD == 0 or number == memory.requests[-1]
    ]
    told = ", ".join(
        f"{count:,} {'left by their client' if status == 0 else status}"
        for status, count in sorted(memory.answers.items())
    )
    faults = "; ".join(f"{count} times {fault}" for fault, count in memory.faults.items())
    verdict = (
        f"A model of {TINY.title}, float32. Requests: {told}; faults: {faults or 'none'}.\n"
        f"In the second half the process grows by {slope:+.3f} ± {error:.3f} MiB in 10,000 "
        f"requests ({'' if memory.kept else 'NOT '}within {LEAK}): {low:.1f} to {high:.1f} MiB."
    )
    return verdict + "\n\n" + table(["requests", "resident"], rows)
