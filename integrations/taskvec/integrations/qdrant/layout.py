"""How a collection's vectors and payload are laid out in Qdrant."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias
from uuid import UUID

from qdrant_client import models

from taskvec.core.errors import InputError
from taskvec.integrations.qdrant import bm25
from taskvec.integrations.qdrant.filters import DOCUMENT_ID, path_of

Quantization: TypeAlias = Literal["scalar", "binary"]

# Ids are derived from it: with another one, every collection would be made anew.
NAMESPACE = UUID("0e1cf1b0-6d3c-5c55-8f55-9a3f6d0d7b42")
QUANTIZATIONS: dict[str, models.QuantizationConfig] = {
    "scalar": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(
            type=models.ScalarType.INT8, quantile=0.99, always_ram=True
        )
    ),
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
}
KINDS = tuple(kind.value for kind in models.PayloadSchemaType)


def vector_name(dim: int) -> str:
    """What the vectors of a dim are called."""
    return f"d{dim}"


def dense_vectors(
    dims: Sequence[int], quantization: Quantization | None
) -> dict[str, models.VectorParams]:
    """The smallest dim is searched: by HNSW and quantised, in memory. The others re-score.

    Those lie on disk without a graph, which would cost much and never be walked; and so does what
    was quantised, which would take as much memory as if it were not.
    Raises InputError for an unknown quantisation.
    """
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise InputError(f"unknown quantization {quantization!r}: use None, 'scalar' or 'binary'")
    small, *others = dims
    searched = models.VectorParams(
        size=small,
        distance=models.Distance.COSINE,
        on_disk=quantization is not None,
        quantization_config=None if quantization is None else QUANTIZATIONS[quantization],
    )
    rescoring = {
        vector_name(dim): models.VectorParams(
            size=dim,
            distance=models.Distance.COSINE,
            on_disk=True,
            hnsw_config=models.HnswConfigDiff(m=0),
        )
        for dim in others
    }
    return {vector_name(small): searched, **rescoring}


def quantization_of(vectors: object, dim: int) -> str | None:
    """What the vectors of a dim are quantised by, among those of a collection; None: nothing."""
    params = vectors.get(vector_name(dim)) if isinstance(vectors, Mapping) else None
    given = getattr(params, "quantization_config", None)
    kinds = (kind for kind, config in QUANTIZATIONS.items() if isinstance(given, type(config)))
    return None if given is None else next(kinds, type(given).__name__)


def sparse_vectors(*, wanted: bool) -> dict[str, models.SparseVectorParams] | None:
    """Words, weighted by their rarity, which Qdrant counts."""
    if not wanted:
        return None
    return {bm25.NAME: models.SparseVectorParams(modifier=models.Modifier.IDF)}


def payload_indexes(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What to index: the fields of metadata that are asked for, and the documents' ids.

    Raises InputError for a kind of index that Qdrant does not have.
    """
    indexes: dict[str, Any] = {DOCUMENT_ID: models.PayloadSchemaType.KEYWORD}
    if given is not None and not isinstance(given, Mapping):
        raise InputError(
            f"payload_indexes is {type(given).__name__}: expected a mapping such as "
            "{'year': 'integer'}"
        )
    for key, kind in (given or {}).items():
        if isinstance(kind, str) and kind not in KINDS:
            raise InputError(f"unknown payload index {kind!r} of {key!r}: use one of {KINDS}")
        indexes[path_of("payload_indexes", key)] = kind
    return indexes
