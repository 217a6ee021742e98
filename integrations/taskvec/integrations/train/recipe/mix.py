"""The text that the multilingual body learns from: languages, kinds, and how much of each."""

import random
from collections.abc import Iterable, Mapping

from taskvec.integrations.train.texts import descriptions, docstrings, libreoffice, wesnoth, wordnet
from taskvec.integrations.train.texts.archive import Archive

Texts = dict[str, list[str]]

# Shares of the texts, by apt's names of the languages.
LANGUAGES = {
    "en": 0.36,
    "de": 0.13,
    "fr": 0.13,
    "ja": 0.13,
    "zh_CN": 0.13,
    "es": 0.06,
    "it": 0.06,
}
KINDS = {"descriptions": 0.22, "paragraphs": 0.3, "stories": 0.35, "long": 0.01}
ENGLISH_KINDS = {
    "descriptions": 0.2,
    "paragraphs": 0.1,
    "stories": 0.12,
    "long": 0.01,
    "docstrings": 0.09,
    "glosses": 0.17,
    "examples": 0.3,
}
MIN_CHARS = 8
# A page is long from here on; Japanese and Chinese say in one character what others do in three.
LONG_PAGE_CHARS = {"ja": 400, "zh_CN": 400}
LONG_PAGE = 1200
LONG_CHARS = (2000, 4000, 8000)


def texts_of(archive: Archive, language: str) -> Texts:
    """All texts of a language by kind; paragraphs and stories each once."""
    described = descriptions.descriptions(archive, language)
    pages = libreoffice.pages(archive, language)
    wholes = ["\n".join(part.text for part in page.paragraphs) for page in pages]
    least = LONG_PAGE_CHARS.get(language, LONG_PAGE)
    found = {
        "descriptions": [text for item in described for text in (item.title, item.text)],
        "paragraphs": _once(part.text for page in pages for part in page.paragraphs),
        "stories": _stories(archive, language),
        "long": [whole for whole in wholes if len(whole) > least],
    }
    return found | _english(archive) if language == "en" else found


def _stories(archive: Archive, language: str) -> list[str]:
    if language == "en":
        return list(wesnoth.translations(archive, "de"))
    return _once(wesnoth.translations(archive, language).values())


def _english(archive: Archive) -> Texts:
    glosses = wordnet.glosses(archive)
    documented = []
    for doc in docstrings.docstrings("train"):
        whole = f"{doc.first} {doc.rest}".strip()
        documented += [doc.first, doc.rest, whole] if doc.rest else [whole]
    return {
        "docstrings": documented,
        "glosses": [f"{gloss.words}: {gloss.text}" for gloss in glosses],
        "examples": [example for gloss in glosses for example in gloss.examples],
    }


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def draw(texts: Mapping[str, Texts], count: int, seed: int) -> list[str]:
    """About `count` texts in the shares above; what a kind lacks is taken again.

    texts: by language, of `texts_of`. The same seed draws the same.
    """
    order = random.Random(seed)  # noqa: S311
    drawn: list[str] = []
    for language, share in LANGUAGES.items():
        shares = ENGLISH_KINDS if language == "en" else KINDS
        for kind, weight in shares.items():
            wanted = round(count * share * weight / sum(shares.values()))
            have = [text for text in texts[language][kind] if len(text) >= MIN_CHARS]
            order.shuffle(have)
            taken = (have * (wanted // len(have) + 1))[:wanted]
            if kind == "long":
                taken = [text[: order.choice(LONG_CHARS)] for text in taken]
            drawn += taken
    return drawn
