"""What the starter is measured on: texts that no run reads, from packages of Debian's archive."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from typing import NamedTuple

from taskvec.core.embedder import Span
from taskvec.integrations.quality import offline, probes
from taskvec.integrations.quality.collections import Collection, paired
from taskvec.integrations.train.recipe.aligned import aligned, is_held_out
from taskvec.integrations.train.texts import debian_faq, gnome, manpages, wordnet
from taskvec.integrations.train.texts.archive import Archive
from taskvec.integrations.train.texts.docstrings import docstring_pairs
from taskvec.integrations.train.texts.sections import Section, whole

LANGUAGES = ("en", "de", "fr", "ja", "zh_CN")
# Of the searches, those that every LoRA is compared on.
COMPARED = ("construction FAQ, en", "Debian FAQ, en", "Debian FAQ, de", "Debian FAQ, ja → en")
MIN_OF_A_GUIDE = 8
# Tokens of a man page by band; as many pages of each are searched.
BANDS = {"200": (100, 300), "2 000": (1_500, 2_500), "4 000": (3_000, 6_000)}
PAGES_OF_A_BAND = 60
# About as many tokens are a longer page's beginning, and a chunk of it.
BEGINNING = 200
# Sections of man pages that are searched, the longest page that they are taken of, and the titles
# of those that tell more of what stands above them.
MANUAL, PAGE_CHARACTERS, SECTION_CHARACTERS = 300, 6_000, 80
MANUAL_SECTIONS = frozenset({"Return value", "Errors", "Notes", "Bugs", "Examples", "Caveats"})
# Passages of a language in the sets that choices are made on.
DEVELOPMENT = 400
COMPARED_HELD_OUT = ("held out, en", "held out, de", "held out, ja → en")
LABELLED = 1_000


class Page(NamedTuple):
    """A page's text, and where in it the sections stand that are searched."""

    text: str
    spans: Sequence[Span]


class Sections(NamedTuple):
    """Sections of pages to find.

    titled: the same sections, each behind its page's title. pages: their spans follow each other
    as the collection's documents do.
    """

    collection: Collection
    titled: Collection
    pages: Sequence[Page]


def searches(archive: Archive) -> Iterator[Collection]:
    """Questions and titles to find answers and pages with: English, other languages, and across."""
    yield offline.docstrings()
    yield offline.construction_faq()
    answers = {language: answered(archive, language) for language in LANGUAGES}
    pages = {language: translated(archive, language) for language in LANGUAGES}
    english_answers = {item.key: item.text for item in answers["en"]}
    english_pages = {page.key: page.text for page in pages["en"]}
    for language in LANGUAGES:
        questions = {item.key: item.question for item in answers[language]}
        titles = {page.key: page.title for page in pages[language]}
        told = {item.key: item.text for item in answers[language]}
        yield paired(f"Debian FAQ, {language}", questions, told)
        yield paired(f"GNOME help, {language}", titles, {p.key: p.text for p in pages[language]})
        if language != "en":
            yield paired(f"Debian FAQ, {language} → en", questions, english_answers)
            yield paired(f"GNOME help, {language} → en", titles, english_pages)


def development(archive: Archive) -> Iterator[Collection]:
    """Headings to find the passages below with, in a language and across, of the tenth held out.

    What is chosen by figures is chosen by these, so that no other set has a part in it.
    """
    for language in LANGUAGES:
        held = aligned(archive, language, held_out=True).passages
        some = random.Random(0).sample(held, min(DEVELOPMENT, len(held)))  # noqa: S311
        asked = {str(i): passage.heading for i, passage in enumerate(some)}
        yield paired(f"held out, {language}", asked, {str(i): p.text for i, p in enumerate(some)})
        if language != "en":
            english = {str(i): passage.english_text for i, passage in enumerate(some)}
            yield paired(f"held out, {language} → en", asked, english)


def development_tasks(archive: Archive) -> Iterator[probes.Probe]:
    """Searches, similarity, clusters and classes of what is held out, to compare LoRAs by."""
    for collection in development(archive):
        if collection.name in COMPARED_HELD_OUT:
            yield probes.retrieval(collection)
    yield probes.similarity(_held_out_words(archive))
    groups = {name: aligned(archive, name, held_out=True).passages for name in ("en", "de")}
    found = [
        _some(f"held out by section, {name}", [(f"{p.heading}. {p.text}", p.group) for p in held])
        for name, held in groups.items()
    ]
    glosses = [item for item in wordnet.glosses(archive) if is_held_out(item.text)]
    meanings = [(f"{item.words}: {item.text}", str(item.file)) for item in glosses]
    modules = [(pair.rest, pair.module.split(".")[0]) for pair in docstring_pairs("dev")]
    found += [_some("meanings by file", meanings), _some("docstrings by module, dev", modules)]
    yield from (probes.clustering(data) for data in found)
    yield from (probes.classification(data) for data in found)


def _held_out_words(archive: Archive) -> probes.Scored:
    pairs = [p for p in wordnet.near_words(archive) if is_held_out(" ".join(p[:2]))]
    order = random.Random(0)  # noqa: S311
    words = [word for pair in pairs for word in pair[:2]]
    drawn = [order.sample(words, 2) for _ in pairs]
    left = [first for first, _, _ in pairs] + [first for first, _ in drawn]
    right = [second for _, second, _ in pairs] + [second for _, second in drawn]
    scores = [score for _, _, score in pairs] + [0.0 for _ in drawn]
    return probes.Scored("words held out", left, right, scores)


def _some(name: str, rows: Sequence[tuple[str, str]]) -> probes.Labelled:
    """At most LABELLED texts, of labels that are not rare among them."""
    some = random.Random(0).sample(rows, min(LABELLED, len(rows)))  # noqa: S311
    counts = Counter(label for _, label in some)
    kept = [row for row in some if counts[row[1]] >= MIN_OF_A_GUIDE]
    return probes.Labelled(name, *map(list, zip(*kept, strict=True)))


def translated(archive: Archive, language: str) -> list[gnome.HelpPage]:
    """Pages of GNOME's help whose title and text are translated; all of them in English."""
    pages = gnome.help_pages(archive, language)
    if language == "en":
        return pages
    english = {page.key: (page.title, page.text) for page in gnome.help_pages(archive, "en")}
    return [page for page in pages if _differs((page.title, page.text), english.get(page.key))]


def answered(archive: Archive, language: str) -> list[debian_faq.Answer]:
    """Questions of the Debian FAQ that are translated, and so are their answers."""
    found = debian_faq.answers(archive, language)
    if language == "en":
        return found
    english = {item.key: (item.question, item.text) for item in debian_faq.answers(archive, "en")}
    return [item for item in found if _differs((item.question, item.text), english.get(item.key))]


def _differs(own: tuple[str, str], english: tuple[str, str] | None) -> bool:
    """Whether both texts have an English original, and are not it."""
    return english is not None and own[0] != english[0] and own[1] != english[1]


def tasks(archive: Archive) -> list[probes.Probe]:
    """What the LoRAs are compared on: searches, similarity, clusters and classes."""
    found = [probes.retrieval(item) for item in searches(archive) if item.name in COMPARED]
    found += [probes.similarity(offline.news()), probes.similarity(offline.word_pairs())]
    labelled = [offline.docstring_modules(), *(guides(archive, name) for name in ("en", "de"))]
    found += [probes.clustering(data) for data in labelled]
    return found + [probes.classification(data) for data in labelled]


def guides(archive: Archive, language: str) -> probes.Labelled:
    """Pages of GNOME's help by the guide that lists them."""
    pages = [page for page in translated(archive, language) if page.guide]
    counts = Counter(page.guide for page in pages)
    kept = [page for page in pages if counts[page.guide] >= MIN_OF_A_GUIDE]
    texts = [f"{page.title}. {page.text}" for page in kept]
    return probes.Labelled(f"GNOME help by guide, {language}", texts, [p.guide for p in kept])


def sections(archive: Archive) -> Iterator[Sections]:
    """Sections asked for by what sums their page up and their own title.

    Neither is part of them; their titles stand above them in their pages.
    """
    yield help_sections(archive)
    yield manual_sections(archive)


def help_sections(archive: Archive) -> Sections:
    """Those of GNOME's help, which say themselves what they are about."""
    found = _Finds("GNOME help, sections")
    for page in gnome.help_pages(archive, "en"):
        named = {number for number, part in enumerate(page.sections) if part.title}
        if len(named) > 1:
            own = Section("", page.title), *page.sections
            found.add(page.key, page.title, page.title, own, {number + 1 for number in named})
    return found.all()


def manual_sections(archive: Archive) -> Sections:
    """Those of the man pages that do not say what they are about."""
    found = _Finds("man pages, sections that do not name their subject")
    for page, number in _nameless(archive):
        found.add(page.key, page.summary, page.name, page.sections, {number})
    return found.all()


def _nameless(archive: Archive) -> list[tuple[manpages.ManPage, int]]:
    """Some sections that say neither their page's name nor what sums it up, and their pages."""
    found = [
        (page, number)
        for page in manpages.man_pages(archive)
        if len(page.text) <= PAGE_CHARACTERS and page.summary not in page.text
        for number, part in enumerate(page.sections)
        if part.title in MANUAL_SECTIONS
        and len(part.text) >= SECTION_CHARACTERS
        and page.name.lower() not in part.text.lower()
    ]
    return random.Random(0).sample(found, min(MANUAL, len(found)))  # noqa: S311


class _Finds:
    """Collects sections, their queries and their pages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queries: dict[str, str] = {}
        self._documents: dict[str, str] = {}
        self._titled: dict[str, str] = {}
        self._pages: list[Page] = []

    def add(
        self, key: str, asked: str, title: str, parts: Sequence[Section], searched: Set[int]
    ) -> None:
        """A page, and the numbers of those of its parts that are searched."""
        text, spans = "", []
        for number, part in enumerate(parts):
            text += f"{whole([part])}\n"
            if number in searched:
                spans.append((len(text) - 1 - len(part.text), len(text) - 1))
                own = f"{key}#{number}"
                self._queries[own] = f"{asked}: {part.title}"
                self._documents[own] = part.text
                self._titled[own] = f"{title}\n{part.text}"
        self._pages.append(Page(text, spans))

    def all(self) -> Sections:
        """What was collected."""
        found, titled = (
            paired(self._name, self._queries, documents)
            for documents in (self._documents, self._titled)
        )
        return Sections(found, titled, self._pages)


def by_length(
    archive: Archive, tokens: Callable[[Sequence[str]], Sequence[int]]
) -> Iterator[Collection]:
    """Man pages found by the line that sums each up, in bands of length, as many pages in each.

    Of the longer ones also their beginnings, which tell what length does from what the pages do.
    tokens: counts those of each text. A page that repeats its line is left out.
    """
    pages = [page for page in manpages.man_pages(archive) if page.summary not in page.text]
    counts = tokens([page.text for page in pages])
    measured = list(zip(pages, counts, strict=True))
    bands = {
        name: [(page, count) for page, count in measured if least <= count < most]
        for name, (least, most) in BANDS.items()
    }
    size = min(PAGES_OF_A_BAND, *map(len, bands.values()))
    for name, band in bands.items():
        kept = band[:size]
        asked = {page.key: page.summary for page, _ in kept}
        yield paired(
            f"man pages of {name} tokens", asked, {page.key: page.text for page, _ in kept}
        )
        if BANDS[name][0] > BEGINNING:
            told = {p.key: p.text[: len(p.text) * BEGINNING // count] for p, count in kept}
            yield paired(f"man pages of {name} tokens, their first {BEGINNING}", asked, told)


def equal_parts(text: str, tokens: int) -> list[tuple[int, int]]:
    """Spans of a text of so many tokens: equal parts of about BEGINNING, wherever that cuts it."""
    size = -(-len(text) // max(1, round(tokens / BEGINNING)))
    return [(start, min(start + size, len(text))) for start in range(0, len(text), size)]
