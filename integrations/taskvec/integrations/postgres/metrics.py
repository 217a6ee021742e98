"""How attached columns stand, as Prometheus reads it."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from wsgiref.simple_server import WSGIServer

from taskvec.core.errors import MissingExtraError, StoreError
from taskvec.integrations.postgres.monitoring import Status, status

try:
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError("taskvec.integrations.postgres.metrics", "postgres") from error

LABELS = ("id", "table", "column")
# Name, help, and the figure itself. rows and embedded are estimates, as in taskvec.status.
GAUGES: tuple[tuple[str, str, Callable[[Status], float]], ...] = (
    ("taskvec_rows", "Rows of the table, estimated", lambda s: s.rows),
    ("taskvec_rows_current", "Rows that need no work, estimated", lambda s: s.embedded),
    ("taskvec_coverage_ratio", "Share of rows that need no work", lambda s: s.coverage / 100),
    (
        "taskvec_rows_waiting",
        "Rows that need work, those to be backfilled and parked included, estimated",
        lambda s: s.waiting,
    ),
    ("taskvec_queue_rows", "Rows that wait to be embedded", lambda s: s.queued),
    ("taskvec_queue_leased_rows", "Rows that a worker has in hand", lambda s: s.leased),
    ("taskvec_queue_retrying_rows", "Rows that failed and wait", lambda s: s.retrying),
    ("taskvec_queue_parked_rows", "Rows that are tried no more", lambda s: s.parked),
    (
        "taskvec_column_broken",
        "Whether no worker serves it any more",
        lambda s: s.problem is not None,
    ),
    ("taskvec_queue_lag_seconds", "How long the oldest row of the queue waits", lambda s: s.lag_s),
)
COUNTERS: tuple[tuple[str, str, Callable[[Status], float]], ...] = (
    ("taskvec_rows_embedded", "Rows made right, be it by having no vector", lambda s: s.done),
    ("taskvec_rows_failed", "Failures of rows", lambda s: s.failed),
)


class StatusCollector(Collector):
    """Asks the server for the status at each scrape.

    dsn: of the server. columns: as in `status`.
    A server that cannot be asked makes taskvec_up 0, and fails no scrape.
    """

    def __init__(self, dsn: str, *, columns: Sequence[int] | None = None) -> None:
        self._dsn = dsn
        self._columns = columns

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering asks no server."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The metrics of all columns."""
        try:
            found = status(self._dsn, columns=self._columns)
        except StoreError:
            yield _up(0)
            return
        yield _up(1)
        yield from _families(found)


def metrics_text(dsn: str, *, columns: Sequence[int] | None = None) -> str:
    """The metrics in Prometheus' text format."""
    return generate_latest(_registry(dsn, columns)).decode()


def serve_metrics(
    dsn: str, *, port: int, address: str = "127.0.0.1", columns: Sequence[int] | None = None
) -> tuple[WSGIServer, threading.Thread]:
    """Serve the metrics at http://address:port/metrics, from a thread of its own.

    Returns the server, whose `shutdown()` ends it, and its thread.
    """
    return start_http_server(port, addr=address, registry=_registry(dsn, columns))


def _registry(dsn: str, columns: Sequence[int] | None) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(StatusCollector(dsn, columns=columns))
    return made


def _up(value: int) -> Metric:
    return GaugeMetricFamily("taskvec_up", "Whether the server could be asked", value=value)


def _families(found: Sequence[Status]) -> Iterable[Metric]:
    for name, help_, figure in GAUGES:
        yield _filled(GaugeMetricFamily(name, help_, labels=LABELS), found, figure)
    for name, help_, figure in COUNTERS:
        yield _filled(CounterMetricFamily(name, help_, labels=LABELS), found, figure)
    info = InfoMetricFamily("taskvec_column", "How a column is made", labels=LABELS)
    for one in found:
        info.add_metric(_labels(one), _facts(one))
    yield info


def _filled(family: Any, found: Sequence[Status], figure: Callable[[Status], float]) -> Metric:
    for one in found:
        family.add_metric(_labels(one), figure(one))
    made: Metric = family
    return made


def _labels(one: Status) -> list[str]:
    return [str(one.id), one.table, one.column or one.chunks or ""]


def _facts(one: Status) -> dict[str, str]:
    return {
        "state": one.state,
        "model": one.model,
        "task": one.task or "",
        "dim": str(one.dim),
        "fingerprint": one.fingerprint,
    }
