"""What the training text is cut into, and that no held-out docstring is trained on."""

from pathlib import Path

import pytest

from taskvec.integrations.train.texts import docstrings


@pytest.fixture(scope="module")
def splits() -> dict[str, list[docstrings.Docstring]]:
    return {split: docstrings.docstrings(split) for split in ("train", "dev", "test")}


def test_splits_share_no_module(splits: dict[str, list[docstrings.Docstring]]) -> None:
    modules = {split: {doc.module.split(".")[0] for doc in docs} for split, docs in splits.items()}
    assert not modules["train"] & modules["test"]
    assert not modules["dev"] & modules["test"]


def test_splits_share_no_docstring(splits: dict[str, list[docstrings.Docstring]]) -> None:
    texts = {split: {doc.rest or doc.first for doc in docs} for split, docs in splits.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["dev"] & texts["test"]


def test_evaluation_has_a_thousand_pairs_without_duplicates() -> None:
    pairs = docstrings.docstring_pairs("test")
    assert len(pairs) >= 1000
    assert len({pair.first for pair in pairs}) == len(pairs)
    assert len({pair.rest for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("module", "split"),
    [("asyncio.tasks", "test"), ("email", "test"), ("tkinter.ttk", "train"), ("json", "train")],
)
def test_split_of_a_module_never_changes(module: str, split: str) -> None:
    assert docstrings.split_of(module) == split


def test_python_twins_stay_in_one_split() -> None:
    assert docstrings.split_of("_pydecimal") == docstrings.split_of("decimal")
    assert docstrings.split_of("_pyio") == docstrings.split_of("io")


@pytest.mark.parametrize(
    ("text", "first", "rest"),
    [
        ("One. Two.", "One.", "Two."),
        ("One line\n\nThe rest\nof it.", "One line", "The rest of it."),
        ("Uses e.g. a list. Then more.", "Uses e.g. a list.", "Then more."),
        ("Version 3.11 is read. More", "Version 3.11 is read.", "More"),
        ("All there is", "All there is", ""),
    ],
)
def test_first_sentence_ends_where_a_reader_ends_it(text: str, first: str, rest: str) -> None:
    assert docstrings.first_sentence(text) == (first, rest)


def test_docstrings_are_read_without_importing(tmp_path: Path) -> None:
    (tmp_path / "tkinter.py").write_text('"""First. Second."""\nraise SystemExit\n')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "tkinter.py").write_text('"""Not this one."""\n')
    assert docstrings.docstrings("train", tmp_path) == [
        docstrings.Docstring("tkinter", "First.", "Second.")
    ]
