"""Every example of an adapter runs by itself, offline, and finds the right passage."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = [
    "langchain_search",
    "llama_index_search",
    "qdrant_collection",
    "qdrant_documents",
    "pgvector_copy",
]


@pytest.mark.parametrize("name", NAMES)
def test_example_finds_the_right_passage(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    question, first, _ = done.stdout.splitlines()
    assert question.endswith("?")
    assert "gzip" in first
    assert list(tmp_path.iterdir()) == []
