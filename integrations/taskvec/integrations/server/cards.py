"""What a server says of itself: its models, fingerprints, health and metrics."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from taskvec.core.errors import InputError
from taskvec.core.pooling import check_dim
from taskvec.integrations.server.metrics import CONTENT_TYPE
from taskvec.integrations.server.problems import problem
from taskvec.integrations.server.service import Service

PARAMETERS = ("model", "task", "dimensions")  # of a fingerprint

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Every name that is served, and NAME@TASK for clients that cannot name a task."""
    service = _service(request)
    cards = [_card(service, name) for name in service.names]
    cards += [
        _card(service, name, task) for name in service.names for task in service.encoder.tasks
    ]
    return {"object": "list", "data": cards}


@router.get("/v1/models/{model:path}")
async def model(model: str, request: Request) -> dict[str, Any]:
    """One of these."""
    service = _service(request)
    call = service.call(model, None)
    return _card(service, model.partition("@")[0] if call.task else model, call.task)


@router.get("/v1/fingerprint")
async def fingerprint(
    request: Request,
    model: str | None = None,
    task: str | None = None,
    dimensions: int | None = None,
) -> dict[str, Any]:
    """A string that changes whenever the vectors of this task and these dimensions would."""
    for name in request.query_params:
        if name not in PARAMETERS:
            raise InputError(f"unknown query parameter {name!r}: use {', '.join(PARAMETERS)}")
    return await fingerprint_of(_service(request), model, task, dimensions)


async def fingerprint_of(
    service: Service, model: str | None, task: str | None, dimensions: int | None
) -> dict[str, Any]:
    """The reply to a request for a fingerprint, however it came."""
    call = service.call(model or service.names[0], task)
    dim = check_dim(dimensions, service.encoder.dims)
    # The first one reads all weights.
    found = await asyncio.to_thread(service.encoder.fingerprint, call.task, dim)
    return {"model": call.model, "task": call.task, "dimensions": dim, "fingerprint": found}


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.head("/readyz", response_model=None, include_in_schema=False)
@router.get("/readyz", response_model=None)
async def readyz(request: Request) -> dict[str, str] | Response:
    """Whether new requests should be sent here: no more once the server is about to end."""
    if _service(request).draining:
        return problem(503, "the server is about to end: send requests elsewhere")
    return {"status": "ready"}


@router.get("/metrics", response_model=None)
async def metrics(request: Request) -> Response:
    """The figures in Prometheus' text format."""
    return Response(_service(request).metrics.text(), media_type=CONTENT_TYPE)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _card(service: Service, name: str, task: str | None = None) -> dict[str, Any]:
    encoder = service.encoder
    return {
        "id": name if task is None else f"{name}@{task}",
        "object": "model",
        "created": 0,
        "owned_by": "taskvec",
        "task": task,
        "tasks": list(encoder.tasks),
        "dimensions": list(encoder.dims),
        "max_tokens": encoder.max_tokens,
    }
