"""Training text and what models are measured on, read from files as the packages hold them."""

import gzip
from pathlib import Path

import polib
import pytest

from taskvec.core.errors import InputError
from taskvec.integrations.train.texts import archive as archives
from taskvec.integrations.train.texts import (
    debian_faq,
    descriptions,
    gnome,
    libreoffice,
    manpages,
    questions,
    wesnoth,
    wordnet,
)
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
    (story,) = wesnoth.stories(archive, "fr").values()
    assert story == ("ei", "Vous voyez , une elfe.")


def test_glosses_keep_their_examples_apart(archive: Archive) -> None:
    line = (
        "00001740 03 n 02 entity 0 living_thing(a) 0 003 ~ 00001930 n 0000 | that which is; "
        '"it is"; "so it is"  \n'
    )
    put(archive, "wordnet-base", "usr/share/wordnet/data.noun", f"  1 licence\n{line}".encode())
    (gloss,) = wordnet.glosses(archive)
    assert gloss == ("entity, living thing", 3, "that which is", ("it is", "so it is"))


def test_words_are_near_by_what_joins_their_commonest_senses(archive: Archive) -> None:
    def synset(offset: int, words: str, pointers: str) -> str:
        count, listed = len(words.split()), len(pointers.split()) // 4
        spelled = " ".join(f"{word} 0" for word in words.split())
        return f"{offset:08d} 03 n {count:02x} {spelled} {listed:03d} {pointers} | what it is\n"

    kind = "@ 00000001 n 0000"
    data = (
        synset(1, "animal beast", "")
        + synset(2, "dog hound", kind)
        + synset(3, "cat", f"{kind} ! 00000002 n 0101")
        + synset(4, "cat whip", "")
        + synset(5, "axolotl", kind)
    )
    # Lemma, part of speech, senses, kinds of pointers, senses, tagged senses, the senses' offsets.
    index = "".join(
        f"{lemma} n {len(senses)} 1 @ {len(senses)} {tagged} {' '.join(senses)}  \n"
        for lemma, tagged, senses in (
            ("animal", 2, ["00000001"]),
            ("beast", 1, ["00000001"]),
            ("dog", 4, ["00000002"]),
            ("hound", 1, ["00000002"]),
            ("cat", 3, ["00000003", "00000004"]),
            ("whip", 1, ["00000004"]),
            ("axolotl", 0, ["00000005"]),
            ("wild_cat", 1, ["00000003"]),
        )
    )
    for name, text in (("data", data), ("index", index)):
        for part in ("noun", "verb", "adj"):
            lines = f"  1 licence\n{text if part == 'noun' else ''}"
            put(archive, "wordnet-base", f"usr/share/wordnet/{name}.{part}", lines.encode())
    found = {pair[:2]: pair[2] for pair in wordnet.near_words(archive)}
    assert found == {
        ("animal", "beast"): wordnet.SAME,
        ("dog", "hound"): wordnet.SAME,
        **dict.fromkeys([("animal", "dog"), ("beast", "dog")], wordnet.PARENT),
        **dict.fromkeys([("animal", "hound"), ("beast", "hound")], wordnet.PARENT),
        **dict.fromkeys([("animal", "cat"), ("beast", "cat")], wordnet.PARENT),
        # Opposites, and siblings too: the greater score counts.
        ("cat", "dog"): wordnet.SIBLINGS,
        ("cat", "hound"): wordnet.OPPOSITE,
    }


def test_answers_of_faqs_are_prose_alone(archive: Archive) -> None:
    pod = (
        "=head1 Data\n\n=head2 How do I C<sort> it?\nX<sort>\n\n"
        "Use L<sort|perlfunc/sort>, which is I<fast>; it is there for every kind of list.\n\n"
        "    sort @list;\n\nThat is B<all>.\n\n=head2 Why?\n\nToo short.\n\n=head1 END\n\nNo.\n"
    )
    rst = (
        "=====\nTitle\n=====\n\nWhy are ``floats`` inexact?\n--------------------------\n\n"
        ".. index:: floats\n\nSee :ref:`the tutorial`: they are *binary* fractions,"
        " and so few decimal ones fit.\n\n    >>> 0.1\n\nNo question\n-----------\n\nLeft out.\n"
    )
    put(archive, "perl-doc", "usr/share/perl/5.36.0/pod/perlfaq4.pod", pod.encode())
    path = "usr/share/doc/python3.11/html/_sources/faq/design.rst.txt"
    put(archive, "python3.11-doc", path, rst.encode())
    perl, python = questions.questions(archive)
    assert perl == (
        "How do I sort it?",
        "Use sort, which is fast; it is there for every kind of list. That is all.",
    )
    assert python.question == "Why are floats inexact?"
    assert python.answer == (
        "See the tutorial: they are binary fractions, and so few decimal ones fit."
    )
    put(archive, "perl-doc", "usr/share/perl/5.36.0/pod/perlfaq4.pod", b"")
    with pytest.raises(InputError, match="perl-doc holds no question"):
        questions.questions(archive)


def test_a_help_page_is_cut_at_its_sections(archive: Archive) -> None:
    page = """<page xmlns="http://projectmallard.org/1.0/"><info>
      <link type="seealso" xref="x"/><link type="guide" xref="power#saving"/>
      <desc>Kurz  gesagt.</desc><credit><name>Wer</name></credit></info>
      <title>Energie</title><p>Der <gui>Akku</gui> hält.</p>
      <section><title>Tipps</title><list><item><p>Eins.</p></item></list>
        <section><title>Mehr</title><p>Zwei.</p></section></section>
      <section><title>Leer</title></section></page>"""
    put(
        archive,
        "gnome-user-docs",
        "usr/share/help/de/gnome-help/power.page",
        page.encode(),
    )
    put(
        archive,
        "gnome-user-docs",
        "usr/share/help/de/gnome-help/index.page",
        b'<page xmlns="http://projectmallard.org/1.0/"><title>Nothing below</title></page>',
    )
    (found,) = gnome.help_pages(archive, "de")
    assert found[:3] == ("gnome-help/power", "power", "Energie")
    assert found.sections == (("", "Der Akku hält."), ("Tipps", "Eins."), ("Mehr", "Zwei."))
    assert found.text == "Der Akku hält.\nTipps\nEins.\nMehr\nZwei."


def test_questions_of_the_faq_have_one_number_in_every_language(archive: Archive) -> None:
    page = (
        '<h1 class="title"><a id="choosing"></a>Kapitel 3. Wahl</h1><div class="toc">x</div>'
        '<h2 class="title"><a id="s3.1"></a>3.1. Welche\n<em>Distribution</em>?</h2>'
        "</div><p>Die stabile &amp; erprobte ist gut.</p></div>"
        '<h3 class="title"><a id="arch"></a>3.1.1. Und wenn nicht?</h3><p>Kurz.</p>'
        '<div class="navfooter"><p>Zurück zum Anfang dieser Seite</p></div>'
    )
    path = "usr/share/doc/debian/FAQ/zh-cn/choosing.zh-cn.html"
    put(archive, "debian-faq-zh-cn", path, page.encode())
    (found,) = debian_faq.answers(archive, "zh_CN")
    assert found == (
        "choosing#s3.1",
        "Welche Distribution?",
        "Die stabile & erprobte ist gut.",
    )


def test_a_man_page_is_its_summary_and_plain_text(archive: Archive) -> None:
    source = (
        '.\\" Copyright\n.TH x 7\n.SH NAME\nepoll \\- event \\fBfacility\\fP\n.SH "SEE ALSO"\n'
        "The\n.BR poll (2):\n.nf\nmany \\[bu] files\\&.\n.if n x\n"
    )
    for package in manpages.PACKAGES:
        path = "usr/share/man/man7/epoll.7.gz"
        put(archive, package, path, gzip.compress(source.encode()))
        put(archive, package, "usr/share/man/man7/link.7.gz", gzip.compress(b".so man7/epoll.7\n"))
    (found,) = manpages.man_pages(archive)
    assert (found.key, found.name, found.summary) == ("man7/epoll.7", "epoll", "event facility")
    assert found.text == "See also\nThe poll (2): many files."


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
