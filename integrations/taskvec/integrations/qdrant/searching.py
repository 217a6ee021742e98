"""Searches in stages: the small vectors choose candidates, larger ones re-score them."""

from dataclasses import dataclass
from functools import cached_property
from math import inf
from time import perf_counter
from typing import Any

from qdrant_client import models

from taskvec.core.embedder import Array
from taskvec.core.errors import InputError
from taskvec.core.inputs import check_number, check_positive
from taskvec.integrations.qdrant import bm25
from taskvec.integrations.qdrant.encoding import EncodeQuery, shortened
from taskvec.integrations.qdrant.filters import DOCUMENT_ID, Filter, filter_of
from taskvec.integrations.qdrant.hits import Explanation, Hit, Stage, hits_of
from taskvec.integrations.qdrant.layout import vector_name
from taskvec.integrations.qdrant.settings import Settings
from taskvec.integrations.qdrant.steps import Ask, Steps

# How much more than k is looked at, at least; a document may have several chunks among them.
CANDIDATES_PER_HIT = 20
CANDIDATES = 200
GROUPED = 4
# Where no larger dim re-scores what the quantised vectors choose.
OVERSAMPLING = 2.0
# Cormack et al., Reciprocal Rank Fusion outperforms Condorcet, SIGIR 2009.
RRF_K = 60
HAS_RRF_K = hasattr(models, "RrfQuery")
FUSION = "fusion"
GROUPS = "groups"


@dataclass(frozen=True)
class Wish:
    """What a caller searches for, checked. oversampling: None where nothing is quantised."""

    text: str
    k: int
    filter: models.Filter | None
    grouped: bool
    hybrid: bool
    candidates: int
    oversampling: float | None


def wish_of(
    settings: Settings,
    text: str,
    k: int,
    *,
    filter: Filter | None,  # noqa: A002 - the public name
    group_by_document: bool,
    hybrid: bool | None,
    candidates: int | None,
    oversampling: float | None,
    local: bool,
) -> Wish:
    """The wish that a search's options make. Raises InputError for options that make none.

    local: whether the engine is Qdrant's local one, which quantises nothing.
    """
    if not isinstance(text, str):
        raise InputError(f"text is {type(text).__name__}: expected str")
    check_number("k", k)
    check_positive("candidates", candidates, low=k)
    if oversampling is None:
        oversampling = OVERSAMPLING if len(settings.dims) == 1 else 1.0
    if isinstance(oversampling, bool) or not isinstance(oversampling, int | float):
        raise InputError(f"oversampling is {oversampling!r}: expected a number at least 1")
    if not 1 <= oversampling < inf:
        raise InputError(f"oversampling is {oversampling!r}: expected a number at least 1")
    if hybrid and settings.sparse is None:
        raise InputError("hybrid=True needs sparse vectors: create the collection with 'bm25'")
    fused = settings.sparse is not None if hybrid is None else bool(hybrid)
    if group_by_document and fused and local and not HAS_RRF_K:
        raise InputError(
            "grouping a hybrid search in local mode needs qdrant-client 1.16 or newer: give "
            "hybrid=False"
        )
    if candidates is None:
        times = GROUPED if group_by_document else 1
        candidates = max(CANDIDATES, CANDIDATES_PER_HIT * k) * times
    return Wish(
        text=text,
        k=k,
        filter=filter_of(filter),
        grouped=bool(group_by_document),
        hybrid=fused,
        candidates=candidates,
        oversampling=None if local else float(oversampling),
    )


def searching(wish: Wish, settings: Settings, task: str | None) -> Steps[list[Hit]]:
    """The k best chunks, or the best chunk of each of the k best documents."""
    vector = yield EncodeQuery(wish.text, task, settings.full)
    points = yield from _asking(_Plan(wish, settings, vector), wish)
    return hits_of(points, {})


def explaining(wish: Wish, settings: Settings, task: str | None) -> Steps[Explanation]:
    """The same, with what each stage did by itself."""
    started = perf_counter()
    vector = yield EncodeQuery(wish.text, task, settings.full)
    stages = [Stage("encode", settings.full, None, 1, perf_counter() - started)]
    plan = _Plan(wish, settings, vector)
    scores: dict[Any, dict[str, float]] = {}
    for name, dim, limit, request in plan.stages():
        started = perf_counter()
        answer = yield Ask("query_points", {**request, "with_payload": False})
        stages.append(Stage(name, dim, limit, len(answer.points), perf_counter() - started))
        for point in answer.points:
            scores.setdefault(point.id, {})[name] = point.score
    started = perf_counter()
    points = yield from _asking(plan, wish)
    if plan.fused or wish.grouped:
        name = FUSION if plan.fused else GROUPS
        stages.append(Stage(name, None, wish.k, len(points), perf_counter() - started))
    return Explanation(hits_of(points, scores), stages)


def _asking(plan: "_Plan", wish: Wish) -> Steps[list[models.ScoredPoint]]:
    # The filter once more: before 1.16 the local engine forgets that of the stages when it groups.
    request = {**plan.request(), "query_filter": wish.filter, "limit": wish.k, "with_payload": True}
    if not wish.grouped:
        answer = yield Ask("query_points", request)
        points: list[models.ScoredPoint] = answer.points
        return points
    groups = yield Ask("query_points_groups", {**request, "group_by": DOCUMENT_ID, "group_size": 1})
    return [group.hits[0] for group in groups.groups]


@dataclass(frozen=True)
class _Plan:
    """The requests of a wish. vector: (full,), of its text."""

    wish: Wish
    settings: Settings
    vector: Array

    @cached_property
    def queries(self) -> dict[int, list[float]]:
        """The query at each dim."""
        rows = shortened(self.vector[None, :], self.settings.dims)
        return {dim: made for dim, (made,) in rows.items()}

    @cached_property
    def words(self) -> models.SparseVector | None:
        """The query's words, where they count and there are some."""
        return bm25.query_vector(self.wish.text) if self.wish.hybrid else None

    @property
    def fused(self) -> bool:
        """Whether dense and sparse ranks are fused."""
        return self.words is not None

    def request(self) -> dict[str, Any]:
        """The arguments of the whole search, but its limit."""
        dims = self.settings.dims
        if not self.fused:
            return self._dense(len(dims) - 1)
        dense = self._prefetch(self._dense(len(dims) - 1), self.wish.candidates)
        sparse = self._prefetch(self._sparse(), self.wish.candidates)
        return {
            "query": _fusion(),
            "prefetch": [dense, sparse],
        }

    def stages(self) -> list[tuple[str, int | None, int, dict[str, Any]]]:
        """Name, dim, limit and request of each stage that compares vectors."""
        found: list[tuple[str, int | None, int, dict[str, Any]]] = []
        for place, dim in enumerate(self.settings.dims):
            limit = self._limit(place)
            found.append((vector_name(dim), dim, limit, {**self._dense(place), "limit": limit}))
        if self.fused:
            limit = self.wish.candidates
            found.append((bm25.NAME, None, limit, {**self._sparse(), "limit": limit}))
        return found

    def _limit(self, place: int) -> int:
        """How many points the dim at a place keeps: the last one k, or all if they are fused."""
        last = place == len(self.settings.dims) - 1
        return (
            self.wish.k if last and not (self.fused or self.wish.grouped) else self.wish.candidates
        )

    def _dense(self, place: int) -> dict[str, Any]:
        dim = self.settings.dims[place]
        request: dict[str, Any] = {"query": self.queries[dim], "using": vector_name(dim)}
        if place:
            # Only the first stage sees the filter: the others choose from what it found.
            request["prefetch"] = self._prefetch(self._dense(place - 1), self._limit(place - 1))
            return request
        request["query_filter"] = self.wish.filter
        if self.wish.oversampling is not None:
            request["search_params"] = models.SearchParams(quantization=self._quantization())
        return request

    def _quantization(self) -> models.QuantizationSearchParams:
        # A score must be of unquantised vectors, which a larger dim sees to.
        if self.wish.oversampling == 1 and len(self.settings.dims) > 1:
            return models.QuantizationSearchParams(rescore=False)
        return models.QuantizationSearchParams(rescore=True, oversampling=self.wish.oversampling)

    def _sparse(self) -> dict[str, Any]:
        return {"query": self.words, "using": bm25.NAME, "query_filter": self.wish.filter}

    @staticmethod
    def _prefetch(request: dict[str, Any], limit: int) -> models.Prefetch:
        """A request of its own as a stage of another."""
        names = {"query_filter": "filter", "search_params": "params"}
        return models.Prefetch(
            limit=limit, **{names.get(name, name): value for name, value in request.items()}
        )


def _fusion() -> models.Query:
    if HAS_RRF_K:
        return models.RrfQuery(rrf=models.Rrf(k=RRF_K))
    return models.FusionQuery(fusion=models.Fusion.RRF)  # before 1.16, with Qdrant's own k
