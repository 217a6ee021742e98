"""BM25 as sparse vectors: weights of words, made here, and their rarity, which Qdrant knows.

Qdrant's own "qdrant/bm25" needs a server, or fastembed and its lists of stop words. These vectors
are the same with a server and in local mode, offline, and for any language that parts its words;
they know neither stop words nor stems.
"""

import re
from collections import Counter
from hashlib import blake2b
from unicodedata import normalize

from qdrant_client import models

NAME = "bm25"
WORD = re.compile(r"[^\W_]+")
# The usual ones: Robertson and Zaragoza, The Probabilistic Relevance Framework, section 3.
K1 = 1.2
B = 0.75
# Words of a chunk of the default length, about. A constant, for a vector must not depend on others.
AVERAGE_WORDS = 100
# Kept with a collection: raise it when a text's vector would become another.
VERSION = 1


def passage_vector(text: str) -> models.SparseVector | None:
    """A passage's words, each with its saturated and length-normalised count; None without words.

    Source: doi:10.1561/1500000019, section 3.
    """
    counts = Counter(map(_index, _words(text)))
    norm = K1 * (1 - B + B * sum(counts.values()) / AVERAGE_WORDS)
    weights = {index: n * (K1 + 1) / (n + norm) for index, n in sorted(counts.items())}
    return _sparse(weights)


def query_vector(text: str) -> models.SparseVector | None:
    """A query's words, each once; None without words."""
    return _sparse(dict.fromkeys(sorted(map(_index, _words(text))), 1.0))


def _words(text: str) -> list[str]:
    return WORD.findall(normalize("NFKC", text.casefold()))


def _index(word: str) -> int:
    # 32 bits are all that Qdrant takes; two words of one number are counted as one.
    digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _sparse(weights: dict[int, float]) -> models.SparseVector | None:
    if not weights:
        return None
    return models.SparseVector(indices=list(weights), values=list(weights.values()))
