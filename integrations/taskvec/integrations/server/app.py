"""The application: routes, error replies, and the gate before them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI

from taskvec.core.encoder import Encoder
from taskvec.core.errors import InputError
from taskvec.integrations.server import cards, chunks, embeddings, invocations
from taskvec.integrations.server.gate import Gate
from taskvec.integrations.server.keys import Keys
from taskvec.integrations.server.metrics import Metrics
from taskvec.integrations.server.playground import page
from taskvec.integrations.server.problems import add_handlers
from taskvec.integrations.server.service import Limits, Service
from taskvec.integrations.server.ways import Ways

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

# FastAPI's own writes what a refused request held into spans and logs; the gate's does not.
NO_TELEMETRY: "TelemetryConfig" = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


def create_app(
    encoder: Encoder,
    *,
    names: Sequence[str] = ("taskvec",),
    keys: Sequence[str] = (),
    limits: Limits | None = None,
    hosts: Sequence[str] = (),
    playground: bool = False,
    default_task: str | None = None,
) -> FastAPI:
    """An ASGI application that serves an encoder, for any ASGI server.

    Args:
        encoder: whose callers share batches with the requests; the caller closes it.
        names: what clients may call the model, the first one listed first.
        keys: API keys, one of which requests need to have; none lets everybody in.
        limits: what a request may ask.
        hosts: names that requests may be for, beside addresses; none allows any. It keeps out
            pages whose own name has been made to lead to this machine.
        playground: serve a page to try the model on at `/playground`.
        default_task: of requests of `/invocations`, SageMaker's route, that name none.

    `app.state.service.draining = True` lets it refuse readiness and close connections.
    Raises InputError for a name, key or task that is none.
    """
    if not names or not all(name and "@" not in name for name in names):
        raise InputError(f"names are {tuple(names)!r}: expected one or more, without '@'")
    app = FastAPI(
        title="taskvec", version="1", docs_url=None, redoc_url=None, telemetry=NO_TELEMETRY
    )
    service = Service(encoder, tuple(names), limits or Limits(), Metrics(encoder))
    service.default_task = service.task(default_task)
    app.state.service = service
    routers = [module.router for module in (embeddings, chunks, cards, invocations)]
    if playground:
        routers.append(page.router)
    for router in routers:
        app.include_router(router)
    add_handlers(app, Ways(routers))
    pages = page.PATHS if playground else ()
    app.add_middleware(Gate, service=service, keys=Keys(keys), hosts=hosts, pages=pages)
    return app
