"""The contests of a run: which workloads, on which models, in which dtypes."""

from collections.abc import Iterator

from benchmarks.contest import Contest
from benchmarks.models import DEEP, SMALL, STARTER, WIDE
from benchmarks.options import Options
from benchmarks.workloads import (
    TASKS,
    docstrings,
    log_normal_lengths,
    near_lengths,
    one_task,
    texts,
)

LENGTHS = (16, 64, 256, 512)
MORE_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
LONG = 8192
QUERY = 12
ROUGH = ("peft", "transformers", "openvino")


def contests(options: Options) -> list[Contest]:
    """All that were asked for, in the order of their models."""
    if options.device == "cuda":
        return list(_on_cards(options))
    made = {
        "A": _a,
        "B": _b,
        "mixed": _mixed,
        "C": _c,
        "lengths": _lengths,
        "E": _e,
        "D": _d,
        "deep": _deep,
    }
    return [
        contest for part, make in made.items() if part in options.parts for contest in make(options)
    ]


def _a(options: Options) -> Iterator[Contest]:
    work = one_task(texts(log_normal_lengths(64)))
    title = "A: 64 texts of log-normal length, median 100 tokens, at most 512"
    repeats = 7 if options.full else 3
    yield Contest("A", title, WIDE, work, options.dtypes, repeats)


def _b(options: Options) -> Iterator[Contest]:
    work = one_task(texts(near_lengths(256)))
    dtypes = options.dtypes if options.full else (options.dtype,)
    repeats = 7 if options.full else 3
    yield Contest("B", "B: 256 texts of about 20 tokens", WIDE, work, dtypes, repeats)


def _mixed(options: Options) -> Iterator[Contest]:
    """How many tasks a batch mixes; peers switch LoRAs or split into a model per task."""
    count, mixes = (64, [1, 2, 3, 4, 5]) if options.full else (32, [1, 2, 5])
    works = {
        "A": (one_task(texts(log_normal_lengths(count))), mixes),
        "B": (one_task(texts(near_lengths(256))), mixes[-1:]),
    }
    peers = () if options.full else ("peft", "transformers")
    for name, (work, mixes) in works.items():
        for mix in mixes:
            title = f"{name}, {len(work.texts)} texts, {mix} task{'s mixed' if mix > 1 else ''}"
            yield Contest(
                f"mixed/{name}/{mix}",
                *(title, WIDE, work.mixed(mix), (options.dtype,)),
                repeats=5 if options.full else 3,
                peers=peers,
                tune_every=1,
            )


def _c(options: Options) -> Iterator[Contest]:
    count = 4 if options.full else 1
    work = one_task(texts([LONG] * count))
    title = f"C: {count} document{'s' if count > 1 else ''} of 8 192 tokens"
    yield Contest(
        "C",
        *(title, WIDE, work, (options.dtype,)),
        repeats=3 if options.full else 2,
        peers=() if options.full else ROUGH,
        tune_every=0,
    )


def _lengths(options: Options) -> Iterator[Contest]:
    for length in MORE_LENGTHS if options.full else LENGTHS:
        count = max(4, 2048 // length)
        yield Contest(
            f"lengths/{length}",
            f"{count} texts of {length} tokens",
            WIDE,
            one_task(texts([length] * count)),
            (options.dtype,),
            repeats=5 if options.full else 3,
            peers=() if options.full else ROUGH,
            tune_every=1,
        )


def _d(options: Options) -> Iterator[Contest]:
    count = 512 if options.full else 128
    work = one_task(docstrings(count), "retrieval.passage")
    title = f"D: {len(work.texts)} docstrings of the standard library, with the task's prompt"
    yield Contest("D", title, STARTER, work, (options.dtype,), repeats=7 if options.full else 3)


def _e(options: Options) -> Iterator[Contest]:
    work = one_task(texts([QUERY] * 50), "retrieval.query")
    repeats = 10 if options.full else 4
    title = "E: one query of 12 tokens"
    yield Contest("E", title, SMALL, work, options.dtypes, repeats, each=True, tune_every=0)


def _deep(options: Options) -> Iterator[Contest]:
    work = one_task(texts(log_normal_lengths(64)))
    title = "A on all 24 layers"
    yield Contest("deep", title, DEEP, work, (options.dtype,), repeats=1)


def _on_cards(options: Options) -> Iterator[Contest]:
    count, repeats = (4096, 7) if options.full else (1024, 5)
    works = {
        "A": one_task(texts(log_normal_lengths(count))),
        "B": one_task(texts(near_lengths(4 * count))),
    }
    works["mixed"] = works["A"].mixed(len(TASKS))
    titles = {
        "A": f"A: {count} texts of log-normal length, median 100 tokens, at most 512",
        "B": f"B: {4 * count} texts of about 20 tokens",
        "mixed": "A with five tasks mixed",
    }
    for key in options.parts:
        yield Contest(key, titles[key], DEEP, works[key], options.dtypes, repeats)
