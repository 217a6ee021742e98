"""The demo, end to end on a small draw of passages, and what it does when routes disagree."""

import shutil
import sysconfig
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from taskvec.core import shared_encoder
from taskvec.core.embedder import Array
from taskvec.integrations.cli import main
from taskvec.integrations.cli.demo.agreement import Answer
from taskvec.integrations.cli.demo.corpus import Passage, read_corpus
from taskvec.integrations.cli.demo.questions import QUESTIONS
from taskvec.integrations.cli.demo.routes import OnRows, PgvectorRoute, QdrantRoute

# Where the answer to each question stands, and the modules that stand beside it.
ANSWERS = (
    "argparse",
    "subprocess.run",
    "tempfile.TemporaryDirectory",
    "difflib.Differ",
    "timeit",
    "fnmatch.fnmatch",
    "functools.lru_cache",
    "statistics.median",
    "calendar.isleap",
    "html.escape",
)
LABELS = ("LangChain", "LlamaIndex", "Qdrant", "pgvector")


@pytest.fixture
def arguments(checkpoint: Path) -> list[str]:
    return ["demo", "--model", str(checkpoint), "--limit", "60", "--dim", "16"]


@pytest.fixture
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """One package stands for the whole library, which takes a while to read."""
    library = Path(sysconfig.get_path("stdlib")) / "email"
    read = partial(read_corpus, library=library)
    monkeypatch.setattr("taskvec.integrations.cli.demo.run.read_corpus", read)


def test_the_demo_asks_all_four_and_they_agree(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    for question in QUESTIONS:
        assert f". {question}\n" in out
    assert all(label in out for label in LABELS)
    assert "The four agree" in out
    assert " index FOLDER" in out
    assert max(map(len, out.splitlines())) <= 100
    assert "Warning" not in out + err


@pytest.mark.usefixtures("small_library")
def test_a_wrong_task_in_one_route_is_found_out(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_as_passage(self: QdrantRoute, question: str, k: int) -> list[Answer]:
        self._options["task"] = "retrieval.passage"
        return real_ask(self, question, k)

    real_ask = QdrantRoute.ask
    monkeypatch.setattr(QdrantRoute, "ask", ask_as_passage)
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "The four disagree:" in out
    assert "Qdrant and LangChain: " in out
    assert "pgvector and LangChain: " not in out
    assert "Next, on files" not in out


@pytest.mark.usefixtures("small_library")
def test_shuffled_vectors_in_one_route_are_found_out(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def index_shifted(
        self: PgvectorRoute, passages: list[Passage], vectors: Array, on_rows: OnRows
    ) -> None:
        real_index(self, passages, vectors[::-1], on_rows)

    real_index = PgvectorRoute.index
    monkeypatch.setattr(PgvectorRoute, "index", index_shifted)
    assert main(arguments) == 1
    assert "pgvector and LangChain: " in capsys.readouterr().out


@pytest.mark.usefixtures("small_library")
def test_kept_stores_stay_and_others_go(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    kept = tmp_path / "kept"
    assert main([*arguments, "--keep", str(kept)]) == 0
    assert {path.name for path in kept.iterdir()} == {"llama_index", "postgres", "qdrant"}
    assert main(arguments) == 0
    assert not [path for path in temporary.iterdir() if path.name.startswith("taskvec-demo")]


def test_the_starter_finds_the_right_passages(tmp_path: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    for name in {answer.partition(".")[0] for answer in ANSWERS} - {"html"}:
        shutil.copy(library / f"{name}.py", tmp_path)
    shutil.copytree(library / "html", tmp_path / "html")
    documents = read_corpus(library=tmp_path)
    names = [passage.name for document in documents for passage in document.passages]
    encoder = shared_encoder("starter")
    vectors = np.concatenate(
        [encoder.encode_chunks(document.text, document.spans) for document in documents]
    )
    scores = encoder.encode(QUESTIONS, task="retrieval.query") @ vectors.T
    for question, answer, row in zip(QUESTIONS, ANSWERS, scores, strict=True):
        best = [names[place] for place in np.argsort(-row)[:3]]
        assert any(name.startswith(answer) for name in best), (question, best)
