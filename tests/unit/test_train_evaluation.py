"""What the starter's figures are taken with: sections in their pages, RoPE bases, lengths."""

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskvec.core import Encoder
from taskvec.integrations.documents import DEFAULT_CHARACTERS
from taskvec.integrations.documents.reading import Document
from taskvec.integrations.quality.collections import Collection, paired
from taskvec.integrations.quality.rankers import Entry, Model, Ranking
from taskvec.integrations.train.recipe import evaluation, sets
from taskvec.integrations.train.texts import debian_faq, gnome, manpages
from taskvec.integrations.train.texts.archive import Archive
from taskvec.integrations.train.texts.sections import Section
from tests.checkpoints import WORDS


def page(key: str, title: str, *sections: tuple[str, str]) -> gnome.HelpPage:
    parts = (Section("", "open file"), *(Section(*part) for part in sections))
    return gnome.HelpPage(f"gnome-help/{key}", "files", title, parts)


PAGES = [
    page("one", "read queue", ("lock", "thread lock open"), ("json", "parse json value")),
    page("two", "write path", ("error", "socket error close"), ("test", "test module return")),
    page("three", "date time", ("no other", "alone")),
]


def words(count: int) -> tuple[Section, ...]:
    return (Section("", "word " * count),)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    own = PAGES[0]._replace(title="lies", sections=(Section("", "auf"),))
    german = [own, PAGES[1], PAGES[2]._replace(title="Datum")]
    monkeypatch.setattr(
        gnome, "help_pages", lambda _, language: PAGES if language == "en" else german
    )
    faq = [("open?", "close"), ("read?", "write"), ("parse?", "json")]
    asked = {"en": faq, "de": [("auf?", "zu"), ("read?", "schreiben"), ("zerlege?", "json")]}

    def answers(_: object, language: str) -> list[debian_faq.Answer]:
        rows = asked.get(language, asked["de"])
        return [debian_faq.Answer(f"a#{i}", *row) for i, row in enumerate(rows)]

    monkeypatch.setattr(debian_faq, "answers", answers)
    sizes = (50, 150, 151, 152, 2000, 2001, 4000, 4001)
    man = [manpages.ManPage(f"man7/p{n}.7", f"page of {n}", words(n)) for n in sizes]
    repeated = manpages.ManPage("man7/r.7", "word word", words(160))
    monkeypatch.setattr(manpages, "man_pages", lambda _: [repeated, *man])
    return Archive(tmp_path)


def test_a_section_is_encoded_within_its_page(encoder: Encoder, archive: Archive) -> None:
    found = sets.help_sections(archive)
    assert list(found.collection.queries.values())[:2] == ["read queue: lock", "read queue: json"]
    assert next(iter(found.titled.documents.values())) == "read queue\nthread lock open"
    page = found.pages[0]
    assert page.text.splitlines() == [
        *("read queue", "open file", "lock", "thread lock open", "json", "parse json value")
    ]
    told = [page.text[start:end] for page in found.pages for start, end in page.spans]
    assert told == list(found.collection.documents.values())
    lines = evaluation.chunking(encoder, found)
    assert [line.ranker for line in lines] == [
        "chunk by chunk",
        "chunk by chunk, with the page's title",
        "late chunking",
    ]


def test_late_vectors_are_those_of_the_spans_in_their_pages(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"one": "thread lock open", "two": "parse json value"}
    seen: list[np.ndarray] = []
    ranked = evaluation.nearest

    def nearest(collection: Collection, asked: np.ndarray, told: np.ndarray) -> Ranking:
        seen.append(told)
        return ranked(collection, asked, told)

    monkeypatch.setattr(evaluation, "nearest", nearest)
    found = paired("same", texts, texts)
    # The first page is its section alone.
    pages = [
        sets.Page(texts["one"], [(0, 16)]),
        sets.Page(f"read queue\n{texts['two']}", [(11, 27)]),
    ]
    evaluation.chunking(encoder, sets.Sections(found, found, pages))
    alone, titled, late = seen
    np.testing.assert_allclose(alone, titled, atol=1e-5)
    np.testing.assert_allclose(late[0], alone[0], atol=1e-5)
    assert not np.allclose(late[1], alone[1], atol=1e-2)


def test_of_the_man_pages_sections_are_searched_that_do_not_name_their_subject(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "It returns nothing of interest, and sets no error, whatever it is given by a caller."
    told = {
        "Description": f"Opens a file. {long}",
        "Return value": long,
        "Errors": f"Of open. {long}",
        "Notes": "It returns.",
    }
    parts = tuple(Section(*part) for part in told.items())
    pages = [
        manpages.ManPage("man2/open.2", "open a file", parts),
        manpages.ManPage("man2/long.2", "a long one", (*parts, Section("Bugs", "so " * 3_000))),
        manpages.ManPage("man2/own.2", "sets no error", parts),
    ]
    monkeypatch.setattr(manpages, "man_pages", lambda _: pages)
    found = sets.manual_sections(archive)
    (query,) = found.collection.queries.values()
    assert query == "open a file: Return value"
    assert list(found.titled.documents.values()) == [f"open\n{long}"]
    (page,) = found.pages
    assert page.text.startswith("Description\nOpens a file.")
    assert [page.text[start:end] for start, end in page.spans] == [long]


def test_the_base_of_training_gives_other_vectors_than_the_served_one(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {str(i): " ".join(WORDS[i % 7 : i % 7 + 30] * 3) for i in range(9)}
    seen: list[np.ndarray] = []
    ranked = Model.rank

    def rank(self: Model, collection: Collection) -> list[Entry]:
        seen.append(self.embedder.encode(list(texts.values()), task="retrieval.passage"))
        return ranked(self, collection)

    monkeypatch.setattr(Model, "rank", rank)
    lines = evaluation.rope(encoder, [paired("long", texts, texts)])
    served, trained = seen
    assert not np.allclose(served, trained, atol=1e-3)
    assert [line.ranker for line in lines] == ["RoPE base 20000", "RoPE base 10000"]
    printed = evaluation.table(lines).splitlines()
    assert printed[0] == "| nDCG@10 / recall@10 | RoPE base 20000, 32 | RoPE base 10000, 32 |"
    first, second = (line.measures for line in lines)
    assert printed[2] == (
        f"| long | {first.ndcg_10:.3f} / {first.recall_10:.3f} "
        f"| {second.ndcg_10:.3f} / {second.recall_10:.3f} |"
    )


def test_of_a_documents_chunks_the_best_counts(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = {"first": "thread lock open", "last": "date time"}
    texts = {
        "first": ["parse json value ", "thread lock open ", "socket error close"],
        "last": ["write path ", "date time"],
        "short": ["read queue"],
    }

    def chunks(text: str, _: int) -> list[tuple[int, int]]:
        (parts,) = (own for own in texts.values() if "".join(own) == text)
        ends = list(accumulate(map(len, parts)))
        return list(pairwise([0, *ends]))

    def own(document: Document, *, characters: int) -> list[tuple[int, int]]:
        assert characters == DEFAULT_CHARACTERS
        return chunks(document.text, 0)

    monkeypatch.setattr(sets, "equal_parts", chunks)
    monkeypatch.setattr(evaluation, "split_spans", own)
    monkeypatch.setattr(evaluation, "CONTEXT", 40)
    documents = {name: "".join(own) for name, own in texts.items()}
    seen: list[Ranking] = []
    measure = evaluation.measure

    def measured(judgements: Any, ranking: Ranking) -> Any:
        seen.append(ranking)
        return measure(judgements, ranking)

    monkeypatch.setattr(evaluation, "measure", measured)
    lines = evaluation.by_best_chunk(encoder, [paired("long", queries, documents)])
    assert [line.ranker for line in lines] == [
        *("chunks", "late chunks", "chunks of taskvec's indexes")
    ]
    alone, late, in_sections = seen
    task = "retrieval.passage"
    for key, asked in queries.items():
        query = encoder.encode(asked, task="retrieval.query")
        for name, text in documents.items():
            of = (f"query {key}", f"document {name}")
            want = encoder.encode(texts[name], task=task) @ query
            assert alone[of[0]][of[1]] == pytest.approx(want.max(), abs=1e-5)
            want = encoder.encode_chunks(text, chunks(text, 0), task=task) @ query
            assert late[of[0]][of[1]] == pytest.approx(want.max(), abs=1e-5)
        # Of three chunks the first two see each other, and the last none.
        *two, last = texts["first"]
        spans = [(0, len(two[0])), (len(two[0]), len("".join(two)))]
        want = encoder.encode_chunks("".join(two), spans, task=task) @ query
        best = max(*want, encoder.encode(last, task=task) @ query)
        assert in_sections[f"query {key}"]["document first"] == pytest.approx(best, abs=1e-5)
        assert abs(best - late[f"query {key}"]["document first"]) > 1e-3


def test_chunks_are_equal_parts_of_the_whole_text() -> None:
    text = "a" * 1001
    for tokens, count in ((1, 1), (299, 1), (301, 2), (2_000, 10)):
        spans = sets.equal_parts(text, tokens)
        assert len(spans) == count
        assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
        assert (spans[0][0], spans[-1][1]) == (0, len(text))
        sizes = [end - start for start, end in spans]
        assert max(sizes) - min(sizes) <= count


def test_documents_of_a_band_are_as_long_as_it_says(archive: Archive) -> None:
    bands = list(sets.by_length(archive, lambda texts: [len(text.split()) for text in texts]))
    short, middle, long = (f"man pages of {name} tokens" for name in sets.BANDS)
    begins = ", their first 200"
    names = [short, middle, middle + begins, long, long + begins]
    assert [band.name for band in bands] == names
    # As many in each as the smallest has; one repeats its own line, one is in no band.
    keys = [[key.removeprefix("document man7/") for key in band.documents] for band in bands]
    assert keys == [
        ["p150.7", "p151.7"],
        *[["p2000.7", "p2001.7"]] * 2,
        *[["p4000.7", "p4001.7"]] * 2,
    ]
    counts = [[len(text.split()) for text in band.documents.values()] for band in bands]
    assert counts == [[150, 151], [2000, 2001], [200, 200], [4000, 4001], [200, 200]]


def test_searches_go_across_languages_by_key_and_leave_the_untranslated_out(
    archive: Archive,
) -> None:
    found = {collection.name: collection for collection in sets.searches(archive)}
    assert list(found["GNOME help, de"].documents) == ["document gnome-help/one"]
    across = found["GNOME help, de → en"]
    assert across.queries == {"query gnome-help/one": "lies"}
    assert len(across.documents) == 3
    assert across.judgements == {"query gnome-help/one": {"document gnome-help/one": 1}}
    # The second question and the third answer are not translated.
    faq = found["Debian FAQ, de → en"]
    assert faq.queries == {"query a#0": "auf?"}
    assert len(faq.documents) == 3
