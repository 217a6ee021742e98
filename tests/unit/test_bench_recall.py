"""The recall of searches in stages: what counts, what is drawn, a small run in the engine."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.qdrant_recall import corpus, plots, running, vectors
from benchmarks.qdrant_recall.__main__ import main
from benchmarks.qdrant_recall.corpus import Corpus, Pair
from benchmarks.qdrant_recall.engine import Index
from benchmarks.qdrant_recall.measuring import Found, least_of_best, recall
from benchmarks.qdrant_recall.report import Run
from benchmarks.qdrant_recall.searches import (
    OVERSAMPLING,
    QUANTISATIONS,
    K,
    Search,
    searches,
    vector_bytes,
)
from taskvec.core import Encoder
from taskvec.core.errors import InputError
from taskvec.core.pooling import cut
from taskvec.integrations.train.recipe.aligned import is_held_out
from tests.checkpoints import DIMS, WORDS


def texts(count: int, seed: int) -> tuple[str, ...]:
    """Different texts of a few words that the tiny model's tokenizer knows."""
    rng = np.random.default_rng(seed)
    drawn = {" ".join(rng.choice(WORDS, size=int(rng.integers(4, 12)))) for _ in range(count)}
    return tuple(sorted(drawn))


def test_recall_counts_the_best_that_were_found() -> None:
    scores = np.arange(20, dtype=np.float32)[None] / 20  # the best are 10 to 19
    found = np.array([[19, 18, 17, 16, 15, 9, 8, 7, -1, -1]])
    assert recall(scores, least_of_best(scores), found).tolist() == [0.5]
    assert recall(scores, least_of_best(scores), np.arange(10, 20)[None]).tolist() == [1]


def test_nothing_found_is_no_hit_even_where_the_first_passage_is_best() -> None:
    scores = -np.arange(20, dtype=np.float32)[None]
    assert recall(scores, least_of_best(scores), np.full((1, K), -1)).tolist() == [0]


def test_passages_of_equal_scores_stand_for_each_other() -> None:
    scores = np.array([[0.5] * 12 + [0.1] * 8], np.float32)
    assert recall(scores, least_of_best(scores), np.arange(2, 12)[None]).tolist() == [1]
    assert recall(scores, least_of_best(scores), np.arange(10, 20)[None]).tolist() == [0.2]


@pytest.mark.parametrize(
    ("dim", "kind", "size"),
    [
        (128, "none", 512),
        (128, "scalar", 132),
        (128, "binary", 16),
        (32, "binary", 16),
        (8, "scalar", 20),
    ],
)
def test_bytes_of_a_vector(dim: int, kind: str, size: int) -> None:
    assert vector_bytes(dim, kind) == size


def test_what_was_quantised_and_the_second_stages_vectors_lie_on_disk() -> None:
    assert Search(64).disk_bytes == 0
    assert Search(64, full=256).disk_bytes == 1024
    assert Search(64, "binary", 256).disk_bytes == 256 + 1024
    assert Search(256, "scalar", 256).disk_bytes == 1024


def test_every_pair_of_dims_is_searched_in_every_quantisation() -> None:
    made = searches(DIMS)
    assert len(made) == len(set(made))
    pairs = {(one.small, one.full) for one in made if one.full and one.small < one.full}
    assert pairs == {(8, 16), (8, 32), (16, 32)}
    ends = [one for one in made if (one.small, one.full) == (8, 32) and not one.rescored]
    kinds = {(one.quantisation, one.oversampling) for one in ends}
    assert kinds == {(kind, factor) for kind in QUANTISATIONS for factor in OVERSAMPLING}


def pairs(count: int, kind: str) -> list[Pair]:
    return [Pair(f"{kind}{i}", f"title {kind} {i}", f"passage {kind} {i}") for i in range(count)]


def test_a_corpus_holds_no_query_and_asks_for_what_was_held_out() -> None:
    first = [*pairs(200, "a"), Pair("twin", "title a 3", "another passage of a title")]
    made = corpus.drawn([first, pairs(200, "b")], passages=300, queries=20)
    assert len(set(made.passages)) == 300
    assert len(set(made.queries)) == 20
    assert not set(made.queries) & set(made.passages)
    keys = [query.replace("title ", "").replace(" ", "") for query in made.queries]
    assert all(is_held_out(key) for key in keys)
    assert sum(key.startswith("a") for key in keys) == 10
    assert all(query.replace("title", "passage") in made.passages for query in made.queries)
    assert corpus.drawn([first, pairs(200, "b")], passages=300, queries=20) == made


def test_a_corpus_that_is_too_small_says_by_how_much() -> None:
    with pytest.raises(InputError, match="50 passages of each kind were asked for, and one has 30"):
        corpus.drawn([pairs(60, "a"), pairs(30, "b")], passages=100, queries=2)


def test_an_encoding_that_was_stopped_goes_on_and_gives_the_same(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "BLOCK", 10)
    some = texts(25, seed=3)
    vectors.encoded(some[:10], "retrieval.passage", encoder, tmp_path)
    before = encoder.stats().texts
    found = vectors.encoded(some, "retrieval.passage", encoder, tmp_path)
    assert encoder.stats().texts == before + len(some) - 10
    want = encoder.encode(list(some), task="retrieval.passage")
    np.testing.assert_allclose(found, want, atol=1e-5)
    other = vectors.encoded(some, "separation", encoder, tmp_path)
    assert np.abs(other - found).max() > 1e-3


@pytest.fixture(scope="module")
def run(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    out = tmp_path_factory.mktemp("recall")
    asked = Corpus(texts(400, seed=1), texts(20, seed=2))
    return running.run(asked, encoder, "tiny", out), out


def test_a_run_finds_all_where_it_compares_all_and_less_where_it_compares_less(
    run: tuple[Run, Path],
) -> None:
    made, _ = run
    assert made.dims == DIMS
    exact = made.of(Search(32, exact=True))
    assert exact is not None
    assert exact.recall == exact.recall_of_all == 1
    assert made.plain.recall > 0.95
    # Binary's graph over 8 bits falls apart, each time elsewhere.
    for kind in ("none", "scalar"):
        few, many = (
            made.of(Search(8, kind, 32, factor)) for factor in (OVERSAMPLING[0], OVERSAMPLING[-1])
        )
        assert few is not None
        assert many is not None
        assert few.recall < many.recall <= 1
    plain, again = (made.of(Search(8, "binary", 32, 20, rescored=own)) for own in (False, True))
    assert plain is not None
    assert again is not None
    assert plain.recall <= again.recall
    rough, alone = made.of(Search(8, "binary", 32, 20)), made.of(Search(8, "none", 32, 20))
    assert rough is not None
    assert alone is not None
    assert rough.recall < alone.recall


def test_a_second_run_encodes_and_builds_nothing_anew(
    run: tuple[Run, Path], encoder: Encoder
) -> None:
    made, out = run
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    built = {path: path.stat().st_ctime_ns for path in out.rglob("graph.bin")}
    before = encoder.stats().texts
    asked = Corpus(texts(400, seed=1), texts(20, seed=2))
    again = running.run(asked, encoder, "tiny", out)
    assert encoder.stats().texts == before
    assert kept == {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert built == {path: path.stat().st_ctime_ns for path in out.rglob("graph.bin")}
    assert [one.recall for one in again.found] == [one.recall for one in made.found]


def test_the_engine_keeps_the_bytes_that_are_told(run: tuple[Run, Path], encoder: Encoder) -> None:
    _, out = run
    [folder] = out.glob("index-*")
    passages = cut(encoder.encode(list(texts(400, seed=1)), task="retrieval.passage"), 32)
    index = Index.opened(folder, passages, DIMS)
    for dim in DIMS:
        for kind in QUANTISATIONS:
            search = Search(dim, kind)
            assert index.vector_bytes(search) == pytest.approx(search.memory_bytes, abs=0.1)
            assert index.graph_bytes(search) > 10
    index.close()


def test_a_report_has_every_search_in_json_and_draws_them(run: tuple[Run, Path]) -> None:
    _, out = run
    told = json.loads((out / "recall.json").read_text())
    assert len(told["searches"]) == len(searches(DIMS))
    assert all(0 <= one["recall"] <= 1 and one["median_ms"] > 0 for one in told["searches"])
    page = (out / "recall.md").read_text()
    assert "| exact, no graph | 128 | 0 | 0 | 100.0 % | 100.0 % |" in page
    assert "| 8, binary | 16 |" in page
    assert "| 8, binary, re-scored by its float32 | 16 |" in page
    assert (out / "recall.png").stat().st_size > 10_000


def test_a_plot_joins_a_first_stages_searches_by_their_candidates() -> None:
    made = [
        Found(Search(8, "none", full, factor), 0.5, 0.5, (1.0,), 40)
        for full in (16, 32)
        for factor in (4, 1)
    ]
    plain = Found(Search(32), 1, 1, (1.0,), 40)
    joined = plots.lines(Run({}, [plain, *made]))
    assert list(joined) == [(8, "none")]
    [line] = joined.values()
    assert [(one.search.full, one.search.oversampling) for one in line] == [(32, 1), (32, 4)]


@pytest.mark.parametrize("arguments", [["--passages", "10"], ["--queries", "1"]])
def test_a_run_that_makes_no_sense_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert "expected a whole number at least" in capsys.readouterr().err
