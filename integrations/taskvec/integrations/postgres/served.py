"""What a worker knows of each column that it serves, and what it was told to do."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from taskvec.core import Embedder
from taskvec.integrations.postgres import backfill
from taskvec.integrations.postgres.registry import Column

REST_S, LONGEST_REST_S = 0.5, 60.0  # of a column that somebody has locked, or that is in trouble


@dataclass(frozen=True)
class Progress:
    """How far a column is. done, failed: rows of this run. seen, total: rows of the backfill.

    total is the server's own estimate. rate: rows a second. eta_s: None where nobody can say.
    """

    column: str
    done: int
    failed: int
    seen: int
    total: int
    rate: float
    eta_s: float | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """A worker's options; `Worker` says what they mean."""

    columns: frozenset[int] | None
    model: str | None
    embedder: Embedder | None
    batch: int
    lease_s: float
    poll_s: float
    attempts: int
    backfill_rate: float | None
    on_progress: Callable[[Progress], None] | None


@dataclass
class Served:
    """A column with its encoder, and how it goes.

    troubles: errors of the server, one after the other. trouble: the last one. outages: of the
    encoder. rests_until: by the monotonic clock. cut_off: whether a connection was lost while rows
    were read or written, one of which may be what ended it.
    """

    column: Column
    embedder: Embedder
    total: int
    done: int = 0
    failed: int = 0
    seen: int = 0
    filled: bool = False
    swept: bool = True
    slice: int = field(default_factory=lambda: backfill.SLICE)
    troubles: int = 0
    trouble: str = ""
    outages: int = 0
    rests_until: float = 0.0
    cut_off: bool = False
    since: float = field(default_factory=time.monotonic)

    def rest(self, seconds: float) -> None:
        """Leave the column alone for a while."""
        self.rests_until = time.monotonic() + seconds

    def rest_in_trouble(self, error: Exception) -> float:
        """Leave it alone, for longer each time until it goes well. Returns for how many seconds."""
        self.trouble = str(error)
        pause_s = min(REST_S * 2.0 ** min(self.troubles, 20), LONGEST_REST_S)
        self.troubles += 1
        self.rest(pause_s)
        return pause_s

    def progress(self) -> Progress:
        """What a callback is told."""
        elapsed_s = time.monotonic() - self.since
        rate = self.done / elapsed_s if elapsed_s > 0 else 0.0
        left = max(self.total - self.seen, 0)
        eta_s = 0.0 if self.filled else left / rate if rate and self.total else None
        name = str(self.column)
        return Progress(name, self.done, self.failed, self.seen, self.total, rate, eta_s)
