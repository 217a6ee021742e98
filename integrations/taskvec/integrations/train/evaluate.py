"""Finding a held-out docstring's remaining text from its first sentence: three figures.

`python -m taskvec.integrations.train.evaluate [MODEL]` prints them as a Markdown table, for a
model (default: the packaged starter), for the starter's teacher and for BM25.
"""

import argparse
import platform
import re
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from taskvec.core import Encoder
from taskvec.core.errors import MissingExtraError
from taskvec.integrations.train.loras import pooled
from taskvec.integrations.train.student import TEACHER_MAX_TOKENS, load_teacher, teacher_folder
from taskvec.integrations.train.texts.docstrings import Docstring, docstring_pairs

try:
    import bm25s  # type: ignore[import-untyped]
    import Stemmer  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError as error:
    raise MissingExtraError("the comparison with BM25", "train") from error

Array = npt.NDArray[np.float32]
SMALL_DIM = 64
STOPWORDS = frozenset(bm25s.stopwords.STOPWORDS_EN)
BM25_METHODS = ("lucene", "bm25+")
BM25_GRID = [(k1, b) for k1 in (0.9, 1.2, 1.5, 2.0) for b in (0.5, 0.75, 0.9)]


class Recall(NamedTuple):
    """Shares of queries whose own text is first, and among the first ten."""

    at_1: float
    at_10: float


def recall(scores: Array) -> Recall:
    """Recall of queries whose own passage has the same index. scores: (B, B), higher is nearer.

    A tie counts against the right passage.
    """
    own = np.diagonal(scores)[:, None]
    better = (scores >= own).sum(1) - 1
    return Recall(float((better < 1).mean()), float((better < 10).mean()))


def unit(vectors: Array) -> Array:
    """Rows divided by their L2 norm."""
    normed: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return normed


def encoder_recall(encoder: Encoder, pairs: Sequence[Docstring], dim: int | None) -> Recall:
    """Query LoRA against passage LoRA, whole texts, at a Matryoshka dim."""
    queries = encoder.encode([pair.first for pair in pairs], task="retrieval.query", dim=dim)
    passages = encoder.encode([pair.rest for pair in pairs], task="retrieval.passage", dim=dim)
    return recall(queries @ passages.T)


def teacher_vectors(texts: Sequence[str]) -> Array:
    """all-MiniLM-L6-v2's vectors, float32, texts cut at its own 256 tokens: (B, 384)."""
    tokenizer = Tokenizer.from_file(str(teacher_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with torch.inference_mode():
        vectors = pooled(load_teacher(), tokenizer, texts, TEACHER_MAX_TOKENS)
    return unit(vectors.numpy())


def teacher_recall(pairs: Sequence[Docstring]) -> tuple[Recall, Recall]:
    """The teacher's recall at its full 384 dims, and at its first 64."""
    queries = teacher_vectors([pair.first for pair in pairs])
    passages = teacher_vectors([pair.rest for pair in pairs])
    small = unit(queries[:, :SMALL_DIM]) @ unit(passages[:, :SMALL_DIM]).T
    return recall(queries @ passages.T), recall(small)


def words(text: str, *, cut_names: bool, stem: bool) -> list[str]:
    """BM25's words: lower case, English stop words left out.

    cut_names: names such as `get_x` give two words; stem: words lose their English endings.
    """
    pattern = r"[a-z0-9]+" if cut_names else r"\w+"
    found = [word for word in re.findall(pattern, text.lower()) if word not in STOPWORDS]
    stems: list[str] = Stemmer.Stemmer("english").stemWords(found) if stem else found
    return stems


def bm25_recall(pairs: Sequence[Docstring]) -> tuple[Recall, str]:
    """BM25 at the setting that suits it best on these very pairs, and that setting in words."""
    tried = []
    for cut_names, stem in product((True, False), repeat=2):
        passages = [words(pair.rest, cut_names=cut_names, stem=stem) for pair in pairs]
        queries = [words(pair.first, cut_names=cut_names, stem=stem) for pair in pairs]
        told = f"{'stemmed' if stem else 'unstemmed'}, names {'cut at _' if cut_names else 'whole'}"
        for method, (k1, b) in product(BM25_METHODS, BM25_GRID):
            index = bm25s.BM25(method=method, k1=k1, b=b)
            index.index(passages, show_progress=False)
            scores = np.stack([_scores(index, query, len(pairs)) for query in queries])
            tried.append((recall(scores), f"{method}, k1={k1}, b={b}, {told}"))
    return max(tried, key=lambda entry: entry[0].at_10)


def _scores(index: bm25s.BM25, query: list[str], count: int) -> Array:
    known = [word for word in query if word in index.vocab_dict]
    if not known:
        return np.zeros(count, dtype=np.float32)
    return np.asarray(index.get_scores(known), dtype=np.float32)


def table(encoder: Encoder, name: str, pairs: Sequence[Docstring]) -> str:
    """The Markdown table of the three, and what it was measured on."""
    full, small = encoder_recall(encoder, pairs, None), encoder_recall(encoder, pairs, SMALL_DIM)
    teacher, teacher_small = teacher_recall(pairs)
    bm25, setting = bm25_recall(pairs)
    rows = [
        (f"{name}, {encoder.dim} dims", full),
        (f"{name}, {SMALL_DIM} dims", small),
        ("all-MiniLM-L6-v2 (teacher), 384 dims", teacher),
        (f"all-MiniLM-L6-v2 (teacher), first {SMALL_DIM} dims", teacher_small),
        (f"BM25 ({setting})", bm25),
    ]
    lines = ["| model | recall@1 | recall@10 |", "|---|---|---|"]
    lines += [f"| {label} | {value.at_1:.3f} | {value.at_10:.3f} |" for label, value in rows]
    modules = len({pair.module.split(".")[0] for pair in pairs})
    version = platform.python_version()
    lines += ["", f"{len(pairs)} docstrings of {modules} held-out modules, Python {version}."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="starter", help="name or folder of a model")
    model = parser.parse_args(arguments).model
    with Encoder.load(model, dtype="float32") as encoder:
        print(table(encoder, model, docstring_pairs("test")))  # noqa: T201


if __name__ == "__main__":
    main()
