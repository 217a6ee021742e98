"""Writes documents so that a run which is cut off loses nothing and doubles nothing.

Every chunk is a point, whose id follows from its document's id and its number. The first point of a
document, its head, is written before the others and says what the document is to become, how far
its points may reach, and, once all are written and none is left over, that it is complete.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any
from uuid import uuid5

from qdrant_client import models

from taskvec.core.embedder import Array
from taskvec.integrations.qdrant import bm25
from taskvec.integrations.qdrant.documents import Cut
from taskvec.integrations.qdrant.encoding import EncodeChunks, shortened
from taskvec.integrations.qdrant.filters import DOCUMENT_ID
from taskvec.integrations.qdrant.layout import NAMESPACE, vector_name
from taskvec.integrations.qdrant.settings import Settings
from taskvec.integrations.qdrant.steps import Ask, Steps, Work

STATE = "taskvec"
# Points in one request: with their vectors of all dims some megabytes, of the 32 that are allowed.
POINTS = 128


@dataclass
class Ingested:
    """What a run did, in documents and chunks.

    written: documents that were new or changed. unchanged: those that were there, or came twice.
    chunks: that were written. removed: chunks of former versions that were deleted.
    """

    written: int = 0
    unchanged: int = 0
    chunks: int = 0
    removed: int = 0


@dataclass(frozen=True)
class State:
    """What a head says. chunks: of the version last written; reach: those before it included."""

    digest: str
    complete: bool
    chunks: int
    reach: int

    @property
    def points(self) -> int:
        """One more than the largest number that a point may have."""
        return self.chunks if self.complete else self.reach


def point_id(document_id: str, number: int) -> str:
    """The id of a document's chunk: always the same."""
    return str(uuid5(NAMESPACE, f"{document_id}\0{number}"))


def ingesting(
    batch: Sequence[Cut | None], settings: Settings, task: str | None, counts: Ingested
) -> Steps[None]:
    """Bring some documents' points up to date. counts: what was done is added to them."""
    cuts = [cut for cut in batch if cut is not None]
    states = yield from _states([cut.id for cut in cuts])
    changed = [cut for cut in cuts if not _is_there(cut, states.get(cut.id))]
    filled = [cut for cut in changed if cut.spans]
    emptied = [cut.id for cut in changed if not cut.spans]
    if filled:
        counts.removed += yield from _writing(filled, states, settings, task)
    counts.removed += yield from _removing({id_: states[id_] for id_ in emptied})
    counts.written += len(changed)
    counts.unchanged += len(batch) - len(changed)
    counts.chunks += sum(len(cut.spans) for cut in filled)


def deleting(document_ids: Sequence[str]) -> Steps[int]:
    """Delete documents; gives how many there were."""
    found = 0
    for some in _slices(document_ids):
        states = yield from _states(some)
        yield from _removing(states)
        found += len(states)
    return found


def _writing(
    cuts: Sequence[Cut], states: dict[str, State], settings: Settings, task: str | None
) -> Steps[int]:
    context = settings.context if settings.late_chunking else None
    vectors = yield EncodeChunks(cuts, task, settings.full, context)
    heads, others = yield Work(partial(_points, cuts, states, settings, vectors))
    for points in (heads, others):
        for some in _slices(points):
            yield Ask("upsert", {"points": some, "wait": True})
    former = [
        point_id(cut.id, number)
        for cut in cuts
        if cut.id in states
        for number in range(len(cut.spans), states[cut.id].points)
    ]
    yield from _dropping(former)
    yield from _finishing(cuts, states)
    return len(former)


def _finishing(cuts: Sequence[Cut], before: dict[str, State]) -> Steps[None]:
    """Mark documents complete; those that another run wrote meanwhile are to be written again."""
    found = yield from _states([cut.id for cut in cuts])
    kept = [cut for cut in cuts if cut.id in found]
    ours = [cut.id for cut in kept if found[cut.id].digest == cut.digest]
    yield from _marking([point_id(id_, 0) for id_ in ours], complete=True)
    for cut in kept:
        if found[cut.id].digest == cut.digest:
            continue
        known = before.get(cut.id)
        reach = max(len(cut.spans), found[cut.id].reach, known.points if known else 0)
        # Of no version, so that the other run does not take it for its own, either.
        state = {"digest": "", "complete": False, "reach": reach}
        heads = [point_id(cut.id, 0)]
        yield Ask("set_payload", {"payload": state, "points": heads, "key": STATE, "wait": True})


def _removing(states: dict[str, State]) -> Steps[int]:
    """Delete documents by their states; gives how many chunks they had, at most."""
    # First, or a run that ends in between leaves heads that call the remains complete. The heads
    # last: without them the others could not be found any more.
    yield from _marking([point_id(id_, 0) for id_ in states], complete=False)
    yield from _dropping([
        point_id(id_, number) for id_, state in states.items() for number in range(1, state.points)
    ])  # fmt: skip
    yield from _dropping([point_id(id_, 0) for id_ in states])
    return sum(state.points for state in states.values())


def _marking(heads: Sequence[str], *, complete: bool) -> Steps[None]:
    for some in _slices(heads):
        marks = {"payload": {"complete": complete}, "points": some, "key": STATE, "wait": True}
        yield Ask("set_payload", marks)


def _dropping(ids: Sequence[str]) -> Steps[None]:
    for some in _slices(ids, 1_000):
        yield Ask("delete", {"points_selector": list(some), "wait": True})


def _states(document_ids: Sequence[str]) -> Steps[dict[str, State]]:
    """What the heads of documents say, of those that have one."""
    states: dict[str, State] = {}
    for some in _slices(document_ids, 1_000):
        arguments = {
            "ids": [point_id(id_, 0) for id_ in some],
            "with_payload": [DOCUMENT_ID, STATE],
            "with_vectors": False,
        }
        for record in (yield Ask("retrieve", arguments)):
            states[record.payload[DOCUMENT_ID]] = State(**record.payload[STATE])
    return states


def _is_there(cut: Cut, state: State | None) -> bool:
    if state is None:
        return not cut.spans
    return state.complete and state.digest == cut.digest


def _points(
    cuts: Sequence[Cut], states: dict[str, State], settings: Settings, vectors: Array
) -> tuple[list[models.PointStruct], list[models.PointStruct]]:
    """The heads of documents, and their other points."""
    rows = shortened(vectors, settings.dims)
    firsts = accumulate((len(cut.spans) for cut in cuts), initial=0)
    heads: list[models.PointStruct] = []
    others: list[models.PointStruct] = []
    for cut, first in zip(cuts, firsts, strict=False):
        known = states.get(cut.id)
        state = {
            "digest": cut.digest,
            "complete": False,
            "chunks": len(cut.spans),
            "reach": max(len(cut.spans), known.points if known else 0),
        }
        for number in range(len(cut.spans)):
            dense = {vector_name(dim): rows[dim][first + number] for dim in rows}
            extra = {STATE: state} if number == 0 else {}
            point = _point(cut, number, dense, extra, sparse=settings.sparse is not None)
            (others if number else heads).append(point)
    return heads, others


def _point(
    cut: Cut, number: int, vectors: dict[str, Any], extra: dict[str, Any], *, sparse: bool
) -> models.PointStruct:
    start, end = cut.spans[number]
    text = cut.text[start:end]
    words = bm25.passage_vector(text) if sparse else None
    payload = {
        DOCUMENT_ID: cut.id,
        "chunk": number,
        "start": start,
        "end": end,
        "text": text,
        "metadata": cut.metadata,
        **extra,
    }
    return models.PointStruct(
        id=point_id(cut.id, number),
        vector=vectors if words is None else {**vectors, bm25.NAME: words},
        payload=payload,
    )


def _slices(items: Sequence[Any], size: int = POINTS) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
