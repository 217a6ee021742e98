"""What every route works with: the encoder, its names, and what a request may ask of it."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TypeVar

from starlette.exceptions import HTTPException

from taskvec.core.embedder import Lane
from taskvec.core.encoder import SHORT, Encoder
from taskvec.core.errors import InputError, SizeError, TaskError
from taskvec.core.inputs import check_task
from taskvec.integrations.server.counting import Counting
from taskvec.integrations.server.metrics import Metrics

Result = TypeVar("Result")

QUERY_TASK = "retrieval.query"
# Jina's API has two names for one LoRA.
SYNONYMS = {"clustering": "separation"}
# Requests of no more tokens go before bulk work: a few batches at most, whoever sends them.
QUERY_TOKENS = {QUERY_TASK: 8192}
SMALL_TOKENS = 512
# So few short texts are counted on the event loop itself: that is quicker than the way to a thread.
FEW = 16
LONGEST_RETRY_S = 30


@dataclass(frozen=True)
class Limits:
    """What one request may ask, and how many there may be.

    body_bytes: of a request's body. bodies_bytes: of the bodies of all requests in progress.
    items: texts, or spans of all documents together. tokens: of all texts together, prompts
    included. requests: in progress at once, wherever they are. deadline_s: from a request's first
    byte to the first of its reply. pause_s: the longest silence within a request's body, and the
    longest that a piece of a reply waits for its reader.
    """

    body_bytes: int = 32 << 20
    bodies_bytes: int = 256 << 20
    items: int = 16_384
    tokens: int = 1 << 20
    requests: int = 256
    deadline_s: float = 300.0
    pause_s: float = 30.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise InputError(f"{one.name} is {value!r}: expected a number above 0")
        if self.bodies_bytes < self.body_bytes:
            raise InputError(
                f"bodies_bytes is {self.bodies_bytes}: a single body may have "
                f"{self.body_bytes} (body_bytes), give as many or more"
            )


@dataclass(frozen=True)
class Call:
    """A model and task as a request names them."""

    model: str
    task: str | None


@dataclass(eq=False)
class Service:
    """One encoder behind HTTP. names: what it is called, the first one first.

    in_progress: requests that have been let in and not been answered. running: what answers them.
    held_bytes: of their bodies, as far as these have come. draining: the server is about to end.
    ended: nothing more is answered. suspect: something failed that nobody expected, and has not
    been looked at. default_task: of `/invocations` that name none.
    """

    encoder: Encoder
    names: tuple[str, ...]
    limits: Limits
    metrics: Metrics
    in_progress: int = 0
    held_bytes: int = 0
    draining: bool = False
    ended: bool = False
    running: "set[asyncio.Future[None]]" = field(default_factory=set)
    suspect: bool = False
    default_task: str | None = None
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="taskvec-server")
    )

    def __post_init__(self) -> None:
        self.metrics.in_progress.set_function(lambda: self.in_progress)
        self.metrics.held_bytes.set_function(lambda: self.held_bytes)

    def call(self, model: str, task: str | None) -> Call:
        """What `model`, which may be NAME@TASK, and `task` mean together.

        Raises HTTPException 404 for a model that is not served, TaskError for an unknown task, or
        for two that differ.
        """
        name, marked, own = model.partition("@") if model not in self.names else (model, "", "")
        if name not in self.names:
            raise HTTPException(
                404, f"unknown model {model!r}: this server has {', '.join(self.names)}"
            )
        of_model = self.task(own) if marked else None
        asked = self.task(task)
        if of_model is not None and asked is not None and of_model != asked:
            raise TaskError(f"model {model!r} names another task than task {task!r}: give one")
        return Call(model, of_model if asked is None else asked)

    def task(self, name: str | None) -> str | None:
        """A task by its name or its other name. Raises TaskError for an unknown one."""
        known = self.encoder.tasks
        if name not in known and SYNONYMS.get(name or "") in known:
            name = SYNONYMS[name or ""]
        check_task(name, known)
        return name

    async def counts(self, texts: Sequence[str], task: str | None) -> list[int]:
        """Tokens of each text as the model reads it, prompt and specials included, never cut.

        Raises SizeError for more of them than a request may have.
        """
        counting = Counting(partial(self.encoder.count_tokens, task=task), self.limits.tokens)
        if len(texts) <= FEW and sum(map(len, texts)) <= SHORT:
            return counting.counts(texts)
        try:
            return await self.aside(lambda: counting.counts(texts))
        finally:
            counting.given_up.set()

    async def aside(self, work: Callable[[], Result]) -> Result:
        """What some work gives, done in another thread than the event loop's."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def check_items(self, count: int, what: str, seen: Counter[str] | None = None) -> None:
        """Raises SizeError for more texts or spans than a request may have.

        seen: how many of each its other lines have; counted up.
        """
        if seen is not None:
            seen[what] += count
            count = seen[what]
        if count > self.limits.items:
            raise SizeError(
                f"input has {count} {what}: a request may have {self.limits.items}, send several"
            )

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more fit beside the bodies that are held."""
        return self.held_bytes + size <= self.limits.bodies_bytes

    def cut_off(self) -> None:
        """Let every request that runs be told that the server ends; to be called on its loop."""
        self.ended = True
        for work in self.running:
            work.cancel()

    def retry_after_s(self) -> int:
        """How long what waits in the encoder's queues will take, from 1 to LONGEST_RETRY_S."""
        stats = self.encoder.stats()
        waiting = sum(lane.queued_tokens for lane in stats.lanes.values())
        seconds = waiting * stats.model_s / stats.tokens if stats.tokens else 0.0
        return min(max(math.ceil(seconds), 1), LONGEST_RETRY_S)

    def close(self) -> None:
        """End the threads of `aside`."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def lane_of(task: str | None, tokens: int) -> Lane:
    """Queries, and what is as small, go first: a bulk job under a query's task does not."""
    return "query" if tokens <= QUERY_TOKENS.get(task or "", SMALL_TOKENS) else "bulk"
