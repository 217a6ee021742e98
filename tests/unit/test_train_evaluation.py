"""What the starter's figures are taken with: sections in their pages, RoPE bases, lengths."""

from pathlib import Path

import numpy as np
import pytest

from taskvec.core import Encoder
from taskvec.integrations.quality.collections import Collection, paired
from taskvec.integrations.quality.rankers import Entry, Model
from taskvec.integrations.train.recipe import evaluation, sets
from taskvec.integrations.train.texts import debian_faq, gnome, manpages
from taskvec.integrations.train.texts.archive import Archive
from tests.checkpoints import WORDS


def page(key: str, title: str, *sections: tuple[str, str]) -> gnome.HelpPage:
    parts = (gnome.Section("", "open file"), *(gnome.Section(*part) for part in sections))
    return gnome.HelpPage(f"gnome-help/{key}", "files", title, parts)


PAGES = [
    page("one", "read queue", ("lock", "thread lock open"), ("json", "parse json value")),
    page("two", "write path", ("error", "socket error close"), ("test", "test module return")),
    page("three", "date time", ("no other", "alone")),
]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    own = PAGES[0]._replace(title="lies", sections=(gnome.Section("", "auf"),))
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
    man = [manpages.ManPage(f"man7/p{n}.7", f"page of {n}", "word " * n) for n in sizes]
    repeated = manpages.ManPage("man7/r.7", "word word", "word " * 160)
    monkeypatch.setattr(manpages, "man_pages", lambda _: [repeated, *man])
    return Archive(tmp_path)


def test_a_section_is_encoded_within_its_page(encoder: Encoder, archive: Archive) -> None:
    found = sets.sections(archive)
    assert list(found.pages) == ["gnome-help/one", "gnome-help/two"]
    assert list(found.collection.queries.values())[:2] == ["read queue: lock", "read queue: json"]
    lines = evaluation.chunking(encoder, found)
    assert [line.ranker for line in lines] == [
        "chunk by chunk",
        "chunk by chunk, with the page's title",
        "late chunking",
    ]
    assert next(iter(found.titled.documents.values())) == "read queue\nthread lock open"
    parts = found.pages["gnome-help/one"]
    vectors = evaluation.within(encoder, parts)
    assert vectors.shape == (2, 32)
    text = "read queue\nopen file\nthread lock open\nparse json value\n"
    wanted = encoder.encode_chunks(text, [(0, 21), (21, 38), (38, 55)], task="retrieval.passage")
    np.testing.assert_allclose(vectors, wanted[1:], atol=1e-5)
    alone = encoder.encode(list(parts[1:]), task="retrieval.passage")
    assert not np.allclose(vectors, alone, atol=1e-2)


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


def test_documents_of_a_band_are_as_long_as_it_says(archive: Archive) -> None:
    bands = list(sets.by_length(archive, lambda texts: [len(text.split()) for text in texts]))
    assert [band.name for band in bands] == [f"man pages of {name} tokens" for name in sets.BANDS]
    # As many in each as the smallest has; one repeats its own line, one is in no band.
    keys = [[key.removeprefix("document man7/") for key in band.documents] for band in bands]
    assert keys == [["p150.7", "p151.7"], ["p2000.7", "p2001.7"], ["p4000.7", "p4001.7"]]


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
