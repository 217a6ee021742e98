"""Run what was asked for, write the report as it grows."""

import functools
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import groupby
from pathlib import Path

from benchmarks import machine, memory, parts, plots, report, start, workloads
from benchmarks.contest import Contest, hold, loaded, references
from benchmarks.models import WIDE, Size
from benchmarks.options import Options, parse
from benchmarks.peers import Spec
from benchmarks.progress import say
from benchmarks.report import Results
from benchmarks.worker import Worker, WorkerError
from benchmarks.workloads import log_normal_lengths, texts


def main() -> None:
    """Measure; print where the report lies and what it says."""
    options = parse()
    described = machine.describe()
    if options.device == "cuda":
        described["card"] = _card()
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(described, options)
    for part, measure in _measurements(options).items():
        try:
            measure(results)
        except (WorkerError, OSError) as error:
            results.failures[part] = str(error)
            say(f"{part} failed: {error}")
        report.write(results, options.out)
    _draw(results)
    print(report.markdown(results))
    say(f"written to {options.out}: report.md, results.json")


def _card() -> str:
    """The first card's name. Exits with a message where there is none."""
    import torch  # noqa: PLC0415 - without a card nothing here needs it

    if not torch.cuda.is_available():
        raise SystemExit(
            f"--device cuda: torch {torch.__version__} sees no CUDA device here; "
            "run it on a machine with one, or `make bench` for the CPU's tables"
        )
    return str(torch.cuda.get_device_name(0))


def _measurements(options: Options) -> dict[str, Callable[[Results], None]]:
    """What to run, in order."""
    found: dict[str, Callable[[Results], None]] = {}
    for size, group in groupby(parts.contests(options), lambda contest: contest.size):
        held = list(group)
        names = ", ".join(dict.fromkeys(contest.key.partition("/")[0] for contest in held))
        found[names] = functools.partial(_contests, size, held)
    others = {"C": _late, "service": _service, "memory": _memory, "start": _start}
    for part, measure in others.items():
        if part in options.parts and options.device == "cpu":
            found[f"{part} of taskvec alone" if part in found else part] = measure
    return found


def _contests(size: Size, contests: list[Contest], results: Results) -> None:
    options = results.options
    folder = _model(options, size)
    want = references(contests, folder, options)
    wanted = {dtype for contest in contests for dtype in contest.dtypes}
    for dtype in (dtype for dtype in options.dtypes if dtype in wanted):
        with loaded(options.peers, folder, size, dtype, options) as contenders:
            for contest in contests:
                if dtype in contest.dtypes:
                    rows = hold(contest, contenders, want[contest.key])
                    results.add(contest, rows, folder)
                    report.write(results, options.out)


def _late(results: Results) -> None:
    say("late chunking of one document")
    options, folder = results.options, _model(results.options, WIDE)
    spec = Spec(folder, options.dtype, "cpu", options.threads, folder)
    [document] = texts([parts.LONG])
    with _worker(options, "late", "benchmarks.late:Late", spec, WIDE) as worker:
        worker.ready()
        repeats = 7 if options.full else 3
        results.figures["late"] = worker.call("compare", document, workloads.TASKS[0], repeats)


def _service(results: Results) -> None:
    say("queries beside a bulk job, and from many threads")
    options, folder = results.options, _model(results.options, WIDE)
    queries = texts([parts.QUERY] * (200 if options.full else 60))
    crowd = texts([parts.QUERY] * 512)
    bulk = texts(log_normal_lengths(256))
    target = "benchmarks.service:Service"
    with _worker(options, "service", target, folder, options.dtype) as worker:
        worker.ready()
        results.figures["service"] = {
            "model": WIDE.title,
            "dtype": options.dtype,
            "beside": worker.call("beside_bulk", queries, bulk),
            "crowd": worker.call("crowd", crowd, 64, 7 if options.full else 3),
        }


def _memory(results: Results) -> None:
    say("peak memory of a full-size checkpoint")
    batch = texts([256] * 8)
    with tempfile.TemporaryDirectory(dir=results.options.out) as scratch:
        folder = Path(scratch) / "full"
        memory.write_checkpoint(folder)
        with _worker(results.options, "memory", "benchmarks.memory:Loading") as worker:
            worker.ready()
            results.figures["memory"] = worker.call("measure", folder, batch, workloads.TASKS[0])


def _start(results: Results) -> None:
    say("start of fresh processes")
    repeats = 15 if results.options.full else 5
    results.figures["start"] = start.measure(repeats, results.options.environment())


def _model(options: Options, size: Size) -> Path:
    """The folder of a bench model, made where it is missing."""
    folder = options.out / "models" / size.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        say(f"writing a model: {size.title}")
        shutil.rmtree(folder.with_name(f"{folder.name}-made"), ignore_errors=True)
        with _worker(options, f"write-{size.name}", "benchmarks.models:Writer") as worker:
            worker.ready()
            worker.call("write", folder, size)
    return folder


def _worker(options: Options, name: str, target: str, *arguments: object) -> closing[Worker]:
    made = Worker(target, *arguments, environment=options.environment(), log=options.log(name))
    return closing(made)


def _draw(results: Results) -> None:
    try:
        for path in plots.draw(results, results.options.out):
            say(f"drawn: {path}")
    except ImportError as error:
        results.failures["plots"] = str(error)
        say(f"no plots: {error}")


if __name__ == "__main__":
    main()
