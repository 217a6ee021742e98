"""Prints the demo's answers side by side, with times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from taskvec.integrations.cli.demo.agreement import SCORE_TOLERANCE, Answer
from taskvec.integrations.cli.failures import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NAME_WIDTH = 46
ROUTE_WIDTH = 11
QUOTE_WIDTH = 94
ABSENT = "-"


@dataclass(frozen=True)
class Reply:
    """One route's answers to one question, best first, and the time until they were there."""

    answers: tuple[Answer, ...]
    time_ms: float


def print_replies(
    console: "Console",
    questions: Sequence[str],
    replies: Mapping[str, Sequence[Reply]],
    texts: Mapping[str, str],
) -> None:
    """One block a question: a row a passage, a column a route.

    replies: by route, by question. texts: of passages, by id.
    """
    for index, question in enumerate(questions):
        given = {route: by_question[index] for route, by_question in replies.items()}
        console.print(f"\n{index + 1}. {question}", style="bold")
        console.print(_block(given))
        best = next(iter(given.values())).answers[:1]
        for answer in best:
            console.print(f"  “{_quote(texts[answer.id])}”", style="italic")


def print_times(
    console: "Console", loads: Mapping[str, float], replies: Mapping[str, Sequence[Reply]]
) -> None:
    """How long each route took to store the passages, and to answer. loads: seconds by route."""
    table = _table("", loads)
    table.add_row("all passages stored in", *(f"{seconds:.1f} s" for seconds in loads.values()))
    times = [median(reply.time_ms for reply in replies[route]) for route in loads]
    table.add_row("a question answered in (median)", *(f"{time_ms:.0f} ms" for time_ms in times))
    console.print("\nTimes", style="bold")
    console.print(table)


def print_verdict(console: "Console", differences: Mapping[str, Sequence[str]]) -> None:
    """Whether the routes agree, or how they differ. differences: by question."""
    if not any(differences.values()):
        console.print(
            "\nThe four agree with the core and each other: the same passages, "
            f"scores equal within {SCORE_TOLERANCE:g}.",
            style="bold green",
        )
        return
    console.print("\nThe four disagree:", style="bold red")
    for question, lines in differences.items():
        for line in lines:
            console.print(f"  {question} {line}")


def _block(replies: Mapping[str, Reply]) -> "Table":
    table = _table("score of", replies)
    for identity, name in _found(replies).items():
        scores = (_score(reply, identity) for reply in replies.values())
        table.add_row(_short(name), *scores)
    times = (f"{reply.time_ms:.0f} ms" for reply in replies.values())
    table.add_row("answered in", *times, style="dim")
    return table


def _found(replies: Mapping[str, Reply]) -> dict[str, str]:
    """Names of all passages that any route found, by id, best first."""
    answers = [answer for reply in replies.values() for answer in reply.answers]
    best = {answer.id: answer for answer in sorted(answers, key=lambda answer: answer.score)}
    ranked = sorted(best.values(), key=lambda answer: -answer.score)
    return {answer.id: answer.name for answer in ranked}


def _score(reply: Reply, identity: str) -> str:
    scores = (answer.score for answer in reply.answers if answer.id == identity)
    return next((f"{score:.3f}" for score in scores), ABSENT)


def _table(heading: str, routes: Mapping[str, object]) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column(heading, width=NAME_WIDTH, no_wrap=True)
    for route in routes:
        table.add_column(route, width=ROUTE_WIDTH, justify="right", no_wrap=True)
    return table


def _short(name: str) -> str:
    """As many of the last parts of a qualified name as fit."""
    parts = name.split(".")
    while len(".".join(parts)) > NAME_WIDTH and len(parts) > 1:
        parts.pop(0)
    return ".".join(parts)


def _quote(text: str) -> str:
    """The beginning of a docstring, without the name above it."""
    words = one_line(text.partition("\n")[2])
    return words if len(words) <= QUOTE_WIDTH else words[: QUOTE_WIDTH - 1] + "…"
