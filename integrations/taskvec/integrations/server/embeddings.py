"""`POST /v1/embeddings`: texts in, vectors out, as Jina's and OpenAI's clients expect them."""

from collections.abc import Iterator, Sequence
from itertools import repeat

from fastapi import APIRouter, Request
from starlette.responses import Response

from taskvec.core.embedder import Array, Span
from taskvec.core.errors import InputError, LengthError
from taskvec.core.pooling import check_dim
from taskvec.integrations.server.facts import Facts
from taskvec.integrations.server.parsing import JsonRoute
from taskvec.integrations.server.replies import Kind, Listing, item, separated
from taskvec.integrations.server.requests import EmbeddingsRequest
from taskvec.integrations.server.service import Call, Service, lane_of
from taskvec.integrations.server.tracing import encode_span

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/embeddings", response_model=None)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Vectors of texts, in their order. With `late_chunking`, of one document's chunks."""
    return await embed(request.app.state.service, body, request.state.facts)


async def embed(
    service: Service, body: EmbeddingsRequest, facts: Facts, *, wait: bool = False
) -> Listing:
    """The reply. wait: for room in the encoder's queue, instead of being refused."""
    call = service.call(body.model, body.task)
    dim = check_dim(body.dimensions, service.encoder.dims)
    encode = _late if body.late_chunking else _each
    vectors, counts = await encode(service, body, call, dim, facts, wait=wait)
    told = counts if body.token_counts else ()
    return listing(call.model, vectors, body.kind, sum(counts), told)


def listing(
    model: str, vectors: Array, kind: Kind, tokens: int, counts: Sequence[int] = ()
) -> Listing:
    """The reply that holds vectors (B, dim), and the counts of each text's tokens, if any."""
    items = (
        item(vector, kind, {"object": "embedding", "index": index, **told})
        for index, (vector, told) in enumerate(zip(vectors, _told(counts), strict=False))
    )
    return Listing({"model": model, "usage": usage(tokens)}, separated(items))


def _told(counts: Sequence[int]) -> Iterator[dict[str, int]]:
    return ({"tokens": count} for count in counts) if counts else repeat({})


def usage(tokens: int) -> dict[str, int]:
    """The tokens of a request, as both APIs tell them."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


async def _each(
    service: Service, body: EmbeddingsRequest, call: Call, dim: int, facts: Facts, *, wait: bool
) -> tuple[Array, list[int]]:
    counts = await service.counts(body.input, call.task)
    limit = service.encoder.max_tokens
    if not body.truncate:
        for number, count in enumerate(counts):
            if count > limit:
                raise LengthError(
                    f"input[{number}] has {count} tokens, the context holds {limit}: send less, or "
                    "truncate=true, or chunks with late_chunking=true"
                )
    counts = [min(count, limit) for count in counts]
    tokens = sum(counts)
    lane = lane_of(call.task, tokens)
    facts.fill(call.task, lane, texts=len(body.input), tokens=tokens)
    # A lone text, if it is short, is tokenized without the way to a thread.
    texts = body.input[0] if len(body.input) == 1 else body.input
    with encode_span(facts):
        vectors = await service.encoder.aencode(
            texts, task=call.task, dim=dim, lane=lane, wait=wait
        )
    return vectors.reshape(-1, dim), counts


async def _late(
    service: Service, body: EmbeddingsRequest, call: Call, dim: int, facts: Facts, *, wait: bool
) -> tuple[Array, list[int]]:
    document, spans = join_chunks(body.input)
    counts = await service.counts([document], call.task) if spans else []
    facts.fill(call.task, "bulk", texts=len(spans), tokens=sum(counts))
    with encode_span(facts):
        vectors = await service.encoder.aencode_chunks(
            document, spans, task=call.task, dim=dim, wait=wait
        )
    return vectors, counts


def join_chunks(chunks: Sequence[str]) -> tuple[str, list[Span]]:
    """The document that consecutive chunks make, and where each is in it.

    Splitters drop the white space between chunks; where there is none, one space stands for it.
    Raises InputError for an empty chunk.
    """
    parts: list[str] = []
    spans: list[Span] = []
    length = 0
    for number, chunk in enumerate(chunks):
        if not chunk:
            raise InputError(f"input[{number}] is empty: with late_chunking leave it out")
        if parts and not parts[-1][-1].isspace() and not chunk[0].isspace():
            parts.append(" ")
            length += 1
        parts.append(chunk)
        spans.append((length, length + len(chunk)))
        length += len(chunk)
    return "".join(parts), spans
