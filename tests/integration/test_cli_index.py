"""`taskvec index` and `taskvec search` on real stores: Qdrant in a folder, Postgres by its DSN."""

import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

from taskvec.core import shared_encoder
from taskvec.integrations.cli import main
from taskvec.integrations.cli.console import program_name
from taskvec.integrations.cli.files import Found, Passed
from taskvec.integrations.cli.indexing import _is_gone
from taskvec.integrations.cli.stores.base import About, Chunk, Store
from taskvec.integrations.cli.stores.opening import open_store

KINDS = ("qdrant", "postgres")
ENOUGH = 100


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What `--store` is given, for an empty store."""
    if request.param == "qdrant":
        return f"qdrant:{tmp_path / 'store'}"
    return str(request.getfixturevalue("dsn"))


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "guide.md").write_text("# Guide\n\nOpen the file.\n\n# Sockets\n\nClose the socket.")
    (folder / "notes.txt").write_text("The queue holds strings.\nThe thread reads them.")
    (folder / "sub/page.html").write_text(
        "<p>Parse json documents</p>\n<p>Write json documents</p>"
    )
    return folder


class Runner:
    """Runs commands on one store and one model."""

    def __init__(self, store: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.options = ["--store", store, "--model", str(checkpoint)]
        self._capsys = capsys
        self.out = self.err = ""

    def index(self, *arguments: object) -> int:
        """The exit code of `taskvec index`; its output is in `out` and `err`."""
        return self._run(["index", *map(str, arguments), *self.options])

    def search(self, *arguments: object) -> list[dict[str, object]]:
        """The hits of `taskvec search --json`."""
        code = self._run(["search", "--json", *map(str, arguments), *self.options])
        assert code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]

    def texts(self) -> dict[str, list[str]]:
        """Everything that is indexed: chunks by file name, sorted."""
        texts: dict[str, list[str]] = {}
        for hit in self.search("anything", "-k", ENOUGH):
            texts.setdefault(Path(str(hit["source"])).name, []).append(str(hit["text"]))
        return {name: sorted(chunks) for name, chunks in sorted(texts.items())}

    def _run(self, arguments: Sequence[str]) -> int:
        code = main(arguments)
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def taskvec(store: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(store, checkpoint, capsys)


def opened(store: str, use: Callable[[Store], object]) -> object:
    with open_store(store, "taskvec", create=False) as open_one:
        return use(open_one)


def test_indexes_and_finds_chunks_with_their_places(taskvec: Runner, docs: Path) -> None:
    assert taskvec.index(docs, "--chunk-chars", 30) == 0
    assert "indexed 3 files (6 chunks), 0 unchanged, 0 removed" in taskvec.out
    hits = taskvec.search("open", "-k", ENOUGH)
    assert len(hits) == 6
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    places = {hit["text"]: (Path(str(hit["source"])).name, hit["line"]) for hit in hits}
    assert places["# Sockets\n\nClose the socket."] == ("guide.md", 5)
    assert places["The thread reads them."] == ("notes.txt", 2)


def test_the_best_of_many_comes_first_and_k_is_kept(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs, "--chunk-chars", 30)
    assert len(taskvec.search("open", "-k", 2)) == 2
    assert taskvec.search("open", "-k", 2) == taskvec.search("open", "-k", 5)[:2]
    assert len(taskvec.search("open", "-k", 600)) == 6


def test_printed_hits_show_score_place_and_snippet(
    taskvec: Runner, docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(docs)
    taskvec.index(".")
    assert main(["search", "threads", "-k", "3", *taskvec.options]) == 0
    out = capsys.readouterr().out
    assert "notes.txt:1\n" in out
    assert "The queue holds strings. The thread reads them." in out


def test_unchanged_files_are_skipped(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs)
    (docs / "notes.txt").touch()
    assert taskvec.index(docs) == 0
    assert "indexed 0 files (0 chunks), 3 unchanged" in taskvec.out


def test_a_changed_file_replaces_just_its_own_chunks(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs, "--chunk-chars", 30)
    before = taskvec.texts()
    (docs / "notes.txt").write_text("The list returns.")
    assert taskvec.index(docs, "--chunk-chars", 30) == 0
    assert "indexed 1 file (1 chunks), 2 unchanged" in taskvec.out
    assert taskvec.texts() == before | {"notes.txt": ["The list returns."]}


def test_a_file_that_became_empty_loses_its_chunks(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs)
    (docs / "notes.txt").write_text("")
    assert taskvec.index(docs) == 0
    assert "notes.txt" not in taskvec.texts()


def test_an_empty_file_counts_as_unchanged(taskvec: Runner, docs: Path) -> None:
    (docs / "empty.txt").touch()
    for _ in range(2):
        assert taskvec.index(docs) == 0
    assert "indexed 0 files (0 chunks), 4 unchanged, 0 removed" in taskvec.out


def test_a_file_that_became_a_folder_is_gone(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs)
    (docs / "notes.txt").unlink()
    (docs / "notes.txt").mkdir()
    (docs / "notes.txt/inner.txt").write_text("The list returns.")
    assert taskvec.index(docs) == 0
    assert list(taskvec.texts()) == ["guide.md", "inner.txt", "page.html"]


def test_a_huge_file_is_named_and_the_rest_is_indexed(taskvec: Runner, docs: Path) -> None:
    with (docs / "huge.txt").open("wb") as stream:
        stream.truncate(300 * 1024**3)
    assert taskvec.index(docs) == 1
    assert "huge.txt: larger than 64 MiB" in taskvec.err
    assert list(taskvec.texts()) == ["guide.md", "notes.txt", "page.html"]


def test_the_next_command_can_be_typed_and_holds_no_password(
    docs: Path, dsn: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Runner(f"qdrant:{tmp_path / 'my store'}", checkpoint, capsys)
    assert folder.index(docs) == 0
    name = program_name()
    assert f"next: {name} search \"what you look for\" --store '{folder.options[1]}'" in folder.out
    guarded = dsn.replace("postgresql://postgres@", "postgresql+psycopg2://postgres:hush@", 1)
    server = Runner(guarded, checkpoint, capsys)
    assert server.index(docs) == 0
    assert "hush" not in server.out + server.err
    assert "--store " in server.out


def test_another_chunk_size_cuts_the_files_again(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs, "--chunk-chars", 30)
    taskvec.index(docs, "--chunk-chars", 500)
    assert {name: len(chunks) for name, chunks in taskvec.texts().items()} == {
        "guide.md": 1,
        "notes.txt": 1,
        "page.html": 1,
    }


def test_deleted_and_renamed_files_are_followed(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs)
    (docs / "guide.md").unlink()
    (docs / "notes.txt").rename(docs / "renamed.txt")
    assert taskvec.index(docs) == 0
    assert "indexed 1 file (1 chunks), 1 unchanged, 2 removed" in taskvec.out
    assert list(taskvec.texts()) == ["page.html", "renamed.txt"]


def test_files_outside_the_given_paths_stay(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs)
    (docs / "guide.md").unlink()
    assert taskvec.index(docs / "sub") == 0
    assert "guide.md" in taskvec.texts()


def test_a_deleted_path_that_is_named_is_removed(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs)
    (docs / "guide.md").unlink()
    assert taskvec.index(docs / "guide.md") == 0
    assert list(taskvec.texts()) == ["notes.txt", "page.html"]


def test_a_path_that_never_was_is_refused(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs)
    assert taskvec.index(docs / "guidr.md") == 2
    assert "no such file or folder" in taskvec.err


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_indexed(
    taskvec: Runner, docs: Path
) -> None:
    (docs / "data.bin").write_bytes(bytes(range(256)) * 4)
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 and no more")
    (docs / "dangling.txt").symlink_to(docs / "nowhere")
    (docs / "memory.txt").symlink_to("/proc/self/mem")
    assert taskvec.index(docs) == 1
    for name in ("data.bin", "broken.pdf", "dangling.txt", "memory.txt"):
        assert f"{name}: " in taskvec.err
    assert "Traceback" not in taskvec.err
    assert "4 files could not be read" in taskvec.out
    assert list(taskvec.texts()) == ["guide.md", "notes.txt", "page.html"]


def test_a_text_that_became_binary_leaves_the_index(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs)
    (docs / "notes.txt").write_bytes(b"\0\1\2" * 100)
    assert taskvec.index(docs) == 1
    assert "notes.txt" not in taskvec.texts()


def test_any_unicode_is_kept(taskvec: Runner, docs: Path) -> None:
    (docs / "naïve 日本 '\"; DROP.txt").write_text("数据 with a NUL\0, мир \U0001f600")
    assert taskvec.index(docs) == 0
    chunks = taskvec.texts()["naïve 日本 '\"; DROP.txt"]
    assert chunks == ["数据 with a NUL\ufffd, мир \U0001f600"]


def test_a_file_name_that_is_not_utf8_is_indexed(taskvec: Runner, docs: Path) -> None:
    path = docs / os.fsdecode(b"caf\xe9.txt")
    path.write_text("The file is open.")
    assert taskvec.index(docs) == 0
    assert "caf\\xe9.txt" in taskvec.texts()
    assert taskvec.index(docs) == 0
    assert "4 unchanged" in taskvec.out


@pytest.mark.parametrize("command", ["search", "index"])
def test_another_dim_is_refused_and_the_cure_is_named(
    taskvec: Runner, docs: Path, command: str
) -> None:
    taskvec.index(docs, "--dim", 16)
    assert main([command, str(docs), "--dim", "8", *taskvec.options]) == 2
    err = taskvec._capsys.readouterr().err
    assert "was built with model" in err
    assert "dim 16" in err
    assert "--dim 16, or index into another --collection" in err
    assert err.count("\n") == 1


def test_another_model_is_refused(taskvec: Runner, docs: Path, tmp_path: Path) -> None:
    from tests.checkpoints import tiny_checkpoint

    taskvec.index(docs)
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    assert main(["search", "x", *taskvec.options[:2], "--model", str(other)]) == 2
    err = taskvec._capsys.readouterr().err
    assert "other" in err
    assert "was built with model" in err


def test_an_index_remembers_its_model_and_dim(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs, "--dim", 16)
    store_option = taskvec.options[:2]
    assert main(["search", "open", *store_option]) == 0
    assert main(["index", str(docs), *store_option]) == 0
    assert "3 unchanged" in taskvec._capsys.readouterr().out


def test_other_weights_under_the_same_name_are_refused(
    store: str, docs: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(store, "taskvec", create=True) as made:
        made.create(About("taskvec1-of-other-weights", str(checkpoint), 32))
    assert main(["search", "x", "--store", store]) == 2
    assert "other weights" in capsys.readouterr().err


def test_another_query_lora_is_refused(
    store: str, docs: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passages = shared_encoder(str(checkpoint)).fingerprint("retrieval.passage", 32)
    with open_store(store, "taskvec", create=True) as made:
        made.create(About(passages, str(checkpoint), 32, "taskvec1-of-other-queries"))
    assert main(["search", "x", "--store", store]) == 2
    assert "another query LoRA or prompt" in capsys.readouterr().err


def test_collections_of_one_store_are_apart(taskvec: Runner, docs: Path) -> None:
    taskvec.index(docs / "guide.md")
    assert taskvec.index(docs / "notes.txt", "--collection", "second", "--dim", 8) == 0
    assert list(taskvec.texts()) == ["guide.md"]
    hits = taskvec.search("x", "--collection", "second")
    assert [Path(str(hit["source"])).name for hit in hits] == ["notes.txt"]


def test_searching_a_store_without_an_index_says_so(store: str) -> None:
    assert main(["search", "x", "--store", store]) == 2


def test_searching_makes_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        folder = tmp_path / kind
        assert main(["search", "x", "--store", f"{kind}:{folder}"]) == 2
        assert "run `taskvec index` first" in capsys.readouterr().err
        assert not folder.exists()


def test_an_incomplete_file_does_not_count_as_done(taskvec: Runner, docs: Path, store: str) -> None:
    taskvec.index(docs)
    source = str(docs / "notes.txt")
    digests = opened(store, lambda made: made.digests())
    assert isinstance(digests, dict)
    assert len(digests[source]) == 64
    if store.startswith("qdrant:"):
        opened(store, lambda made: unmark(made, source))
        digests = opened(store, lambda made: made.digests())
        assert isinstance(digests, dict)
        assert digests[source] == ""
        taskvec.index(docs)
        assert "indexed 1 file (1 chunks), 2 unchanged" in taskvec.out


def unmark(store: Store, source: str) -> None:
    """Leave a file as a run does that was killed halfway through it."""
    from taskvec.integrations.cli.stores.qdrant import QdrantStore, _identity

    assert isinstance(store, QdrantStore)
    store._client.set_payload("taskvec", {"complete": False}, points=[_identity(source, 0)])


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "taskvec.integrations.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def written(store: str) -> int:
    """How many chunks another process has written so far."""
    try:
        if store.startswith("qdrant:"):
            file = Path(store.removeprefix("qdrant:")) / "collection/taskvec/storage.sqlite"
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
                return int(connection.execute("SELECT count(*) FROM points").fetchone()[0])
        with psycopg.connect(store) as connection:
            row = connection.execute("SELECT count(*) FROM taskvec_chunks").fetchone()
            return int(row[0]) if row else 0
    except (sqlite3.Error, psycopg.Error):
        return 0


def wait_for(chunks: int, store: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while written(store) < chunks:
        assert process.poll() is None, "indexing ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_indexing_goes_on_where_it_stopped(
    taskvec: Runner, tmp_path: Path, store: str, sign: signal.Signals
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(400):
        text = "\n\n".join(f"Text {number}, paragraph {part}: open file." for part in range(4))
        (folder / f"{number:03}.txt").write_text(text)
    arguments = ["index", str(folder), "--chunk-chars", "40", *taskvec.options]
    process = command(*arguments)
    wait_for(20, store, process)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    if sign == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in err
        assert "the same command goes on" in err
    assert taskvec.index(*arguments[1:4]) == 0
    indexed, unchanged = (int(taskvec.out.split()[place]) for place in (1, 5))
    assert indexed + unchanged == 400
    assert unchanged >= 4
    digests = opened(store, lambda made: made.digests())
    assert isinstance(digests, dict)
    assert len(digests) == 400
    assert "" not in digests.values()
    assert written(store) == 1600


def test_a_big_file_cut_off_in_the_middle_is_written_again(taskvec: Runner, tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    lines = [f"Line {number} of a big file that is open." for number in range(3000)]
    path.write_text("\n\n".join(lines))
    process = command("index", str(path), "--chunk-chars", "50", *taskvec.options)
    store = taskvec.options[1]
    if store.startswith("qdrant:"):
        wait_for(100, store, process)
    else:
        time.sleep(3)
    process.kill()
    process.communicate(timeout=60)
    path.write_text("\n\n".join(lines[:60]))
    assert taskvec.index(path, "--chunk-chars", 50) == 0
    assert len(taskvec.search("x", "-k", 500)) == 60


def test_an_embedded_postgres_serves_one_command_after_another(
    checkpoint: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taskvec = Runner(f"postgres:{tmp_path / 'pg'}", checkpoint, capsys)
    assert taskvec.index(docs) == 0
    assert list(taskvec.texts()) == ["guide.md", "notes.txt", "page.html"]


# The client that finds the folder locked leaves its lock file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_in_use_is_reported(
    docs: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taskvec = Runner(f"qdrant:{tmp_path / 'store'}", checkpoint, capsys)
    taskvec.index(docs)
    with open_store(taskvec.options[1], "taskvec", create=False):
        assert taskvec.index(docs) == 2
    gc.collect()
    assert "in use by another process" in taskvec.err


def test_foreign_collections_are_left_alone(
    docs: Path, dsn: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "store"))
    client.create_collection("taskvec", models.VectorParams(size=4, distance=models.Distance.DOT))
    client.close()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE taskvec_about (mine text)")
    for store in (f"qdrant:{tmp_path / 'store'}", dsn):
        assert Runner(store, checkpoint, capsys).index(docs) == 2
        # The runner has read what was printed; the collection is what counts.
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM taskvec_about").fetchone() == (0,)


def test_a_search_in_postgres_uses_the_vector_index(
    docs: Path, dsn: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Runner(dsn, checkpoint, capsys).index(docs)
    with psycopg.connect(dsn) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            "EXPLAIN SELECT source FROM taskvec_chunks ORDER BY embedding <=> %s::vector LIMIT 3",
            [str([0.1] * 32)],
        ).fetchall()
    assert "taskvec_hnsw" in str(plan)


def test_a_search_finds_k_chunks_past_deleted_ones(
    docs: Path, dsn: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taskvec = Runner(dsn, checkpoint, capsys)
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET enable_seqscan = off").format(name))
    for turn in range(8):
        text = "\n\n".join(f"Turn {turn}, line {number}: open file." for number in range(30))
        (docs / "notes.txt").write_text(text)
        assert taskvec.index(docs / "notes.txt", "--chunk-chars", 30) == 0
    assert len(taskvec.search("open", "-k", 20)) == 20


def test_two_writers_of_one_file_leave_one_whole_version(dsn: str) -> None:
    def write(version: int) -> None:
        with open_store(dsn, "taskvec", create=True) as made:
            made.create(About("fingerprint", "model", 8))
            chunks = [Chunk(number, f"{version}", "line", 1) for number in range(version)]
            for _ in range(20):
                vectors = np.ones((version, 8), dtype=np.float32)
                made.replace("/a.txt", f"digest {version}", chunks, vectors)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, (3, 5, 7)))
    with open_store(dsn, "taskvec", create=False) as made:
        version = int(made.digests()["/a.txt"].removeprefix("digest "))
        hits = made.search(np.ones(8, dtype=np.float32), 50)
    assert [hit.text for hit in hits] == [str(version)] * version


def test_files_in_a_folder_that_cannot_be_read_are_not_gone() -> None:
    found = Found(roots=["/docs"], problems=[Passed("/docs/locked", "permission denied")])
    assert _is_gone("/docs/gone.txt", found)
    assert not _is_gone("/docs/locked/kept.txt", found)
    assert not _is_gone("/elsewhere/gone.txt", found)


def test_a_user_without_privileges_gets_a_sentence(
    docs: Path, dsn: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS taskvec_guest")
        connection.execute("CREATE ROLE taskvec_guest LOGIN PASSWORD 'open sesame'")
    guest = dsn.replace("postgres@", "taskvec_guest:open%20sesame@", 1)
    runner = Runner(guest, checkpoint, capsys)
    assert runner.index(docs) == 2
    assert "permission denied" in runner.err
    assert "sesame" not in runner.err
    assert runner.err.count("\n") == 1
