"""The multilingual recipe's text and pieces: shares, seeds, and what is kept of each language."""

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from taskvec.core.errors import InputError
from taskvec.integrations.train.recipe import aligned, asking, mix, pieces, rows, sets
from taskvec.integrations.train.recipe.aligned import Aligned, Passage
from taskvec.integrations.train.teachers.e5 import Piece
from taskvec.integrations.train.texts import descriptions, libreoffice, wesnoth
from taskvec.integrations.train.texts.archive import Archive
from taskvec.integrations.train.texts.questions import Question
from taskvec.integrations.train.texts.wordnet import Gloss
from taskvec.integrations.train.vocabulary import unigram_tokenizer
from tests.checkpoints import tiny_checkpoint


def texts() -> dict[str, mix.Texts]:
    kinds = {
        language: mix.ENGLISH_KINDS if language == "en" else mix.KINDS for language in mix.LANGUAGES
    }
    return {
        language: {kind: [f"{language} {kind} {i:04d}" for i in range(400)] for kind in shares}
        for language, shares in kinds.items()
    }


def test_a_draw_keeps_the_shares_and_follows_the_seed() -> None:
    drawn = mix.draw(texts(), 10_000, seed=0)
    counts = Counter(text.split()[0] for text in drawn)
    for language, share in mix.LANGUAGES.items():
        assert counts[language] / len(drawn) == pytest.approx(share, abs=0.002)
    kinds = Counter(text.split()[1] for text in drawn if text.startswith("de "))
    assert kinds["stories"] > kinds["paragraphs"] > kinds["descriptions"] > kinds["long"]
    assert mix.draw(texts(), 10_000, seed=0) == drawn
    assert mix.draw(texts(), 10_000, seed=1) != drawn


def test_what_a_kind_lacks_is_taken_again_and_scraps_are_left_out() -> None:
    given = texts()
    given["de"]["stories"] = ["kurz", "eine Geschichte", "noch eine Geschichte"]
    drawn = Counter(mix.draw(given, 10_000, seed=0))
    told = [drawn["eine Geschichte"], drawn["noch eine Geschichte"]]
    assert min(told) > 100
    assert max(told) - min(told) <= 1
    assert "kurz" not in drawn


def test_long_pages_are_cut_to_several_lengths() -> None:
    given = texts()
    given["fr"]["long"] = ["x" * 9000] * 100
    lengths = {len(text) for text in mix.draw(given, 100_000, seed=0) if text[0] == "x"}
    assert lengths == set(mix.LONG_CHARS)


def test_common_words_of_a_language_are_kept_though_the_mix_lacks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path)
    words = tmp_path / "packages" / "wngerman" / "usr/share/dict/ngerman"
    words.parent.mkdir(parents=True)
    words.write_bytes("Gitarre\nstraße\n".encode("latin-1"))
    known = [Piece(text, 0.0) for text in ("<s>", "<pad>", "</s>", "<unk>")]
    # The mix says "x" alone; of the other pieces two are words of the dictionary.
    known += [Piece("▁x", -3.0), Piece("▁Gitarre", -9.0), Piece("▁Straße", -10.0)]
    known += [Piece("▁rock", -5.0), Piece("<mask>", 0.0)]
    monkeypatch.setattr(mix, "LANGUAGES", {"de": 1.0})
    monkeypatch.setattr(pieces, "LANGUAGES", {"de": 1.0})
    monkeypatch.setattr(pieces, "SIZE", 8)
    mixed = {"de": {"paragraphs": ["x x", "x"]}}
    kept = pieces.choose_pieces(archive, known, unigram_tokenizer(known), mixed)
    assert [known[index].text for index in kept[4:]] == ["▁x", "▁Gitarre", "▁Straße", "<mask>"]


def test_chinese_and_japanese_are_told_by_their_script() -> None:
    chinese, japanese = pieces.SCRIPTS["zh_CN"], pieces.SCRIPTS["ja"]
    assert [bool(chinese.match(text)) for text in ("▁音乐", "音楽の", "music")] == [
        True,
        False,
        False,
    ]
    assert [bool(japanese.match(text)) for text in ("ギター", "▁音楽の", "音乐")] == [
        True,
        True,
        False,
    ]


def described(language: str) -> list[descriptions.Description]:
    """Two hundred packages, the last of which no one translated."""
    found = [
        descriptions.Description(
            f"{i}", f"p{i}", "games", f"{language} {i}", f"text\n{language} {i}"
        )
        for i in range(200)
    ]
    return found if language == "en" else found[:-1]


def explained(language: str) -> list[libreoffice.Page]:
    text = "A paragraph long enough to say something of its heading"
    parts = [
        ("a", "Heading", f"{language} {text}"),
        ("b", "Heading", "below the same heading, and so not the first"),
        ("c", "Other", text),
        ("d", "Short", f"{language} short"),
    ]
    paragraphs = [libreoffice.Paragraph(f"scalc/01/x.html#{k}", *rest) for k, *rest in parts]
    return [libreoffice.Page("scalc/01/x.html", "Heading", tuple(paragraphs))]


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Archive:
    monkeypatch.setattr(descriptions, "descriptions", lambda _, language: described(language))
    monkeypatch.setattr(libreoffice, "pages", lambda _, language: explained(language))
    told = {f"We meet again {i}": f"Wieder einmal {i}" for i in range(100)} | {"a text='x'": "b"}
    stories = {source: wesnoth.Story("utbs", text) for source, text in told.items()}
    monkeypatch.setattr(wesnoth, "stories", lambda *_: stories)
    return Archive(tmp_path)


@pytest.fixture
def german(archive: Archive) -> dict[bool, Aligned]:
    return {out: aligned.aligned(archive, "de", held_out=out) for out in (False, True)}


def test_passages_stand_beside_the_english_that_they_translate(
    german: dict[bool, Aligned],
) -> None:
    everything = [*german[False].passages, *german[True].passages]
    assert Passage("de 7", "text de 7", "en 7", "text en 7", "games", "7") in everything
    # "Other" is not translated, "Short" too short, and the last package has no German.
    (help_page,) = [item for item in everything if item.group != "games"]
    assert (help_page.group, help_page.document) == ("scalc/01", "scalc/01/x.html")
    assert help_page.english_text.startswith("en A paragraph")
    assert len(everything) == 199 + 1
    assert not any("='" in source for source in german[False].sentences)


def test_what_is_held_out_is_in_no_other_language_either(german: dict[bool, Aligned]) -> None:
    kept, held = ({p.english_heading for p in german[out].passages} for out in (False, True))
    assert not kept & held
    assert 0.04 < len(held) / (len(kept) + len(held)) < 0.18
    assert len(german[True].sentences) + len(german[False].sentences) == 100
    english = {f"{i}" for i in range(200) if aligned.is_held_out(f"{i}")}
    assert english - {"199"} == {heading.split()[1] for heading in held if heading[:2] == "en"}


def test_choices_are_made_on_what_no_pair_was_taken_from(
    archive: Archive, german: dict[bool, Aligned]
) -> None:
    found = {collection.name: collection for collection in sets.development(archive)}
    own, across = found["held out, de"], found["held out, de → en"]
    held = {passage.text: passage for passage in german[True].passages}
    assert set(own.documents.values()) == set(held)
    for query, heading in own.queries.items():
        (document,) = own.judgements[query]
        passage = held[own.documents[document]]
        assert (heading, across.documents[document]) == (passage.heading, passage.english_text)
    assert "held out, en" in found
    assert "held out, en → en" not in found


@pytest.fixture
def texts_by_language() -> dict[str, Aligned]:
    def passage(language: str, i: int) -> Passage:
        return Passage(
            f"{language} heading {i}",
            f"{language} text {i}. " + "And more of it to be a passage of some length.",
            f"en heading {i}",
            f"en text {i}",
            f"group {i % 4}",
            f"group {i % 4}/page {i % 8}" if i % 2 else f"package {i}",
        )

    return {
        language: Aligned(
            [passage(language, i) for i in range(60)],
            {f"en sentence number {i}": f"{language} sentence number {i}" for i in range(40)},
            {f"en sentence number {i}": f"campaign {i % 3}" for i in range(40)},
        )
        for language in mix.LANGUAGES
    }


FAQ = [Question("How is it done?", "By doing it.")]
GLOSSES = [
    Gloss(f"word {i}", i % 3, f"meaning {i}", (f"an example of word {i}",)) for i in range(90)
]


def test_pairs_across_languages_carry_their_english_as_pivot(
    texts_by_language: dict[str, Aligned],
) -> None:
    files = rows.pairs(texts_by_language, GLOSSES, FAQ, seed=0)
    assert files == rows.pairs(texts_by_language, GLOSSES, FAQ, seed=0)
    assert not any(row["anchor_pivot"] for row in files["en-headings"])
    assert [(row["anchor"], row["positive"]) for row in files["en-faq"]] == FAQ
    for row in files["de"]:
        heading, pivot = (re.search(r"heading \d+", row[c]) for c in ("anchor", "anchor_pivot"))
        assert heading
        assert pivot
        assert heading[0] == pivot[0]
        assert row["anchor"].endswith("?") == row["anchor_pivot"].endswith("?")
        assert "de heading" in row["anchor"]
        assert "en heading" in row["anchor_pivot"]
        assert row["positive_pivot"].startswith("en text")
    across = files["en-ja"]
    sides = [(row["anchor"][:2], row["positive"][:2]) for row in across]
    assert set(sides) == {("en", "ja"), ("ja", "en")}
    for row in across:
        foreign = "anchor" if row["anchor"].startswith("ja") else "positive"
        assert row[f"{foreign}_pivot"].startswith("en")
        assert [name for name in ("anchor_pivot", "positive_pivot") if row[name]] == [
            f"{foreign}_pivot"
        ]
    held = {gloss.text for gloss in GLOSSES if aligned.is_held_out(gloss.text)}
    assert held
    assert not held & {row["positive"] for row in files["en-glosses"]}


def test_a_heading_is_asked_for_in_its_language_and_in_english_alike() -> None:
    order = random.Random(0)  # noqa: S311
    drawn = [asking.asked("Zeile", "de", order, "row") for _ in range(500)]
    questions = [pair for pair in drawn if pair[0] != "Zeile"]
    assert len(questions) == pytest.approx(500 * asking.SHARE, rel=0.2)
    assert ("Was ist Zeile?", "What is row?") in questions
    assert len(set(questions)) == len(asking.QUESTIONS["de"])
    assert {pair for pair in drawn if pair[0] == "Zeile"} == {("Zeile", "row")}
    for whole in ("Warum?", "Es regnet."):
        assert {asking.asked(whole, "de", order, "x") for _ in range(50)} == {(whole, "x")}
    assert set(asking.QUESTIONS) == set(mix.LANGUAGES)


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> rows.Judges:
    """Two small models that differ."""
    models = []
    for seed in (3, 4):
        folder = tmp_path_factory.mktemp("judges") / f"judge {seed}"
        models.append(SentenceTransformer(str(tiny_checkpoint(folder, "hf", seed=seed))))
    return rows.Judges(*models)


def test_scores_are_the_mean_of_wordnet_and_both_judges(judges: rows.Judges) -> None:
    words = [(f"w{i:02}", f"w{i + 1:02}", 0.5 + i / 100) for i in range(40)]
    found = rows.scored(words, judges, seed=0)["words"]
    score_of = {pair[:2]: pair[2] for pair in words}
    near = [row for row in found if (row["text1"], row["text2"]) in score_of]
    kept = [pair for pair in words if not aligned.is_held_out(" ".join(pair[:2]))]
    assert len(kept) <= len(near) < len(found) == 2 * len(kept) < 80
    assert {pair[:2] for pair in kept} <= {(row["text1"], row["text2"]) for row in found}
    assert all(row["text1"] < row["text2"] for row in found)
    for row in found:
        pair = row["text1"], row["text2"]
        mean = (
            sum(
                float(left @ right)
                for left, right in (
                    judge.encode_query(list(pair), normalize_embeddings=True)
                    for judge in judges.teachers
                )
            )
            / 2
        )
        assert row["score"] == pytest.approx((score_of.get(pair, 0.0) + mean) / 2, abs=1e-4)


def test_labels_of_few_texts_are_left_out_and_documents_lie_within_their_groups(
    texts_by_language: dict[str, Aligned], tmp_path: Path
) -> None:
    lonely = Passage("alone", "text", "alone", "text", "lonely group", "package")
    texts_by_language["en"].passages.append(lonely)
    files = rows.labelled(texts_by_language, seed=0)
    assert {row["label"] for row in files["packages"]} == {"group 0", "group 2"}
    assert {row["label"] for row in files["pages"]} == {
        f"group {i % 4}/page {i}" for i in (1, 3, 5, 7)
    }
    assert {row["group"] for row in files["pages"]} == {"group 1", "group 3"}
    together = rows.grouped(files)
    assert {row["label"] for row in together["pages"]} == {"group 1", "group 3"}
    modules = [(row["text"], row["label"]) for row in files["modules"]]
    assert [(row["text"], row["label"]) for row in together["modules"]] == modules
    assert set(together["packages"][0]) == {"text", "label"}


def test_a_share_of_the_rows_is_taken_evenly(tmp_path: Path) -> None:
    named = {name: [{"text": "x\u2028y"}, *({"text": i} for i in range(3))] for name in "abc"}
    paths = rows.write(named, tmp_path)
    half, all_, twice = rows.shares(paths, {"b": 1.0, "c": 2.0}, tmp_path / "shares")
    assert half.read_text(encoding="utf-8") == '{"text": "x\u2028y"}\n{"text": 1}\n'
    assert all_.read_bytes() == paths[1].read_bytes()
    lines = paths[2].read_text(encoding="utf-8").split("\n")[:-1]
    told = twice.read_text(encoding="utf-8").split("\n")[:-1]
    assert told == [line for line in lines for _ in range(2)]
    (long,) = rows.write({"long": [{"text": i} for i in range(101)]}, tmp_path / "long")
    (third,) = rows.shares([long], {"long": 0.35}, tmp_path / "third")
    kept = [json.loads(line)["text"] for line in third.read_text("utf-8").splitlines()]
    assert (len(kept), kept[0], kept[-1]) == (35, 0, 97)
    assert {b - a for a, b in itertools.pairwise(kept)} == {2, 3}
    with pytest.raises(InputError, match="there are no rows of d"):
        rows.shares(paths, {"d": 1.0}, tmp_path / "none")


def test_rows_are_made_once_and_found_again_in_their_order(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, list[rows.Row]]:
        made.append(1)
        return {"z": [{"text": "1"}], "a": [{"text": "2"}]}

    first = rows.once(tmp_path / "rows", make)
    assert rows.once(tmp_path / "rows", make) == first
    assert [path.stem for path in first] == ["z", "a"]
    assert made == [1]
