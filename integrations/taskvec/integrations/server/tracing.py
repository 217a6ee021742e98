"""OpenTelemetry spans, where its API is installed; without it nothing happens."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from starlette.types import Scope

from taskvec.integrations.server.facts import Facts

try:
    from opentelemetry import propagate, trace
except ImportError:  # an optional package
    INSTALLED = False
else:
    INSTALLED = True

NAME = "taskvec.server"


class Span(Protocol):
    """What is written into a span."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""


class NoSpan:
    """Stands for a span where there are none."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Nothing."""


@contextmanager
def request_span(scope: Scope, facts: Facts) -> Iterator[Span]:
    """A server's span around a request, a child of the one that the client's headers name."""
    if not INSTALLED:
        yield NoSpan()
        return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    with trace.get_tracer(NAME).start_as_current_span(
        f"{facts.method} {facts.route}",
        context=propagate.extract(headers),
        kind=trace.SpanKind.SERVER,
        attributes={"http.request.method": facts.method, "http.route": facts.route},
        record_exception=False,  # its message might hold a text
        set_status_on_exception=False,
    ) as span:
        yield span


def describe(span: Span, facts: Facts, status: int) -> None:
    """Write into a request's span what came of it."""
    span.set_attributes({"http.response.status_code": status, **_attributes(facts)})


@contextmanager
def encode_span(facts: Facts) -> Iterator[None]:
    """A span around the encoder's work."""
    if not INSTALLED:
        yield
        return
    with trace.get_tracer(NAME).start_as_current_span(
        "encode",
        attributes=_attributes(facts),
        record_exception=False,
        set_status_on_exception=False,
    ):
        yield


def _attributes(facts: Facts) -> dict[str, str | int]:
    return {
        "taskvec.task": facts.task,
        "taskvec.lane": facts.lane,
        "taskvec.texts": facts.texts,
        "taskvec.tokens": facts.tokens,
    }
