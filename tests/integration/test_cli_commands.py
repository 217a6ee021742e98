"""The command line itself: encode, info, help, and what it says to bad input."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from taskvec.core import shared_encoder
from taskvec.integrations.cli import main
from taskvec.integrations.extras import needs_extra


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskvec.integrations.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Bytes:
    """Standard input with the given bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", Bytes(data))


def test_encode_prints_one_object_a_text(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["encode", "a query", "another", "--task", "retrieval.query", "--dim", "8"]
    assert main([*arguments, "--model", str(checkpoint)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1]
    expected = shared_encoder(str(checkpoint)).encode(
        ["a query", "another"], task="retrieval.query", dim=8
    )
    given = np.array([line["vector"] for line in lines], dtype=np.float32)
    np.testing.assert_allclose(given, expected, atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_encode_reads_lines(
    checkpoint: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(monkeypatch, "one\n\nthree größe\r\n".encode())
    assert main(["encode", *arguments, "--model", str(checkpoint)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_encode_of_no_lines_prints_nothing(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, b"")
    assert main(["encode", "--model", str(checkpoint)]) == 0
    assert capsys.readouterr().out == ""


def test_encode_writes_npy_and_json_files(checkpoint: Path, tmp_path: Path) -> None:
    array, text = tmp_path / "vectors", tmp_path / "vectors.jsonl"
    base = ["encode", "one", "two", "--model", str(checkpoint)]
    assert main([*base, "--format", "npy", "--output", str(array)]) == 0
    assert main([*base, "--output", str(text)]) == 0
    vectors = np.load(array)
    assert vectors.shape == (2, 32)
    assert vectors.dtype == np.float32
    written = [json.loads(line)["vector"] for line in text.read_text().splitlines()]
    np.testing.assert_array_equal(np.array(written, dtype=np.float32), vectors)


@pytest.mark.parametrize("kind", ["json", "npy"])
def test_a_failure_leaves_the_output_as_it_was(
    kind: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vectors"
    path.write_text("what was here")
    path.chmod(0o640)
    arguments = ["encode", "--model", str(checkpoint), "--format", kind, "--output", str(path)]
    give(monkeypatch, b"good\n" * 300 + b"b\xe4d\n")
    assert main(arguments) == 2
    assert path.read_text() == "what was here"
    give(monkeypatch, b"good\n")
    assert main(arguments) == 0
    assert "what was here" not in path.read_bytes().decode("latin-1")
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_output_through_a_link_and_into_a_device(checkpoint: Path, tmp_path: Path) -> None:
    path, link, device = tmp_path / "vectors", tmp_path / "link", tmp_path / "device"
    link.symlink_to(path)
    device.symlink_to("/dev/null")
    base = ["encode", "one", "--model", str(checkpoint), "--output"]
    assert main([*base, str(link)]) == 0
    assert main([*base, str(device)]) == 0
    assert link.is_symlink()
    assert path.read_text().startswith("{")
    assert Path("/dev/null").is_char_device()


def test_a_models_password_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("httpx")
    assert main(["encode", "x", "--model", "http://u:hush@127.0.0.1:99999"]) != 0
    assert main(["info", "http://u:hush@127.0.0.1/"]) != 0
    out, err = capsys.readouterr()
    assert "127.0.0.1" in err
    assert "hush" not in out + err


def test_info_shows_tasks_prompts_dims_and_fingerprints(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(checkpoint), "--json", "--dim", "16"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dims"] == [8, 16, 32]
    assert (facts["layers"], facts["hidden"]) == (2, 32)
    encoder = shared_encoder(str(checkpoint))
    by_task = {task["task"]: task for task in facts["tasks"]}
    assert list(by_task) == [*encoder.tasks, None]
    assert by_task["retrieval.query"]["prompt"].startswith("Represent the query")
    fingerprint = encoder.fingerprint("retrieval.query", 16)
    assert by_task["retrieval.query"]["fingerprint"] == fingerprint
    assert main(["info", str(checkpoint)]) == 0
    assert "retrieval.passage" in capsys.readouterr().out


BAD_INPUT = {
    "no such command": ["bogus"],
    "no such option": ["encode", "x", "--nonsense"],
    "no paths": ["index"],
    "no query": ["search"],
    "blank query": ["search", "  "],
    "no such task": ["encode", "x", "--model", "{model}", "--task", "retrieval"],
    "no such dim": ["encode", "x", "--model", "{model}", "--dim", "7"],
    "dim no number": ["encode", "x", "--dim", "many"],
    "dim negative": ["encode", "x", "--dim=-1"],
    "no such model": ["encode", "x", "--model", "nowhere"],
    "model is a file": ["encode", "x", "--model", "{file}"],
    "model without config": ["info", "{empty}"],
    "no such info dim": ["info", "{model}", "--dim", "9"],
    "npy without output": ["encode", "x", "--format", "npy"],
    "no such format": ["encode", "x", "--format", "xml"],
    "output into nowhere": ["encode", "x", "--model", "{model}", "--output", "{empty}/no/x"],
    "output is a folder": ["encode", "x", "--model", "{model}", "--output", "{empty}"],
    "no such path": ["index", "{empty}/gone", "--store", "qdrant:{empty}/store"],
    "index with no such model": ["index", "{file}", "--model", "no", "--store", "qdrant:{empty}/s"],
    "index with no such dim": [
        *("index", "{file}", "--model", "{model}", "--dim", "7", "--store", "qdrant:{empty}/s")
    ],
    "empty path": ["index", "", "--store", "qdrant:{empty}/store"],
    "no such store": ["index", "{empty}", "--store", "redis:here"],
    "store without folder": ["index", "{empty}", "--store", "qdrant:"],
    "server without http": ["index", "{empty}", "--store", "qdrant:localhost:6333"],
    "store is a file": ["index", "{empty}", "--store", "qdrant:{file}"],
    "postgres store is a file": ["index", "{empty}", "--store", "postgres:{file}"],
    "postgres store holds other files": ["index", "{empty}", "--store", "postgres:{full}"],
    "index not made": ["search", "x", "--store", "qdrant:{empty}/store"],
    "qdrant refuses": ["search", "x", "--store", "qdrant:http://127.0.0.1:1"],
    "qdrant url malformed": ["search", "x", "--store", "qdrant:http://host:port"],
    "qdrant store holds other files": ["index", "{file}", "--store", "qdrant:{full}"],
    "qdrant store damaged": ["search", "x", "--store", "qdrant:{damaged}"],
    "postgres refuses": ["search", "x", "--store", "postgresql://u:hush@127.0.0.1:1/x"],
    "bad dsn": ["search", "x", "--store", "postgresql://u:hush@127.0.0.1/x?nonsense=1"],
    "dsn that is cut wrong": ["search", "x", "--store", "postgresql://u:hush/y@127.0.0.1/x"],
    "dsn with two at signs": ["search", "x", "--store", "postgresql://u:x@hush@127.0.0.1:1/x"],
    "dsn with a bad port": ["search", "x", "--store", "postgresql://127.0.0.1:hush/x"],
    "dsn with a driver": ["search", "x", "--store", "postgresql+psycopg://u:hush@127.0.0.1:1/x"],
    "dsn of pairs": ["search", "x", "--store", "host=127.0.0.1 password=hush"],
    "dsn without slashes": ["index", "{empty}", "--store", "postgres:u:hush@127.0.0.1/x"],
    "no such store with a key": ["search", "x", "--store", "redis://u:hush@127.0.0.1"],
    "qdrant with a key refuses": ["search", "x", "--store", "qdrant:http://u:hush@127.0.0.1:1"],
    "qdrant key malformed": ["search", "x", "--store", "qdrant:http://u:hush@host:port"],
    "chunk too big": ["index", "{empty}", "--chunk-chars", "1000001"],
    "k beyond all bounds": ["search", "x", "-k", "9999999999999999999999"],
    "bad collection": ["search", "x", "--collection", "../etc"],
    "long collection": ["search", "x", "--collection", "a" * 60],
    "k of zero": ["search", "x", "-k", "0"],
    "k no number": ["search", "x", "-k", "five"],
    "chunk of nothing": ["index", "{empty}", "--chunk-chars", "0"],
    "demo in a full folder": ["demo", "--keep", "{full}", "--model", "{model}"],
    "demo with no such dim": ["demo", "--model", "{model}", "--dim", "7"],
    "demo with no limit": ["demo", "--limit", "0"],
}


@pytest.mark.parametrize("arguments", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("file", "full/file"):
        (tmp_path / name).write_text("text")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/meta.json").write_text("no json")
    places = {name: str(tmp_path / name) for name in ("file", "full", "empty", "damaged")}
    filled = [item.format(model=checkpoint, **places) for item in arguments]
    assert main(filled) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("taskvec: ")
    assert len(last) > len("taskvec: ") + 10
    # The demo says first what it is loading.
    assert err.count("\n") == (2 if "demo" in arguments and "--limit" not in arguments else 1)
    assert "Traceback" not in err
    assert "hush" not in err
    assert not list((tmp_path / "empty").iterdir())


def test_a_line_that_is_not_utf8_is_named(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, b"good\nb\xe4d\n")
    assert main(["encode", "--model", str(checkpoint)]) == 2
    assert "line 2 of standard input is not UTF-8" in capsys.readouterr().err


def test_help_is_quick_and_loads_neither_torch_nor_a_framework() -> None:
    script = (
        "import sys; from taskvec.integrations.cli import main; code = main(['index', '--help']);"
        "heavy = {'torch', 'transformers', 'rich', 'qdrant_client', 'langchain_core', 'psycopg'};"
        "sys.exit(code or len(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--store" in done.stdout


def test_no_command_prints_help_and_version_prints_the_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("taskvec ")


def test_a_closed_pipe_is_silent(checkpoint: Path) -> None:
    encode = subprocess.Popen(
        [sys.executable, "-m", "taskvec.integrations.cli", "encode", "--model", str(checkpoint)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert encode.stdout is not None
    encode.stdout.close()
    encode.stdout = None
    _, err = encode.communicate(b"text\n" * 2000, timeout=120)
    assert err == b""
    assert encode.returncode == 141


def test_a_real_process_says_one_sentence() -> None:
    done = run("encode", "x", "--model", "nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("taskvec: no model 'nowhere'")
    assert done.stderr.count("\n") == 1


def test_a_missing_extra_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["info", str(checkpoint)]) == 2
    assert "pip install 'taskvec[cli]'" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["rich.console", "semantic_text_splitter", "bs4", "pypdf"])
def test_indexing_without_the_extra_makes_no_store(
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setitem(sys.modules, package, None)
    store = tmp_path / "store"
    assert main(["index", str(tmp_path / "a.txt"), "--store", f"qdrant:{store}"]) == 2
    assert "pip install 'taskvec[cli]'" in capsys.readouterr().err
    assert not store.exists()


def test_a_fault_of_our_own_is_not_taken_for_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("a feature", "extra"):
        raise ModuleNotFoundError(name="taskvec.missing")
