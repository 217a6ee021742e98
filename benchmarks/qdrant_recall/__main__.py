"""`python -m benchmarks.qdrant_recall`: how much of an exact search Qdrant finds in two stages."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.progress import say
from benchmarks.qdrant_recall import corpus, report
from benchmarks.qdrant_recall.running import run
from benchmarks.qdrant_recall.searches import MOST_CANDIDATES
from taskvec.core import Encoder
from taskvec.core.errors import TaskvecError
from taskvec.core.inputs import check_positive

PASSAGES, QUERIES = 24_000, 1_000
QUICK_PASSAGES, QUICK_QUERIES = 4_000, 200
MAX_TOKENS = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print Markdown; 1 with one line where that cannot be done."""
    given = _parse(arguments)
    try:
        _measure(given)
    except TaskvecError as error:
        say(str(error))
        return 1
    return 0


def _measure(given: argparse.Namespace) -> None:
    passages = given.passages or (QUICK_PASSAGES if given.quick else PASSAGES)
    queries = given.queries or (QUICK_QUERIES if given.quick else QUERIES)
    check_positive("passages", passages, low=2 * MOST_CANDIDATES)
    check_positive("queries", queries, low=2)
    say(f"reading {passages} passages and {queries} queries of Debian's archive")
    texts = corpus.read(given.out / "text", passages, queries)
    with Encoder.load(given.model, max_tokens=given.max_tokens) as encoder:
        made = run(texts, encoder, given.model, given.out)
    print(report.markdown(made))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qdrant_recall", description=__doc__)
    parser.add_argument("--model", default="starter", help="name or folder (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_PASSAGES} passages, {QUICK_QUERIES} queries"
    )
    parser.add_argument("--passages", type=int, help=f"to search ({PASSAGES})")
    parser.add_argument("--queries", type=int, help=f"to search for ({QUERIES})")
    parser.add_argument(
        "--max-tokens", type=int, default=MAX_TOKENS, help="of a text (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/recall"), help="folder (default: %(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
