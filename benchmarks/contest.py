"""Contenders on one model in one dtype: vectors compared, settings tried, runs interleaved."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import Size
from benchmarks.options import Options
from benchmarks.peers import OURS, PEERS, Setting, Spec, Vectors
from benchmarks.progress import say
from benchmarks.worker import Worker, WorkerError
from benchmarks.workloads import Workload

# Least mean cosine to float32 vectors, once what all vectors of a model share is taken off.
AGREEMENT = {"float32": 0.9999, "bfloat16": 0.98, "int8": 0.9}
GIVE_UP = 1.3  # times the best setting's seconds: larger batches are not tried then


@dataclass(frozen=True)
class Contest:
    """A workload on a model.

    dtypes: those to measure in. peers: those to take part, all if empty. each: one call per text,
    for latencies. tune_every: settings are tried on every n-th text, on none if 0.
    """

    key: str
    title: str
    size: Size
    workload: Workload
    dtypes: tuple[str, ...]
    repeats: int
    peers: tuple[str, ...] = ()
    each: bool = False
    tune_every: int = 4


@dataclass(frozen=True)
class Row:
    """What one contender did. seconds: of each repeat, or of each call where calls are single."""

    peer: str
    dtype: str
    setting: str = ""
    seconds: tuple[float, ...] = ()
    cosine: float = float("nan")
    failure: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The contender's name in tables."""
        return PEERS[self.peer].title

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)


class Contender:
    """A peer in its process; a failure is kept and told, and ends its part."""

    def __init__(self, peer: str, spec: Spec, size: Size, options: Options) -> None:
        self.peer, self.dtype = peer, spec.dtype
        self.failure = self.unloaded = ""
        self._settings = PEERS[peer].settings_on(spec.device)
        self.setting = self._settings[0]
        self.cosine = float("nan")
        self.seconds: list[float] = []
        self._worker = Worker(
            "benchmarks.running:Runner",
            *(peer, spec, size),
            environment=options.environment(peer),
            log=options.log(f"{peer}-{size.name}-{spec.dtype}"),
        )

    def start(self) -> None:
        """Wait until it is loaded."""
        self._tried(self._worker.ready)
        self.unloaded = self.failure

    def check(self, probe: Workload, want: Vectors) -> None:
        """Vectors must be those of the reference: a ratio between different answers is none."""
        self.failure, self.setting = self.unloaded, self._settings[0]
        got = self._call("vectors", probe, self.setting)
        if got is not None:
            self.cosine = centred_cosine(got, want)
            if not self.cosine >= AGREEMENT[self.dtype]:
                self.failure = (
                    f"vectors differ: centred cosine {self.cosine:.4f} to transformers + PEFT "
                    f"in float32, {AGREEMENT[self.dtype]} needed"
                )

    def tune(self, sample: Workload) -> None:
        """Keep the fastest setting."""
        if len(self._settings) == 1 or self.failure:
            return
        taken: dict[Setting, float] = {}
        for setting in self._settings:
            alike = [t for other, t in taken.items() if other.streams == setting.streams]
            if alike and alike[-1] > GIVE_UP * min(alike):
                continue
            self._call("vectors", sample, setting)
            taken[setting] = self._call("seconds", sample, setting) or float("inf")
        self.setting = min(taken, key=taken.__getitem__)

    def warm(self, workload: Workload) -> None:
        """One run that does not count."""
        self.seconds = []
        self._call("vectors", workload, self.setting)
        self._facts()  # a card's peak memory counts from here

    def run(self, workload: Workload, *, each: bool) -> None:
        """One run that counts."""
        taken = self._call("seconds_each" if each else "seconds", workload, self.setting)
        if taken is not None:
            self.seconds += taken if each else [taken]

    def row(self) -> Row:
        """What came of it."""
        facts = self._facts()
        seconds = () if self.failure else tuple(self.seconds)
        setting = "" if self.failure else str(self.setting)
        return Row(self.peer, self.dtype, setting, seconds, self.cosine, self.failure, facts)

    def close(self) -> None:
        """End its process."""
        self._worker.close()

    def _facts(self) -> dict[str, Any]:
        return self._tried(lambda: self._worker.call("facts")) or {}

    def _call(self, method: str, work: Workload, setting: Setting) -> Any:
        given = list(work.texts), list(work.tasks), setting
        return self._tried(lambda: self._worker.call(method, *given))

    def _tried(self, call: Callable[[], Any]) -> Any:
        if self.failure:
            return None
        try:
            return call()
        except WorkerError as error:
            self.failure = str(error)
            say(f"  {self.peer}, {self.dtype}: {error}")
            return None


@contextmanager
def loaded(
    peers: Sequence[str], folder: Path, size: Size, dtype: str, options: Options
) -> Iterator[list[Contender]]:
    """Contenders that offer the dtype, loaded side by side."""
    able = [peer for peer in peers if dtype in PEERS[peer].dtypes]
    say(f"{size.title}, {dtype}: loading {', '.join(able)}")
    cache = folder.with_name(f"{folder.name}-made")
    spec = Spec(folder, dtype, options.device, options.threads, cache)
    with ExitStack() as stack:

        def begin(peer: str) -> Contender:
            contender = Contender(peer, spec, size, options)
            stack.callback(contender.close)
            return contender

        # Ours alone: it measures the machine's ceiling as it starts.
        ours = [begin(peer) for peer in able if peer == OURS]
        for contender in ours:
            contender.start()
        others = [begin(peer) for peer in able if peer != OURS]
        for contender in others:
            contender.start()
        yield ours + others


def hold(contest: Contest, contenders: Sequence[Contender], want: Vectors) -> list[Row]:
    """Rows of one contest; ours first."""
    taking = [c for c in contenders if not contest.peers or c.peer in (OURS, *contest.peers)]
    say(f"  {contest.title}: checking vectors and trying settings")
    for contender in taking:
        contender.check(contest.workload.probe, want)
        if contest.tune_every:
            contender.tune(contest.workload.every(contest.tune_every))
        contender.warm(contest.workload)
    for turn in range(contest.repeats):
        say(f"  {contest.title}: run {turn + 1} of {contest.repeats}")
        for contender in taking:
            contender.run(contest.workload, each=contest.each)
    return [contender.row() for contender in taking]


def references(contests: Sequence[Contest], folder: Path, options: Options) -> dict[str, Vectors]:
    """Vectors of each contest's probe by transformers + PEFT in float32. Raises WorkerError."""
    size = contests[0].size
    spec = Spec(folder, "float32", options.device, options.threads, folder.with_name("none"))
    worker = Worker(
        "benchmarks.running:Runner",
        *("peft", spec, size),
        environment=options.environment("peft"),
        log=options.log(f"reference-{size.name}"),
    )
    try:
        worker.ready()
        return {
            contest.key: worker.call("vectors", list(probe.texts), list(probe.tasks), Setting(1))
            for contest in contests
            for probe in [contest.workload.probe]
        }
    finally:
        worker.close()


def centred_cosine(got: Vectors, want: Vectors) -> float:
    """Mean cosine once the mean of `want` is taken off both: random models' vectors are alike."""
    a, b = got - want.mean(axis=0), want - want.mean(axis=0)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).mean())


def times_as_fast(ours: Row, theirs: Row) -> float:
    """Their seconds over ours, as the median over neighbouring runs."""
    pairs = zip(ours.seconds, theirs.seconds, strict=False)
    return statistics.median(their / our for our, their in pairs)
