"""`python -m benchmarks.serve`: taskvec's server under load, beside peers, and for long."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks import machine
from benchmarks.models import SMALL, STARTER, WIDE
from benchmarks.progress import say
from benchmarks.serve import lanes, load, memory, peers, report, servers
from benchmarks.serve.preparing import TINY, prepared
from benchmarks.serve.report import Report
from benchmarks.serve.servers import Place, ServerError
from benchmarks.worker import Worker, WorkerError
from taskvec.core.errors import InputError
from taskvec.core.inputs import check_positive

PARTS = ("load", "lanes", "peer", "memory")
SIZES = {size.name: size for size in (STARTER, SMALL, WIDE)}
TASK = "text-matching"  # without a prompt, which peers know nothing of


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print Markdown; 1 where a part broke, or found a fault of the server."""
    given = _parse(arguments)
    try:
        made = measure(given)
    except InputError as error:
        say(str(error))
        return 1
    (given.out / "report.md").write_text(report.markdown(made) + "\n")
    (given.out / "report.json").write_text(json.dumps(report.as_json(made)) + "\n")
    print(report.markdown(made))
    return 0 if made.kept else 1


def measure(given: argparse.Namespace) -> Report:
    """Run the parts that are asked for, one after the other, on servers of their own."""
    for name in ("clients", "requests"):
        check_positive(name, getattr(given, name))
    given.out.mkdir(parents=True, exist_ok=True)
    place = Place(given.threads or len(given.server_cpus) or machine.usable_cpus(),
                  given.server_cpus, given.out / "logs")  # fmt: skip
    apart = f"Servers on CPUs {_named(given.server_cpus)}, clients on {_named(given.client_cpus)}."
    made = Report(report.head(SIZES[given.size].title, given.dtype, place.threads, apart))
    parts: dict[str, Callable[[argparse.Namespace, Place, Report], None]] = {
        "load": _load, "lanes": _lanes, "peer": _peer, "memory": _memory,
    }  # fmt: skip
    for part in given.only:
        say(part)
        try:
            with servers.pinned(given.client_cpus):
                parts[part](given, place, made)
        except (ServerError, WorkerError, peers.UnlikeError, OSError) as error:
            made.failures[part] = str(error)
            say(f"{part} failed: {error}")
    return made


def _load(given: argparse.Namespace, place: Place, made: Report) -> None:
    folder = prepared(given.out, SIZES[given.size], place).folder
    with servers.running(servers.taskvec(folder, dtype=given.dtype), place) as server:
        found = load.run(server.url, given.clients, given.seconds)
    say("the encoder alone, on the same texts")
    requests = [(dict(answer.body), answer.tokens) for answer in found.answers]
    log = place.folder / "alone.log"
    with servers.pinned(place.cpus):
        worker = Worker("benchmarks.serve.load:Alone", folder, given.dtype,
                        environment=place.environment, log=log)  # fmt: skip
    with closing(worker):
        worker.ready()
        found.alone = worker.call("tokens_s", requests, given.seconds)
    made.load = found


def _lanes(given: argparse.Namespace, place: Place, made: Report) -> None:
    folder = prepared(given.out, SIZES[given.size], place).folder
    with servers.running(servers.taskvec(folder, dtype=given.dtype), place) as server:
        made.lanes = lanes.run(server, given.seconds)


def _peer(given: argparse.Namespace, place: Place, made: Report) -> None:
    model = prepared(given.out, SIZES[given.size], place, task=TASK)
    recipes = [
        servers.taskvec(model.folder, dtype="float32", task=TASK),
        servers.wrapper(model.merged),
    ]
    if given.infinity:
        recipes.append(servers.infinity(given.infinity, model.roformer))
    with ExitStack() as stack:
        running = [stack.enter_context(servers.running(recipe, place)) for recipe in recipes]
        made.peers = peers.run(running, given.concurrency, given.seconds)


def _memory(given: argparse.Namespace, place: Place, made: Report) -> None:
    folder = prepared(given.out, TINY, place).folder
    with servers.running(servers.taskvec(folder, dtype="float32"), place) as server:
        made.memory = memory.run(server, given.requests)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    known = ", ".join(PARTS)
    parser.add_argument("--only", metavar="PART,…", type=_parts, default=PARTS, help=f"of {known}")
    parser.add_argument(
        "--seconds", type=float, default=60.0,
        help="of load, of either way of lanes, of each round of peer (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--clients", type=int, default=200, help="at once (default: %(default)s)")
    parser.add_argument(
        "--concurrency", type=_numbers, default=(1, 8, 64), help="of peers (default: 1,8,64)"
    )
    parser.add_argument(
        "--requests", type=int, default=100_000, help="of memory (default: %(default)s)"
    )
    parser.add_argument("--size", choices=SIZES, default="starter", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="of load and lanes (default: float32)")
    parser.add_argument("--threads", type=int, help="of each server; its CPUs by default")
    parser.add_argument(
        "--server-cpus", type=_cpus, default=(), metavar="N,N-N,…", help="all by default"
    )
    parser.add_argument(
        "--client-cpus", type=_cpus, default=(), metavar="N,N-N,…", help="all by default"
    )
    parser.add_argument(
        "--infinity", type=Path, metavar="FILE",
        help="`infinity_emb` of an environment that has infinity-emb, to measure against it too",
    )  # fmt: skip
    parser.add_argument("--out", type=_folder, default=_folder("build/bench-serve"), help="folder")
    return parser.parse_args(arguments)


def _parts(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if not set(found) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r}: use some of {', '.join(PARTS)}")
    return found


def _numbers(text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: use whole numbers with commas between")
    return tuple(map(int, text.split(",")))


def _cpus(text: str) -> tuple[int, ...]:
    """Numbers and ranges, such as 0-3,6."""
    ranges = [part.partition("-") for part in text.split(",")]
    if not all(low.isdecimal() and (not dash or high.isdecimal()) for low, dash, high in ranges):
        raise argparse.ArgumentTypeError(f"{text!r}: use numbers of CPUs, such as 0-3,6")
    return tuple(
        number for low, _, high in ranges for number in range(int(low), int(high or low) + 1)
    )


def _folder(text: str) -> Path:
    return Path(text).absolute()


def _named(cpus: Collection[int]) -> str:
    return ", ".join(map(str, cpus)) or "any"


if __name__ == "__main__":
    sys.exit(main())
