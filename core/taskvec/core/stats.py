"""What an engine has done and what waits in it, counted since it was loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

from taskvec.core.embedder import Lane


@dataclass
class Counts:
    """What an engine counts of one lane; LaneStats says what the names mean."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    texts: int = 0
    tokens: int = 0
    batches: int = 0
    tokenize_s: float = 0.0
    wait_s: float = 0.0
    model_s: float = 0.0


@dataclass(frozen=True)
class LaneStats:
    """One lane. Times are sums, in seconds.

    requests: calls, of which `failed` ended with an error, `cancelled` were given up by their
    caller, and `refused` met a queue that was full or closed. texts: rows that ran; each
    window of a long document is one. batches: forward passes. wait_s: what rows spent queued,
    wait_s / texts on average. queued_requests: calls with rows for which there is no room yet,
    beside the rows and tokens that are queued.
    """

    requests: int
    failed: int
    cancelled: int
    refused: int
    texts: int
    tokens: int
    batches: int
    tokenize_s: float
    wait_s: float
    model_s: float
    queued_rows: int
    queued_tokens: int
    queued_requests: int


@dataclass(frozen=True)
class Stats:
    """An engine at one moment: each lane by its name, and both together.

    token_budget: tokens of a full batch. queue_tokens: the bound of each lane's queue.
    """

    token_budget: int
    queue_tokens: int
    lanes: Mapping[Lane, LaneStats]

    @property
    def requests(self) -> int:
        """Calls begun."""
        return sum(lane.requests for lane in self.lanes.values())

    @property
    def failed(self) -> int:
        """Calls that ended with an error."""
        return sum(lane.failed for lane in self.lanes.values())

    @property
    def texts(self) -> int:
        """Rows that ran: texts, and windows of long documents."""
        return sum(lane.texts for lane in self.lanes.values())

    @property
    def tokens(self) -> int:
        """Tokens that ran."""
        return sum(lane.tokens for lane in self.lanes.values())

    @property
    def batches(self) -> int:
        """Forward passes."""
        return sum(lane.batches for lane in self.lanes.values())

    @property
    def mean_fill(self) -> float:
        """Tokens per batch as a share of the token budget; 0 before the first batch."""
        return self.tokens / (self.batches * self.token_budget) if self.batches else 0.0

    @property
    def tokenize_s(self) -> float:
        """Seconds spent tokenizing."""
        return sum(lane.tokenize_s for lane in self.lanes.values())

    @property
    def wait_s(self) -> float:
        """Seconds that rows spent queued, all rows together."""
        return sum(lane.wait_s for lane in self.lanes.values())

    @property
    def model_s(self) -> float:
        """Seconds spent in the model, all replicas together."""
        return sum(lane.model_s for lane in self.lanes.values())
