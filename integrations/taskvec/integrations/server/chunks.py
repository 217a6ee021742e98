"""`POST /v1/chunks`: documents in, spans and late-chunked vectors out."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from taskvec.core.embedder import Array, Span
from taskvec.core.errors import TaskvecError
from taskvec.core.pooling import check_dim
from taskvec.integrations.server.embeddings import usage
from taskvec.integrations.server.facts import Facts
from taskvec.integrations.server.parsing import JsonRoute
from taskvec.integrations.server.replies import Listing, item, separated
from taskvec.integrations.server.requests import ChunksRequest, Split
from taskvec.integrations.server.service import Service
from taskvec.integrations.server.splitting import check_cover, spans_of
from taskvec.integrations.server.tracing import encode_span

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chunks", response_model=None)
async def chunks(body: ChunksRequest, request: Request) -> Response:
    """The vectors of each document's chunks, pooled from the document read as a whole."""
    return await chunk(request.app.state.service, body, request.state.facts)


async def chunk(
    service: Service,
    body: ChunksRequest,
    facts: Facts,
    *,
    wait: bool = False,
    seen: Counter[str] | None = None,
) -> Listing:
    """The reply. wait: for room in the encoder's queue, instead of being refused.

    seen: what other lines hold, as for `Service.check_items`.
    """
    call = service.call(body.model, body.task)
    dim = check_dim(body.dimensions, service.encoder.dims)
    texts = [document.text for document in body.input]
    tokens = sum(await service.counts(texts, call.task))
    spans = await service.aside(lambda: _all_spans(body))
    service.check_items(sum(map(len, spans)), "chunks", seen)
    check_cover(texts, spans)
    facts.fill(call.task, "bulk", texts=len(texts), tokens=tokens)
    with encode_span(facts):
        vectors = await _encode(service, texts, spans, call.task, dim, wait=wait)
    fields = {"model": call.model, "usage": usage(tokens)}
    return Listing(fields, _documents(body, spans, vectors))


def _all_spans(body: ChunksRequest) -> list[list[Span]]:
    split = body.split or Split()
    return [
        spans_of(document, split, f"input[{number}]") for number, document in enumerate(body.input)
    ]


async def _encode(
    service: Service,
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
    task: str | None,
    dim: int,
    *,
    wait: bool,
) -> list[Array]:
    """Late-chunked vectors of all documents, each (K, dim), which share batches.

    Unless it may wait, the first one needs room in the queue at once; a request that has begun is
    not refused.
    """
    try:
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(
                    service.encoder.aencode_chunks(
                        text, own, task=task, dim=dim, wait=wait or number > 0
                    )
                )
                for number, (text, own) in enumerate(zip(texts, spans, strict=True))
            ]
    except* TaskvecError as errors:
        raise errors.exceptions[0] from None
    return [call.result() for call in calls]


def _documents(
    body: ChunksRequest, spans: Sequence[Sequence[Span]], vectors: Sequence[Array]
) -> Iterator[bytes]:
    """The inside of the reply's list, a chunk at a time."""
    for number, document in enumerate(body.input):
        comma = "," if number else ""
        yield f'{comma}{{"object":"document","index":{number},"chunks":['.encode()
        yield from separated(_chunks(body, document.text, spans[number], vectors[number]))
        yield b"]}"


def _chunks(
    body: ChunksRequest, text: str, spans: Sequence[Span], vectors: Array
) -> Iterator[bytes]:
    for index, ((start, end), vector) in enumerate(zip(spans, vectors, strict=True)):
        fields = {"object": "chunk", "index": index, "span": (start, end)}
        if body.return_text:
            fields["text"] = text[start:end]
        yield item(vector, body.kind, fields)
