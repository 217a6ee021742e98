"""The demo, end to end on a small draw of passages, and what it does when routes disagree."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from taskvec.core import shared_encoder
from taskvec.core.embedder import Array
from taskvec.core.registry import LazyEmbedder
from taskvec.integrations.cli import main
from taskvec.integrations.cli.demo.agreement import Answer
from taskvec.integrations.cli.demo.corpus import Passage, read_corpus
from taskvec.integrations.cli.demo.questions import QUESTIONS
from taskvec.integrations.cli.demo.routes import ROUTES, OnRows, PgvectorRoute, QdrantRoute

# Where the answer to each question stands, and the modules that stand beside it.
ANSWERS = (
    "argparse",
    "subprocess.check_output",
    "tempfile.TemporaryDirectory",
    "difflib.Differ",
    "timeit",
    "fnmatch",
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
    # The first line names the model, here by a path of any length.
    assert max(map(len, out.splitlines()[1:])) <= 100
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
    assert "Qdrant and the core: " in out
    assert "pgvector and the core: " not in out
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
    assert "pgvector and the core: " in capsys.readouterr().out


@pytest.mark.usefixtures("small_library")
@pytest.mark.parametrize(
    ("target", "label"),
    [
        ("taskvec.adapters.langchain.TaskvecEmbeddings.embed_documents", "LangChain"),
        ("taskvec.adapters.pgvector.PgVectors.passages", "pgvector"),
        (
            "taskvec.adapters.llama_index.TaskvecEmbedding.get_text_embedding_batch",
            "LlamaIndex",
        ),
    ],
)
def test_a_wrong_task_for_passages_is_found_out(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    label: str,
) -> None:
    def as_queries(self: Any, texts: list[str], **_: object) -> list[Any]:
        names = ("embed_query", "get_query_embedding", "query")
        one = next(getattr(self, name) for name in names if hasattr(self, name))
        return [one(text) for text in texts]

    monkeypatch.setattr(target, as_queries)
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert f"{label} encodes passages otherwise than the core" in out


@pytest.mark.usefixtures("small_library")
def test_a_wrong_task_for_qdrants_passages_is_found_out(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_queries(self: QdrantRoute, texts: list[str]) -> Array:
        self._options["task"] = "retrieval.query"
        return real_passages(self, texts)

    real_passages = QdrantRoute.passages
    monkeypatch.setattr(QdrantRoute, "passages", as_queries)
    assert main(arguments) == 1
    assert "Qdrant encodes passages otherwise than the core" in capsys.readouterr().out


@pytest.mark.usefixtures("small_library")
def test_another_task_for_every_query_is_found_out(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four alike, and all four wrong."""

    def encode(self: LazyEmbedder, texts: Any, *, task: Any = None, **options: Any) -> Array:
        task = "separation" if task == "retrieval.query" else task
        return real_encode(self, texts, task=task, **options)

    async def aencode(self: LazyEmbedder, texts: Any, **options: Any) -> Array:
        return encode(self, texts, **options)

    real_encode = LazyEmbedder.encode
    monkeypatch.setattr(LazyEmbedder, "encode", encode)
    monkeypatch.setattr(LazyEmbedder, "aencode", aencode)
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert all(f"{label} and the core: " in out for label in LABELS)


def test_a_folder_that_postgres_cannot_use_is_refused_before_any_work(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(**_: object) -> None:
        pytest.fail("the corpus was read first")

    monkeypatch.setattr("taskvec.integrations.cli.demo.run.read_corpus", never)
    assert main([*arguments, "--keep", str(tmp_path / "with a space")]) == 2
    assert "has a space or quote" in capsys.readouterr().err


@pytest.mark.usefixtures("small_library")
def test_no_answers_at_all_are_found_out(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for route in ROUTES:
        monkeypatch.setattr(route, "ask", lambda *_: [])
    assert main(arguments) == 1
    assert "0 answers, not 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "code", "awaited"),
    [
        ("SIGTERM", 143, "*/postgres/postmaster.pid"),
        ("SIGTERM", 143, "*/postgres/PG_VERSION"),
        ("SIGHUP", 129, "*/qdrant"),
    ],
)
def test_a_demo_that_is_told_to_end_leaves_nothing(
    checkpoint: Path, name: str, code: int, awaited: str
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="taskvec-ended-"))
    folder.chmod(0o755)
    command = [sys.executable, "-m", "taskvec.integrations.cli", "demo", "--limit", "60"]
    command += ["--model", str(checkpoint)]
    with subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(folder)}, stderr=subprocess.PIPE, text=True
    ) as demo:
        deadline = time.monotonic() + 120
        while not list(folder.glob(awaited)):
            assert time.monotonic() < deadline
            assert demo.poll() is None
            time.sleep(0.05)
        demo.send_signal(getattr(signal, name))
        _, error = demo.communicate(timeout=60)
    assert demo.returncode == code, error
    assert "ended by a signal" in error
    assert not list(folder.glob("taskvec-demo*"))
    running = [
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    ]
    assert not [line for line in running if str(folder) in line]
    shutil.rmtree(folder)


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
