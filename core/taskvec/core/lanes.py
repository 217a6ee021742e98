"""The rows that wait: two lanes, in each of which calls take turns.

Nothing here runs a model, waits or locks; the engine does.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import get_args

from taskvec.core.embedder import Lane
from taskvec.core.errors import BusyError
from taskvec.core.requests import Request, Row

# Queries go first, but no longer than this at a stretch while bulk rows wait.
PATIENCE_S = 1.0


class Queue:
    """The rows of one lane, of which at most `bound` tokens wait.

    The call at the front gives its rows to a batch; if it has some left it goes to the end, so
    that a short call never waits for the whole of a long one. Rows beyond the bound wait for room
    in the order in which they came; a row longer than the bound enters an empty queue.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.rows = 0
        self.tokens = 0
        self._calls: OrderedDict[Request, deque[Row]] = OrderedDict()
        self._outside: OrderedDict[Request, deque[Row]] = OrderedDict()

    @property
    def outside(self) -> tuple[Request, ...]:
        """Calls with rows that wait for room."""
        return tuple(self._outside)

    def has_room(self, tokens: int) -> bool:
        """Whether rows of so many tokens would enter now; into an empty queue, whatever fits."""
        return not self._outside and (not self.rows or self.tokens + tokens <= self.bound)

    def put(self, request: Request, rows: Sequence[Row]) -> None:
        """Append rows of a call; what finds no room waits for it."""
        request.queued += sum(row.tokens for row in rows)
        self._outside.setdefault(request, deque()).extend(rows)
        self._admit()

    def take(self, budget: int) -> list[Row]:
        """The next rows of together at most `budget` tokens; a longer one comes alone."""
        batch: list[Row] = []
        head = next(iter(self._calls), None)
        while self._calls:
            rows = next(iter(self._calls.values()))
            if batch and rows[0].tokens > budget:
                break
            budget -= rows[0].tokens
            batch.append(rows.popleft())
            if not rows:
                self._calls.popitem(last=False)
        if head and head in self._calls:
            self._calls.move_to_end(head)
        self._leave(batch)
        return batch

    def drop(self, request: Request) -> None:
        """Forget the rows of a call."""
        request.queued = 0
        self._outside.pop(request, None)
        self._leave(self._calls.pop(request, ()))

    def _leave(self, rows: Sequence[Row] | deque[Row]) -> None:
        self.rows -= len(rows)
        for row in rows:
            self.tokens -= row.tokens
        self._admit()

    def _admit(self) -> None:
        while self._outside:
            request, rows = next(iter(self._outside.items()))
            inside = self._calls.setdefault(request, deque())
            while rows and (not self.rows or self.tokens + rows[0].tokens <= self.bound):
                self.rows += 1
                self.tokens += rows[0].tokens
                inside.append(rows.popleft())
            if not inside:
                del self._calls[request]
            if rows:
                return
            self._outside.popitem(last=False)


class Lanes:
    """Both lanes, and which goes next.

    Queries do, until they have run for `PATIENCE_S` while bulk rows waited. A batch holds rows of
    one lane alone, so that no query waits for bulk tokens in its own batch.

    budget: tokens of a batch. ahead: a call is asked for more rows once no more tokens of it wait.
    """

    def __init__(self, *, budget: int, bound: int, ahead: int) -> None:
        self.queues: Mapping[Lane, Queue] = {lane: Queue(bound) for lane in get_args(Lane)}
        self._budget = budget
        self._ahead = ahead
        self._passed_over_s = 0.0

    def check_room(self, lane: Lane, tokens: int = 1) -> None:
        """Raises BusyError unless rows of so many tokens would find room."""
        queue = self.queues[lane]
        if not queue.has_room(tokens):
            raise BusyError(
                f"the {lane} lane is full: {queue.tokens} tokens wait, and its bound is "
                f"{queue.bound} (queue_tokens): try again later, or wait with wait=True"
            )

    def put(self, request: Request, rows: Sequence[Row]) -> bool:
        """Append rows of a call. Returns whether it should put its next ones at once."""
        self.queues[request.lane].put(request, rows)
        return request.queued <= self._ahead

    def take(self) -> list[Row]:
        """Rows of the lane whose turn it is; [] where nothing waits."""
        bulk_first = self._passed_over_s >= PATIENCE_S
        order: tuple[Lane, Lane] = ("bulk", "query") if bulk_first else ("query", "bulk")
        batch = next((rows for lane in order if (rows := self._take(lane))), [])
        for row in batch:
            request = row.request
            request.queued -= row.tokens
            if request.more and request.queued <= self._ahead:
                request.ask_for_more()
        return batch

    @property
    def rows(self) -> int:
        """How many rows wait in the queues."""
        return sum(queue.rows for queue in self.queues.values())

    @property
    def full(self) -> bool:
        """Whether a lane has a whole batch waiting."""
        return any(queue.tokens >= self._budget for queue in self.queues.values())

    def ran(self, lane: Lane, seconds: float) -> None:
        """A batch of a lane ran for so long."""
        waited = lane == "query" and self.queues["bulk"].rows > 0
        self._passed_over_s = self._passed_over_s + seconds if waited else 0.0

    def drop(self, request: Request) -> None:
        """Forget the rows of a call."""
        self.queues[request.lane].drop(request)

    def _take(self, lane: Lane) -> list[Row]:
        return self.queues[lane].take(self._budget)
