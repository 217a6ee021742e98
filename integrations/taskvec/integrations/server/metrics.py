"""How the server stands, as Prometheus reads it."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from taskvec.core.encoder import Encoder
from taskvec.core.stats import LaneStats
from taskvec.integrations.server.facts import Facts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# Name, help and figure of each lane.
QUEUES: tuple[tuple[str, str, Callable[[LaneStats], float]], ...] = (
    ("taskvec_queue_rows", "Texts and windows that wait", lambda lane: lane.queued_rows),
    ("taskvec_queue_tokens", "Tokens that wait", lambda lane: lane.queued_tokens),
    ("taskvec_queue_calls", "Calls that wait for room", lambda lane: lane.queued_requests),
)
TOTALS: tuple[tuple[str, str, Callable[[LaneStats], float]], ...] = (
    ("taskvec_rows", "Texts and windows that ran", lambda lane: lane.texts),
    ("taskvec_tokens", "Tokens that ran", lambda lane: lane.tokens),
    ("taskvec_batches", "Forward passes", lambda lane: lane.batches),
    ("taskvec_calls_refused", "Calls that met a full queue", lambda lane: lane.refused),
    ("taskvec_calls_cancelled", "Calls given up by their caller", lambda lane: lane.cancelled),
    ("taskvec_calls_failed", "Calls that ended with an error", lambda lane: lane.failed),
    ("taskvec_wait_seconds", "Time that rows spent queued", lambda lane: lane.wait_s),
    ("taskvec_model_seconds", "Time spent in the model", lambda lane: lane.model_s),
    ("taskvec_tokenize_seconds", "Time spent tokenizing", lambda lane: lane.tokenize_s),
)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, encoder: Encoder) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(encoder))
        work = ("route", "task", "lane")
        self._requests = Counter(
            "taskvec_requests", "Requests answered", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "taskvec_request_seconds",
            "From a request's first byte to the last of its reply",
            work,
            buckets=SECONDS,
            registry=self._registry,
        )
        self._texts = Counter(
            "taskvec_request_texts", "Texts and documents served", work, registry=self._registry
        )
        self._tokens = Counter(
            "taskvec_request_tokens", "Tokens of served requests", work, registry=self._registry
        )
        self.in_progress = Gauge(
            "taskvec_requests_in_progress", "Requests let in", registry=self._registry
        )
        self.held_bytes = Gauge(
            "taskvec_body_bytes", "Bodies of requests in progress", registry=self._registry
        )

    def observe(self, facts: Facts, *, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        self._requests.labels(facts.route, str(status)).inc()
        if facts.lane:
            labels = (facts.route, facts.task, facts.lane)
            self._seconds.labels(*labels).observe(seconds)
            if status < 400:
                self._texts.labels(*labels).inc(facts.texts)
                self._tokens.labels(*labels).inc(facts.tokens)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class EngineCollector(Collector):
    """Asks the encoder for its figures at each scrape."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering asks no encoder."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The figures of both lanes."""
        stats = self._encoder.stats()
        for families, kind in ((QUEUES, GaugeMetricFamily), (TOTALS, CounterMetricFamily)):
            for name, text, figure in families:
                family = kind(name, text, labels=("lane",))
                for lane, figures in stats.lanes.items():
                    family.add_metric([lane], figure(figures))
                yield family
        yield GaugeMetricFamily(
            "taskvec_batch_fill_ratio", "Tokens per batch by the budget", value=stats.mean_fill
        )
        yield GaugeMetricFamily(
            "taskvec_queue_bound_tokens", "Room of each lane", value=stats.queue_tokens
        )
        # Rows are packed end to end; the figure is here for those who compare servers.
        yield CounterMetricFamily(
            "taskvec_padding_tokens", "Pad tokens that ran: none ever do", value=0
        )
