"""The Debian FAQ, under a copyleft of its own: questions of the same numbers in every language.

No training run reads it.
"""

import html
import re
from typing import NamedTuple

from taskvec.integrations.train.texts.archive import Archive, collapse

PACKAGES = {"en": "debian-faq", "zh_CN": "debian-faq-zh-cn"}
SUFFIXES = {"zh_CN": "zh-cn"}
# A heading with its number, and what follows up to the next one or the end of the text.
QUESTION = re.compile(
    r'<h[2-6] class="title"><a id="([\w.-]+)"></a>[\d.]+\s(.*?)</h[2-6]>(.*?)'
    r'(?=<h[2-6] class="title">|<div class="navfooter">|$)',
    re.DOTALL,
)
TAG = re.compile(r"<[^>]+>")
MIN_CHARS = 20


class Answer(NamedTuple):
    """A question and its answer; key: the same in every language."""

    key: str
    question: str
    text: str


def answers(archive: Archive, language: str) -> list[Answer]:
    """All questions of a language (apt's name, `zh_CN`) that are answered below themselves."""
    root = archive.package(PACKAGES.get(language, f"debian-faq-{language}"))
    suffix = SUFFIXES.get(language, language)
    found = []
    for path in sorted((root / "usr/share/doc/debian/FAQ").rglob(f"*.{suffix}.html")):
        page = path.name.split(".")[0]
        for key, question, text in QUESTION.findall(path.read_text(encoding="utf-8")):
            answer = Answer(f"{page}#{key}", _plain(question), _plain(text))
            if len(answer.text) >= MIN_CHARS:
                found.append(answer)
    return found


def _plain(text: str) -> str:
    return collapse(html.unescape(TAG.sub("", text)))
