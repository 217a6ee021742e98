"""Qdrant's own engine in process, with every vector that the searches need."""

from collections.abc import Sequence
from pathlib import Path

import qdrant_edge as edge
from tqdm import tqdm

from benchmarks.progress import say
from benchmarks.qdrant_recall.searches import QUANTISATIONS, RESCORED, K, Search
from taskvec.core.embedder import Array
from taskvec.core.pooling import cut
from taskvec.core.writing import new_folder

ENGINE = "qdrant-edge-py"
# Qdrant's defaults, and no graph.
M, EF_CONSTRUCT, NO_GRAPH = 16, 100, 0
# Of each dim's values, those that int8 spans.
QUANTILE = 0.99
# Kilobytes from which vectors get a graph: so few that all do.
ALWAYS = 1
BUILT_WITH = {"m": M, "ef_construct": EF_CONSTRUCT, "quantile": QUANTILE}
BATCH = 256
GRAPH_FILES = ("graph.bin", "links_compressed.bin")


class Index:
    """A shard of passages, numbered from 0, searched in one thread.

    Its named vectors are `small-DIM-QUANTISATION`, in memory as quantised and with a graph, and
    `full-DIM`, on disk and without one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shard = edge.EdgeShard.load(str(folder))

    @classmethod
    def opened(cls, folder: Path, vectors: Array, dims: Sequence[int]) -> "Index":
        """The index of a folder, built where it is missing. vectors: (P, D) float32, unit norm."""
        if not folder.exists():
            with new_folder(folder) as scratch:
                _build(scratch, vectors, dims)
        return cls(folder)

    def request(self, search: Search, query: Array) -> edge.QueryRequest:
        """A search for a query's vector, (D,) float32, to be run as often as one likes."""
        first = _nearest(_small(search.small, search.quantisation), query, search.small)
        if search.full in (None, search.small):
            return edge.QueryRequest(limit=K, query=first, params=_params(search))
        stage = edge.Prefetch(limit=search.candidates, query=first, params=_params(search))
        second = _nearest(_full(search.dim), query, search.dim)
        return edge.QueryRequest(limit=K, query=second, prefetches=[stage])

    def run(self, request: edge.QueryRequest) -> list[int]:
        """Numbers of the passages found, the nearest first."""
        return [int(point.id) for point in self._shard.query(request)]

    def graph_bytes(self, search: Search) -> float:
        """Of the first stage's graph, by passage."""
        files = self._files("vector_index", search)
        return sum(files[name] for name in GRAPH_FILES) / self._passages

    def vector_bytes(self, search: Search) -> float:
        """Of the first stage's vector as it is searched, by passage."""
        files = self._files("vector_storage", search)
        name = "matrix.dat" if search.quantisation == "none" else "quantized.data"
        return files[name] / self._passages

    def _files(self, kind: str, search: Search) -> dict[str, int]:
        """Sizes of a vector's files, in the one segment that graphs were built for."""
        name = _small(search.small, search.quantisation)
        [graph] = self._folder.glob(f"segments/*/vector_index-{name}")
        return {
            path.name: path.stat().st_size for path in (graph.parent / f"{kind}-{name}").iterdir()
        }

    @property
    def _passages(self) -> int:
        return int(self._shard.info().points_count)

    def close(self) -> None:
        """Let go of the shard's files and memory."""
        self._shard.close()


def _build(folder: Path, vectors: Array, dims: Sequence[int]) -> None:
    parts = {name: cut(vectors, params.size) for name, params in _vectors(dims).items()}
    config = edge.EdgeConfig(
        vectors=_vectors(dims),
        optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=ALWAYS),
        max_search_threads=1,
        wal_enabled=False,
    )
    shard = edge.EdgeShard.create(str(folder), config)
    for start in tqdm(range(0, len(vectors), BATCH), desc="storing", unit="batch"):
        points = [
            edge.Point(i, {name: part[i].tolist() for name, part in parts.items()})
            for i in range(start, min(start + BATCH, len(vectors)))
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    say(f"building {len(dims) * len(QUANTISATIONS)} graphs over {len(vectors)} passages")
    shard.optimize()
    shard.flush()
    shard.close()


def _vectors(dims: Sequence[int]) -> dict[str, edge.EdgeVectorParams]:
    cosine, memory = edge.Distance.Cosine, edge.Memory
    made = {
        _small(dim, name): edge.EdgeVectorParams(
            dim,
            cosine,
            quantization_config=_quantisation(name),
            hnsw_config=_graph(M),
            memory=memory.Cached if name == "none" else memory.Cold,
        )
        for dim in dims
        for name in QUANTISATIONS
    }
    return made | {
        _full(dim): edge.EdgeVectorParams(
            dim, cosine, hnsw_config=_graph(NO_GRAPH), memory=memory.Cold
        )
        for dim in dims
    }


def _graph(links: int) -> edge.HnswIndexConfig:
    return edge.HnswIndexConfig(
        m=links,
        ef_construct=EF_CONSTRUCT,
        full_scan_threshold=ALWAYS,
        max_indexing_threads=1,
        memory=edge.Memory.Pinned,
    )


def _quantisation(
    name: str,
) -> edge.ScalarQuantizationConfig | edge.BinaryQuantizationConfig | None:
    pinned = edge.Memory.Pinned
    if name == "scalar":
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, QUANTILE, memory=pinned)
    return edge.BinaryQuantizationConfig(memory=pinned) if name == "binary" else None


def _params(search: Search) -> edge.SearchParams:
    """Re-scored is only where the search asks for it: of two stages the second does the same."""
    own = search.full == search.small
    factor = search.oversampling if own else RESCORED if search.rescored else None
    scoring = edge.QuantizationSearchParams(
        rescore=factor is not None, oversampling=None if factor is None else float(factor)
    )
    return edge.SearchParams(exact=search.exact, quantization=scoring)


def _nearest(name: str, query: Array, dim: int) -> edge.Query:
    return edge.Query.Nearest(cut(query[None], dim)[0].tolist(), using=name)


def _small(dim: int, quantisation: str) -> str:
    return f"small-{dim}-{quantisation}"


def _full(dim: int) -> str:
    return f"full-{dim}"
