"""Headings turned into the questions that a reader might ask."""

# ruff: noqa: RUF001 - Japanese and Chinese end a question with a wide mark

import random
from collections.abc import Mapping, Sequence

# The same questions, in the same order, in every language.
QUESTIONS: Mapping[str, Sequence[str]] = {
    "en": (
        "What is {}?",
        "What does {} mean?",
        "How does {} work?",
        "Can you explain {}?",
        "What should I know about {}?",
    ),
    "de": (
        "Was ist {}?",
        "Was bedeutet {}?",
        "Wie funktioniert {}?",
        "Können Sie {} erklären?",
        "Was sollte ich über {} wissen?",
    ),
    "fr": (
        "Qu'est-ce que {} ?",
        "Que signifie {} ?",
        "Comment fonctionne {} ?",
        "Pouvez-vous expliquer {} ?",
        "Que dois-je savoir sur {} ?",
    ),
    "ja": (
        "{}とは何ですか？",
        "{}はどういう意味ですか？",
        "{}はどのように機能しますか？",
        "{}について説明してください。",
        "{}について知っておくべきことは何ですか？",
    ),
    "zh_CN": (
        "{}是什么？",
        "{}是什么意思？",
        "{}是如何工作的？",
        "能解释一下{}吗？",
        "关于{}我应该了解什么？",
    ),
    "es": (
        "¿Qué es {}?",
        "¿Qué significa {}?",
        "¿Cómo funciona {}?",
        "¿Puede explicar {}?",
        "¿Qué debo saber sobre {}?",
    ),
    "it": (
        "Che cos'è {}?",
        "Che cosa significa {}?",
        "Come funziona {}?",
        "Può spiegare {}?",
        "Che cosa devo sapere su {}?",
    ),
}
# Of the headings, how many are asked for with a question.
SHARE = 0.4
# What is a question or a sentence already is left as it stands.
ENDS = ("?", "？", ".", "。", "!", "！", ":")


def asked(
    heading: str, language: str, order: random.Random, english: str | None = None
) -> tuple[str, str | None]:
    """A heading or a question for it, and the same in English where that is given too."""
    drawn, number = order.random(), order.randrange(len(QUESTIONS["en"]))
    if drawn >= SHARE or heading.endswith(ENDS):
        return heading, english
    question = QUESTIONS[language][number].format(heading)
    return question, english and QUESTIONS["en"][number].format(english)
