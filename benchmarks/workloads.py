"""Texts of chosen lengths, the same for every peer."""

import numpy as np

from benchmarks.models import tokenizer

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")


def texts(lengths: list[int]) -> list[str]:
    """One text per length, of that many tokens with specials and without a prompt."""
    words = [piece for piece in tokenizer().get_vocab() if piece.isalpha() and piece.isascii()]
    rng = np.random.default_rng(0)
    chosen = sorted(words)
    return [" ".join(rng.choice(chosen, size=max(1, length - 2))) for length in lengths]


def log_normal_lengths(count: int, median: int = 100, longest: int = 512) -> list[int]:
    """Lengths as texts have them: many short, a few long."""
    drawn = np.random.default_rng(1).lognormal(np.log(median), 0.8, size=count)
    return [int(length) for length in np.clip(drawn, 4, longest)]
