"""What a search finds, and how it came about."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import models

from taskvec.core.embedder import Span

KEYS = {"document_id", "chunk", "text", "start", "end", "metadata"}


@dataclass(frozen=True)
class Hit:
    """A chunk that a search found.

    id: of the point. document_id, metadata: of the document. chunk: its number there, from 0.
    span: its half-open range of characters in the document.
    score: cosine similarity at the largest dim; of a hybrid search, the fused ranks' score.
    scores: in an explained search, the score in each stage that had this chunk; the smallest dim's
        is of its quantised vectors. Empty without `explain=True`.
    """

    id: str
    document_id: str
    chunk: int
    text: str
    span: Span
    score: float
    metadata: dict[str, Any]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A step of a search.

    name: "encode", or of the vector that was compared ("d128", "bm25"), or what made the hits of
        what was compared: "fusion" or "groups".
    dim: of dense vectors. limit: the most points that it may keep. found: those that it kept.
    time_s: of a request of its own, in which the stages that it builds on ran again.
    """

    name: str
    dim: int | None
    limit: int | None
    found: int
    time_s: float

    def __str__(self) -> str:
        kept = "" if self.limit is None else f"  {self.found} of at most {self.limit}"
        return f"{self.name}: {self.time_s * 1_000:.1f} ms{kept}"


@dataclass(frozen=True)
class Explanation:
    """An explained search: its hits, best first, and its stages in order."""

    hits: list[Hit]
    stages: list[Stage]

    def __str__(self) -> str:
        return "\n".join(map(str, self.stages))


def hits_of(
    points: Iterable[models.ScoredPoint], scores: Mapping[Any, Mapping[str, float]]
) -> list[Hit]:
    """The hits among points, without those of users' own. scores: of the stages, by point."""
    return [
        _hit(point, scores.get(point.id, {}))
        for point in points
        if point.payload and point.payload.keys() >= KEYS
    ]


def _hit(point: models.ScoredPoint, scores: Mapping[str, float]) -> Hit:
    payload = point.payload or {}
    return Hit(
        id=str(point.id),
        document_id=payload["document_id"],
        chunk=payload["chunk"],
        text=payload["text"],
        span=(payload["start"], payload["end"]),
        score=point.score,
        metadata=payload["metadata"],
        scores=scores,
    )
