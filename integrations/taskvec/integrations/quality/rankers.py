"""What ranks the documents of a collection: a model at a dim, a peer, or BM25."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import bm25s  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import Stemmer  # type: ignore[import-not-found,import-untyped,unused-ignore]

from taskvec.core import Embedder
from taskvec.core.embedder import Array
from taskvec.integrations.quality.collections import Collection

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Of each query, the documents that the metrics see.
DEPTH = 100
BLOCK = 256
Indices = npt.NDArray[np.intp]
Ranking = Mapping[str, Mapping[str, float]]
STOPWORDS = frozenset(bm25s.stopwords.STOPWORDS_EN)


class Entry(NamedTuple):
    """One line of a report: who ranked, at which dim (0: no vectors), and the ranking."""

    name: str
    dim: int
    ranking: Ranking


class Ranker(Protocol):
    """Something that ranks a collection, once for each dim that it is asked for."""

    def rank(self, collection: Collection) -> list[Entry]:
        """The documents of every query, by score."""


class Once:
    """An encode that remembers: no text is encoded twice, whichever sets it is in."""

    def __init__(self, encode: Callable[[list[str]], Array]) -> None:
        self._encode = encode
        self._known: dict[str, Array] = {}

    def __call__(self, texts: Iterable[str]) -> Array:
        """Vectors (B, D) of texts."""
        texts = list(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, self._encode(new), strict=True)
        return np.stack([self._known[text] for text in texts])


class Model:
    """An embedder, queries with one task and documents with another, at some dims.

    Every text is encoded once: a smaller dim is a prefix of the full vector.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        *,
        dims: Sequence[int] | None = None,
        tasks: tuple[str | None, str | None] = ("retrieval.query", "retrieval.passage"),
    ) -> None:
        self.name = name
        self.embedder = embedder
        self.dims = tuple(dims or (embedder.dim,))
        self.tasks = tasks
        query, document = tasks
        self._queries = Once(lambda texts: embedder.encode(texts, task=query))
        self._documents = Once(
            lambda texts: embedder.encode(texts, task=document, show_progress=True)
        )

    def rank(self, collection: Collection) -> list[Entry]:
        """A ranking for each dim, the first ones first. Raises DimensionError for a foreign dim."""
        for dim in self.dims:
            self.embedder.encode([], task=self.tasks[0], dim=dim)
        queries = self._queries(collection.queries.values())
        documents = self._documents(collection.documents.values())
        return [
            Entry(self.name, dim, nearest(collection, prefix(queries, dim), prefix(documents, dim)))
            for dim in self.dims
        ]


class Peer:
    """A sentence-transformers model, with its own prompts for queries and documents."""

    def __init__(self, name: str, model: "SentenceTransformer") -> None:
        self.name = name
        self.model = model
        self._queries = Once(lambda texts: unit(model.encode_query(texts)))
        self._documents = Once(
            lambda texts: unit(model.encode_document(texts, show_progress_bar=True))
        )

    def rank(self, collection: Collection) -> list[Entry]:
        """One ranking, at the model's own dim."""
        queries = self._queries(collection.queries.values())
        documents = self._documents(collection.documents.values())
        return [Entry(self.name, queries.shape[1], nearest(collection, queries, documents))]


class Bm25:
    """BM25 (Lucene's, k1 = 1.5, b = 0.75) over stemmed English words, names cut at underscores."""

    name = "BM25"

    def rank(self, collection: Collection) -> list[Entry]:
        """One ranking; a query whose words no document has finds nothing."""
        stemmer = Stemmer.Stemmer("english")
        index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        documents = [_words(text, stemmer) for text in collection.documents.values()]
        index.index(documents, show_progress=False)
        keys = list(collection.documents)
        ranking = {}
        for query, text in collection.queries.items():
            known = [word for word in _words(text, stemmer) if word in index.vocab_dict]
            scores = index.get_scores(known) if known else np.zeros(len(keys), dtype=np.float32)
            best = [i for i in _best(scores[None, :], DEPTH)[0] if scores[i] > 0]
            ranking[query] = {keys[i]: float(scores[i]) for i in best}
        return [Entry(self.name, 0, ranking)]


def _words(text: str, stemmer: Stemmer.Stemmer) -> list[str]:
    found = [word for word in re.findall(r"[^\W_]+", text.lower()) if word not in STOPWORDS]
    stems: list[str] = stemmer.stemWords(found)
    return stems


def nearest(collection: Collection, queries: Array, documents: Array) -> Ranking:
    """The DEPTH documents of highest cosine for each query, all compared. Unit rows."""
    keys = list(collection.documents)
    names = list(collection.queries)
    ranking = {}
    for start in range(0, len(names), BLOCK):
        scores = queries[start : start + BLOCK] @ documents.T
        for name, row, best in zip(names[start:], scores, _best(scores, DEPTH), strict=False):
            ranking[name] = {keys[i]: float(row[i]) for i in best}
    return ranking


def _best(scores: Array, count: int) -> Indices:
    """Columns of the highest scores of each row, best first. scores: (Q, N) -> (Q, count)."""
    count = min(count, scores.shape[1])
    some = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    best: Indices = np.take_along_axis(some, order, 1)
    return best


def prefix(vectors: Array, dim: int) -> Array:
    """The first dims of unit vectors, made unit again."""
    return vectors if dim == vectors.shape[1] else unit(vectors[:, :dim])


def unit(vectors: Array) -> Array:
    """Rows divided by their L2 norm."""
    normed: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return normed
