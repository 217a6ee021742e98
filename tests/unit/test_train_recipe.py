"""The multilingual recipe's text and pieces: shares, seeds, and what is kept of each language."""

from collections import Counter
from pathlib import Path

import pytest

from taskvec.integrations.train.recipe import mix, pieces
from taskvec.integrations.train.teachers.e5 import Piece
from taskvec.integrations.train.texts.archive import Archive
from taskvec.integrations.train.vocabulary import unigram_tokenizer


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
