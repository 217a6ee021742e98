"""What a collection's vectors depend on, kept in the collection and compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from taskvec.core import Embedder, Roles
from taskvec.core.errors import DimensionError, FingerprintError, InputError
from taskvec.core.inputs import check_positive
from taskvec.core.registry import is_url
from taskvec.integrations.documents.cutting import LONG_CONTEXT, context_of
from taskvec.integrations.qdrant import bm25

META_KEY = "taskvec_collection"
# The widest small vector that is chosen where nothing is said.
SMALL_DIM = 128
SPARSE = {bm25.NAME: f"{bm25.NAME}/{bm25.VERSION}"}
# What else may differ, such as the model's name, changes no vector.
COMPARED = ("query", "passage", "dims", "late_chunking", "context", "sparse")


@dataclass(frozen=True)
class Settings:
    """What a collection was made with.

    query, passage: fingerprints of each role's vectors at the full dim. dims: ascending.
    context: how many characters of a document are encoded at once.
    sparse: how sparse vectors are made, None for none. model: its name, as far as it has one.
    """

    query: str
    passage: str
    dims: tuple[int, ...]
    late_chunking: bool
    context: int
    sparse: str | None
    model: str | None

    @property
    def full(self) -> int:
        """The largest dim."""
        return self.dims[-1]

    def metadata(self) -> dict[str, Any]:
        """What is kept in the collection."""
        return {META_KEY: asdict(self) | {"dims": list(self.dims)}}

    @classmethod
    def read(cls, kept: object) -> Self | None:
        """The settings that something kept is, None if it is something else."""
        try:
            values: dict[str, Any] = dict(kept)  # type: ignore[call-overload]  # or TypeError
            return cls(**values | {"dims": tuple(values["dims"])})
        except (KeyError, TypeError, ValueError):
            return None

    def check_same(self, collection: str, wanted: Self) -> None:
        """Raise FingerprintError unless both mean the same vectors."""
        wrong = [name for name in COMPARED if getattr(self, name) != getattr(wanted, name)]
        if not self.late_chunking and wrong == ["context"]:  # which chunks read alone do not have
            return
        if not wrong:
            return
        shown = ", ".join(
            f"{name} {getattr(self, name)!r}, not {getattr(wanted, name)!r}" for name in wrong
        )
        roles = [name for name in wrong if name in {"query", "passage"}]
        hint = f"the {' and the '.join(roles)} task, or the model, is another; " if roles else ""
        model = "" if self.model is None else f" (model {self.model!r})"
        raise FingerprintError(
            f"collection {collection!r} was made{model} with {shown}: {hint}open it with the "
            "model, tasks and options that it was made with, or create another one"
        )


def choose(
    embedder: Embedder,
    roles: Roles,
    *,
    model: str | None,
    dims: Sequence[int] | None,
    late_chunking: bool,
    context: int | None,
    sparse: str | None,
) -> Settings:
    """The settings that options ask for; loads the model.

    Raises DimensionError for dims that the model was not trained for, InputError for other sparse
    vectors than "bm25".
    """
    check_positive("context", context)
    if sparse is not None and sparse not in SPARSE:
        raise InputError(f"unknown sparse {sparse!r}: use None or 'bm25'")
    chosen = _dims(embedder, dims)
    if context is None:
        context = LONG_CONTEXT if model is None else context_of(model)
    return Settings(
        query=embedder.fingerprint(roles.query, chosen[-1]),
        passage=embedder.fingerprint(roles.passage, chosen[-1]),
        dims=chosen,
        late_chunking=bool(late_chunking),
        context=context,
        sparse=None if sparse is None else SPARSE[sparse],
        model=model,
    )


def as_kept(collection: str, kept: Settings, embedder: Embedder, roles: Roles) -> None:
    """Raise FingerprintError unless the embedder's vectors are those of the collection."""
    if not set(kept.dims) <= set(embedder.dims):
        raise FingerprintError(
            f"collection {collection!r} has dims {kept.dims}, and the model was trained for "
            f"{embedder.dims}: open it with the model that it was made with"
        )
    found = replace(
        kept,
        query=embedder.fingerprint(roles.query, kept.full),
        passage=embedder.fingerprint(roles.passage, kept.full),
        sparse=None if kept.sparse is None else SPARSE[bm25.NAME],
    )
    kept.check_same(collection, found)


def named(model: str, embedder: Embedder | None) -> str | None:
    """What a model is remembered as: nothing where it is injected, or a URL that may hold a key."""
    return None if embedder is not None or is_url(model) else str(model)


def _dims(embedder: Embedder, dims: Sequence[int] | None) -> tuple[int, ...]:
    known = embedder.dims
    if dims is None:
        small = [dim for dim in known[:-1] if dim <= SMALL_DIM]
        return (small[-1], known[-1]) if small else (known[-1],)
    if isinstance(dims, str | int) or not dims:
        raise InputError(f"dims is {dims!r}: expected some of {known}, such as {known[:1]}")
    for dim in dims:
        if isinstance(dim, bool) or dim not in known:
            raise DimensionError(f"unknown dim {dim!r} in dims: the model was trained for {known}")
    return tuple(sorted(set(dims)))
