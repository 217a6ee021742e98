"""Training text, read from files as the packages hold them."""

from pathlib import Path

import polib
import pytest

from taskvec.core.errors import InputError
from taskvec.integrations.train.texts import archive as archives
from taskvec.integrations.train.texts import descriptions, libreoffice, wesnoth, wordnet
from taskvec.integrations.train.texts.archive import Archive


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive whose lists and packages lie there already: apt is never called."""
    sources = tmp_path / "sources.list"
    sources.touch()
    monkeypatch.setattr(archives, "SOURCES", (sources,))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("apt was called")

    monkeypatch.setattr(Archive, "_run", refuse)
    made = Archive(tmp_path / "text", ("en", "pt_BR"))
    (made.folder / "lists").mkdir(parents=True)
    (made.folder / "apt.conf").write_text(made._settings())
    (made.folder / "lists" / "x_main_binary-amd64_Packages").write_text(
        "Package: vim\nSection: editors\n\nPackage: gnat\nSection: non-free/devel\n"
    )
    (made.folder / "lists" / "x_main_i18n_Translation-en").write_text(
        "Package: vim\nDescription-md5: 11\nDescription-en: Vi IMproved\n An editor.\n .\n"
        "  Of text.\n\n"
        "Package: gnat\nDescription-md5: 22\nDescription-en: compiler\n\n"
        "Package: gone\nDescription-md5: 33\nDescription-en: none\n Not in the archive.\n"
    )
    (made.folder / "lists" / "x_main_i18n_Translation-pt%5fBR").write_text(
        "Package: vim\nDescription-md5: 11\nDescription-pt_BR: Vi\n Um editor.\n"
    )
    return made


def put(archive: Archive, package: str, path: str, text: bytes) -> None:
    target = archive.folder / "packages" / package / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text)


def test_descriptions_and_translations_share_their_key(archive: Archive) -> None:
    (english,) = descriptions.descriptions(archive, "en")
    assert english == ("11", "vim", "editors", "Vi IMproved", "An editor.\n\n Of text.")
    (translated,) = descriptions.descriptions(archive, "pt_BR")
    assert (translated.key, translated.text) == ("11", "Um editor.")


def test_help_pages_give_paragraphs_under_their_headings(archive: Archive) -> None:
    page = (
        '<p class="menu">Menu</p><h1 id="hd_id1" dir="auto">Cartes &amp; papier</h1>'
        '<p id="par_id2" class="paragraph">Une <span class="emph">carte</span>\n de visite.</p>'
        '<h2 id="hd_id3">Format</h2><p id="par_id4"> </p><p id="par_id5">Le format.</p>'
    )
    put(
        archive,
        "libreoffice-help-fr",
        "usr/share/libreoffice/help/fr/text/shared/01.html",
        page.encode(),
    )
    put(
        archive, "libreoffice-help-fr", "usr/share/libreoffice/help/fr/text/empty.html", b"<p>x</p>"
    )
    (found,) = libreoffice.pages(archive, "fr")
    assert (found.path, found.title) == ("shared/01.html", "Cartes & papier")
    assert [tuple(paragraph) for paragraph in found.paragraphs] == [
        ("shared/01.html#par_id2", "Cartes & papier", "Une carte de visite."),
        ("shared/01.html#par_id5", "Format", "Le format."),
    ]


def test_stories_lose_hints_and_markup(archive: Archive, tmp_path: Path) -> None:
    catalog = polib.POFile()
    for source, target in {
        "female^You see <b>$name|</b>, an elf.": "Vous voyez <b>$name|</b>, une elfe.",
        "Fire and water are near.": "",
        "Attack": "Attaque",
    }.items():
        catalog.append(polib.POEntry(msgid=source, msgstr=target))
    catalog.save_as_mofile(str(tmp_path / "story.mo"))
    for campaign in wesnoth.CAMPAIGNS:
        (archive.folder / "packages" / f"wesnoth-1.16-{campaign}").mkdir(parents=True)
    path = "usr/share/games/wesnoth/1.16/locale/fr/LC_MESSAGES/wesnoth-ei.mo"
    put(archive, "wesnoth-1.16-ei", path, (tmp_path / "story.mo").read_bytes())
    assert wesnoth.translations(archive, "fr") == {"You see , an elf.": "Vous voyez , une elfe."}


def test_glosses_keep_their_examples_apart(archive: Archive) -> None:
    line = (
        "00001740 03 n 02 entity 0 living_thing(a) 0 003 ~ 00001930 n 0000 | that which is; "
        '"it is"; "so it is"  \n'
    )
    put(archive, "wordnet-base", "usr/share/wordnet/data.noun", f"  1 licence\n{line}".encode())
    (gloss,) = wordnet.glosses(archive)
    assert gloss == ("entity, living thing", 3, "that which is", ("it is", "so it is"))


def test_a_machine_without_apt_sources_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "SOURCES", (tmp_path / "none",))
    with pytest.raises(InputError, match="no apt sources"):
        _ = Archive(tmp_path).lists


def test_a_command_that_fails_tells_why_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text("deb file:/nowhere none main\n")
    monkeypatch.setattr(archives, "SOURCES", (sources,))
    archive = Archive(tmp_path / "text")
    for _ in range(2):
        with pytest.raises(InputError, match=r"apt-get failed: .*nowhere"):
            archive.package("wordnet-base")
    assert not (tmp_path / "text" / "packages" / "wordnet-base").exists()
