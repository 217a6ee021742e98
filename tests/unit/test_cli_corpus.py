"""The demo's corpus: docstrings read from sources, without importing them."""

from pathlib import Path

import pytest

from taskvec.integrations.cli.demo.corpus import LONGEST_DOCUMENT, LONGEST_PASSAGE, read_corpus

SOURCE = '''"""A module that would do harm if it were imported."""
raise SystemExit

def join(parts, *, sep=None):
    """Join the parts of a path into one."""

def _hidden():
    """Nobody should find this docstring."""

class Box:
    """A box that holds things of any kind."""

    def open(self, key):
        """Open the box with a key that fits."""

    def bare(self):
        """Too short."""

    class Lid:
        """The lid of a box, which closes it."""
'''


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "boxes.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "_private.py").write_text('"""A private module is not for newcomers."""')
    (tmp_path / "_pyio.py").write_text('"""The twin in Python of a module in C."""')
    (tmp_path / "test").mkdir()
    (tmp_path / "test/test_x.py").write_text('"""Tests are no documentation either."""')
    return tmp_path


def test_a_document_is_a_module_or_a_class_with_its_members(library: Path) -> None:
    documents = read_corpus(library=library)
    named = [[passage.name for passage in document.passages] for document in documents]
    assert named == [
        ["io"],
        ["boxes", "boxes.join"],
        ["boxes.Box", "boxes.Box.open"],
        ["boxes.Box.Lid"],
    ]


def test_a_passage_is_a_docstring_under_its_qualified_name(library: Path) -> None:
    passages = [p for document in read_corpus(library=library) for p in document.passages]
    texts = {passage.name: passage.text for passage in passages}
    assert texts["boxes.join"] == "boxes.join(parts)\nJoin the parts of a path into one."
    assert texts["boxes.Box.open"] == "boxes.Box.open(key)\nOpen the box with a key that fits."


def test_a_long_docstring_is_split_and_a_long_class_too(tmp_path: Path) -> None:
    sentence = "This sentence is one of very many in a long docstring. "
    methods = "".join(
        f'    def method{n}(self):\n        """Method {n}. {sentence * 5}"""\n' for n in range(12)
    )
    (tmp_path / "long.py").write_text(
        f'"""{sentence * 40}"""\nclass Long:\n    """A class of many methods."""\n{methods}'
    )
    documents = read_corpus(library=tmp_path)
    passages = [passage for document in documents for passage in document.passages]
    assert len(documents) > 3
    assert max(len(document.text) for document in documents) <= LONGEST_DOCUMENT + 100
    assert max(len(passage.text) for passage in passages) <= LONGEST_PASSAGE + 20


def test_a_limit_draws_the_same_passages_every_time(library: Path) -> None:
    drawn = read_corpus(library=library, limit=3)
    assert sum(len(document.passages) for document in drawn) <= 3
    assert drawn == read_corpus(library=library, limit=3)


def test_the_standard_library_has_thousands_of_passages_with_spans_that_fit() -> None:
    documents = read_corpus()
    passages = [passage for document in documents for passage in document.passages]
    assert len(passages) > 2000
    assert len({passage.id for passage in passages}) == len(passages)
    for document in documents:
        for (start, end), passage in zip(document.spans, document.passages, strict=True):
            assert document.text[start:end] == passage.text
