"""Evaluation of what a model finds, against counts by hand, and through mteb's own classes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from taskvec.core import Encoder
from taskvec.core.errors import DimensionError, InputError
from taskvec.integrations.cli import main
from taskvec.integrations.quality import offline, probes, report
from taskvec.integrations.quality.collections import Collection, read_collection
from taskvec.integrations.quality.measures import Measures, measure
from taskvec.integrations.quality.mteb_encoder import MtebEncoder, task_for
from taskvec.integrations.quality.rankers import Bm25, Model

DOCUMENTS = {
    "a": "open and close a file",
    "b": "parse json",
    "c": "a thread and its lock",
    "d": "read the queue",
}
QUERIES = {"1": "json", "2": "lock thread", "3": "nothing known"}
JUDGED = {"1": {"b": 2, "d": 1}, "2": {"c": 1}}


@pytest.fixture
def collection() -> Collection:
    asked = {key: QUERIES[key] for key in JUDGED}
    return Collection("small", DOCUMENTS, asked, JUDGED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "small"
    (made / "qrels").mkdir(parents=True)
    corpus = [{"_id": key, "title": "", "text": text} for key, text in DOCUMENTS.items()]
    corpus[0]["title"], corpus[0]["text"] = "open and close", "a file"
    queries = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [(q, d, str(g)) for q, grades in JUDGED.items() for d, g in grades.items()]
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(fields) for fields in judged)]
    (made / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return made


def test_a_folder_is_read_in_beirs_and_in_trecs_format(
    folder: Path, collection: Collection
) -> None:
    assert read_collection(folder) == collection
    (folder / "qrels" / "test.tsv").unlink()
    (folder / "qrels.txt").write_text("1 0 b 2\n1 0 d 1\n2 0 c 1\n")
    assert read_collection(folder) == collection


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "b"}\n{"_id": "c"}\n', r"corpus.jsonl:2: .*'text'"),
        ("queries.jsonl", "[1]\n", r"queries.jsonl:1: not a text"),
        ("corpus.jsonl", "\n", "small has no documents"),
        ("qrels/test.tsv", "1\tb\n", r"test.tsv:1: not a query, a document and a grade"),
        ("qrels/test.tsv", "9\tb\t1\n", "judges a query that it lacks: '9'"),
        ("qrels/test.tsv", "1\tb\t0\n", "judges no document above 0"),
    ],
)
def test_a_broken_folder_is_refused_with_file_and_line(
    name: str, text: str, message: str, folder: Path
) -> None:
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_collection(folder)


def test_a_folder_without_judgements_says_where_it_looked(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none of qrels/dev\.tsv, qrels/dev\.txt, qrels\.txt"):
        read_collection(folder, "dev")
    with pytest.raises(InputError, match=r"corpus.jsonl: no such file"):
        read_collection(folder / "none")


def test_measures_are_those_of_a_count_by_hand() -> None:
    judged = {"1": {"b": 2, "d": 1}, "2": {"c": 1}, "3": {"a": 0}}
    ranking = {"1": {"a": 3.0, "b": 2.0, "d": 1.0}}
    found = measure(judged, ranking)
    gain = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    # The second query found nothing and counts as 0; the third has nothing to find.
    assert found.ndcg_10 == pytest.approx(gain / ideal / 2)
    assert found.recall_10 == pytest.approx(1 / 2)
    assert found.reciprocal_rank == pytest.approx(1 / 2 / 2)
    assert found.average_precision == pytest.approx((1 / 2 + 2 / 3) / 2 / 2)


def test_a_document_that_is_the_query_itself_is_passed_over() -> None:
    found = measure({"a": {"b": 1}}, {"a": {"a": 9.0, "b": 1.0}})
    assert found.ndcg_10 == found.reciprocal_rank == 1.0


def test_a_model_ranks_as_its_own_vectors_do_at_every_dim(
    encoder: Encoder, collection: Collection
) -> None:
    entries = Model("tiny", encoder, dims=[32, 8]).rank(collection)
    assert [(entry.name, entry.dim) for entry in entries] == [("tiny", 32), ("tiny", 8)]
    keys = list(DOCUMENTS)
    for entry in entries:
        documents = encoder.encode(
            list(DOCUMENTS.values()), task="retrieval.passage", dim=entry.dim
        )
        for query, scores in entry.ranking.items():
            asked = encoder.encode(QUERIES[query], task="retrieval.query", dim=entry.dim)
            wanted = dict(zip(keys, documents @ asked, strict=True))
            assert list(scores) == sorted(keys, key=lambda key: -wanted[key])
            assert scores == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(DimensionError):
        Model("tiny", encoder, dims=[7]).rank(collection)


def test_only_the_best_hundred_are_ranked_and_in_order(encoder: Encoder) -> None:
    texts = {str(i): f"file {i} open {i * 7 % 13}" for i in range(300)}
    large = Collection("large", texts, {"q": "open file 9"}, {"q": {"9": 1}})
    (entry,) = Model("tiny", encoder).rank(large)
    scores = encoder.encode(list(texts.values()), task="retrieval.passage") @ encoder.encode(
        "open file 9", task="retrieval.query"
    )
    assert [int(key) for key in entry.ranking["q"]] == list(np.argsort(-scores)[:100])


def test_bm25_finds_words_and_nothing_where_there_are_none() -> None:
    asked = {"1": "opening files", "2": "zebra", "3": "the"}
    found = Collection("words", DOCUMENTS, asked, {key: {"a": 1} for key in asked})
    (entry,) = Bm25().rank(found)
    assert list(entry.ranking["1"]) == ["a"]
    assert entry.ranking["2"] == entry.ranking["3"] == {}
    assert entry.dim == 0


def test_the_command_prints_tables_and_writes_them(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    labelled = tmp_path / "topics.jsonl"
    texts = [("open file", "io"), ("read file", "io"), ("thread lock", "sync"), ("lock", "sync")]
    labelled.write_text("".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in texts))
    data = [str(folder), str(labelled)]
    command = ["bench", "quality", "--model", str(checkpoint), "--data", *data, "--bm25"]
    assert main([*command, "--all-tasks", "--dims", "8", "32", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| ranker | dim | bytes | nDCG@10 |" in printed
    found = json.loads((out / "quality.json").read_text())
    named = [(entry["ranker"], entry["dim"]) for entry in found["searches"]]
    assert named == [(str(checkpoint), 32), (str(checkpoint), 8), ("BM25", 0)]
    bm25 = found["searches"][-1]["measures"]
    assert bm25["recall_10"] == pytest.approx((1 / 2 + 1) / 2)
    assert (out / "quality.md").read_text().strip() == printed.strip()
    assert "<svg" in (out / "quality.svg").read_text()
    tasks = found["tasks"][str(checkpoint)]
    assert list(tasks)[:2] == ["no task", "retrieval.query"]
    assert list(tasks)[-1] == "retrieval.query → retrieval.passage"
    kinds = [(entry["kind"], entry["set"]) for entry in tasks["separation"]]
    assert kinds == [("retrieval", "small"), ("clustering", "topics"), ("classification", "topics")]
    pair = tasks["retrieval.query → retrieval.passage"]
    assert [entry["kind"] for entry in pair] == ["retrieval"]
    assert pair[0]["figure"] == pytest.approx(found["searches"][0]["measures"]["ndcg_10"])
    assert f"## {checkpoint}, by task" in printed


def test_what_would_be_ignored_or_overwritten_is_refused_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text1": "a", "text2": "b", "score": score} for score in (0, 1)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [str(tmp_path / name / "pairs.jsonl") for name in ("one", "two")]
    command = ["bench", "quality", "--model", "no/such/model", "--data"]
    assert main([*command, *files]) != 0
    assert "two sets are called similarity of pairs" in capsys.readouterr().err
    assert main([*command, files[0], "--bm25"]) != 0
    assert "the data has no collection" in capsys.readouterr().err


def encode_as(vectors: dict[str, list[float]]) -> probes.Encode:
    def encode(texts: Any) -> Any:
        found = np.array([vectors[text] for text in texts], dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return encode


def test_similarity_is_the_rank_correlation_of_cosines_and_scores() -> None:
    encode = encode_as({"a": [1, 0], "b": [1, 0.1], "c": [1, 1], "d": [0, 1]})
    data = probes.Scored("s", ["a"] * 4, ["d", "c", "b", "a"], [1, 3, 2, 9])
    # Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 · 2 / (4 · 15).
    assert probes.similarity(data).measure(encode, encode) == pytest.approx(0.8)


def test_clusters_and_classes_are_found_where_vectors_tell_them_apart() -> None:
    order = np.random.default_rng(0)
    apart = {
        f"{c}{i}": [*np.eye(3)[j] + 0.05 * order.random(3)]
        for j, c in enumerate("xyz")
        for i in range(20)
    }
    noise = {text: [*order.normal(size=3)] for text in apart}
    data = probes.Labelled("l", list(apart), [text[0] for text in apart])
    clusters, classes = probes.of_labelled(data)
    assert clusters.measure(encode_as(apart), encode_as(apart)) == pytest.approx(1.0)
    assert classes.measure(encode_as(apart), encode_as(apart)) == pytest.approx(1.0)
    assert clusters.measure(encode_as(noise), encode_as(noise)) < 0.3
    assert classes.measure(encode_as(noise), encode_as(noise)) < 0.7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"}\n', "has neither text1, text2, score nor text, label"),
        ("", "has neither"),
        ('{"text": "a", "label": "x"}\nno\n', r"data.jsonl:2: not JSON"),
        ('["a"]\n', r"data.jsonl:1: not an object"),
        ('{"text1": "a", "text2": "b", "score": "high"}\n', "row 1: 'score' is 'high'"),
        ('{"text": "a", "label": "x"}\n{"text": 3, "label": "x"}\n', "row 2: 'text' is 3"),
        ('{"text": "a", "label": "x"}\n' * 3, "fewer than two labels have two texts"),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n', "fewer than two labels"),
        ('{"text1": "a", "text2": "b", "score": 1}\n' * 2, "must be finite, and not all the same"),
    ],
)
def test_a_file_that_fits_no_probe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        probes.read_probes(path)


def test_packaged_judgements_are_read_whole() -> None:
    news, words = offline.news(), offline.word_pairs()
    assert len(news.scores) == 50 * 49 // 2
    assert len(words.scores) == 999
    assert 0 <= min(news.scores) < max(news.scores) <= 1
    modules = offline.docstring_modules()
    assert len(set(modules.labels)) > 5
    assert len(modules.texts) == len(modules.labels)


def test_a_table_shows_bytes_for_vectors_alone() -> None:
    figures = Measures(0.5, 0.25, 1.0, 0.125, 0.1)
    lines = [report.Line("c", "m", 64, figures), report.Line("c", "BM25", 0, figures)]
    table = report.markdown(report.Report(lines, {}))
    assert "| m | 64 | 256 | 0.500 | 0.250 | 1.000 | 0.125 | 0.100 |" in table
    assert "| BM25 |  |  | 0.500 |" in table


def test_offline_collections_pair_every_query_with_a_text_of_its_own() -> None:
    for made in (offline.docstrings(), offline.construction_faq("sv", "en")):
        assert len(made.queries) == len(made.documents) > 400
        for key in made.queries:
            assert made.judgements[key] == {key.replace("query", "document"): 1}
    swedish, english = offline.construction_faq("sv"), offline.construction_faq()
    key = next(iter(english.queries))
    assert english.queries[key] != swedish.queries[key]


@pytest.mark.parametrize(
    ("kind", "side", "task"),
    [
        ("Retrieval", "query", "retrieval.query"),
        ("Retrieval", "document", "retrieval.passage"),
        ("STS", None, "text-matching"),
        ("Clustering", None, "separation"),
        ("Classification", None, "classification"),
        ("Regression", None, None),
    ],
)
def test_every_kind_of_mteb_task_has_its_lora(kind: str, side: Any, task: str | None) -> None:
    assert task_for(kind, side) == task


def about(name: str, kind: str, score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description="A few texts.",
        type=kind,
        reference=None,
        dataset={"path": "local", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


class LocalRetrieval(AbsTaskRetrieval):
    metadata = about("LocalRetrieval", "Retrieval", "ndcg_at_10")

    def load_data(self, *_: Any, **__: Any) -> None:
        corpus = [{"id": key, "title": "", "text": text} for key, text in DOCUMENTS.items()]
        queries = [{"id": key, "text": QUERIES[key]} for key in JUDGED]
        split: Any = {
            "corpus": Dataset.from_list(corpus),
            "queries": Dataset.from_list(queries),
            "relevant_docs": JUDGED,
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class LocalSts(AbsTaskSTS):
    metadata = about("LocalSts", "STS", "cosine_spearman")
    min_score, max_score = 0, 1
    pairs = (("json", "parse json", 0.9), ("file", "the lock", 0.1), ("queue", "read", 0.4))

    def load_data(self, *_: Any, **__: Any) -> None:
        rows = [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in self.pairs]
        self.dataset = DatasetDict(test=Dataset.from_list(rows))
        self.data_loaded = True


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mteb_scores_each_kind_of_task_under_its_own_lora(
    encoder: Encoder, collection: Collection
) -> None:
    model = MtebEncoder(encoder, name="taskvec/tiny", dim=16)
    scores: Callable[[Any], Any] = lambda task: (  # noqa: E731
        mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
        .task_results[0]
        .scores["test"][0]
    )
    (entry,) = Model("tiny", encoder, dims=[16]).rank(collection)
    found = measure(collection.judgements, entry.ranking)
    retrieval = scores(LocalRetrieval())
    assert retrieval["ndcg_at_10"] == pytest.approx(found.ndcg_10, abs=1e-4)
    assert retrieval["mrr_at_10"] == pytest.approx(found.reciprocal_rank, abs=1e-4)
    left, right, wanted = zip(*LocalSts.pairs, strict=True)
    vectors = [encoder.encode(list(part), task="text-matching", dim=16) for part in (left, right)]
    cosines = (vectors[0] * vectors[1]).sum(1)
    assert scores(LocalSts())["cosine_pearson"] == pytest.approx(
        np.corrcoef(cosines, wanted)[0, 1], abs=1e-4
    )
