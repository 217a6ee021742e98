"""Do all routes give the same answers? Ties may come in any order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Databases add up a dot product in their own order and precision; a wrong task, prompt or dim
# moves a score by far more than this.
SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Answer:
    """A passage that a route found. score: cosine similarity."""

    id: str
    name: str
    score: float


def disagreements(answers: Mapping[str, Sequence[Answer]]) -> list[str]:
    """How the other routes' answers to one question differ from the first route's.

    Scores must be equal within SCORE_TOLERANCE, and so must the passages, except where scores
    tie: passages closer than the tolerance may change places, also across the end of the list.
    """
    (first, expected), *others = answers.items()
    return [
        f"{route} and {first}: {difference}"
        for route, given in others
        for difference in _differences(given, expected)
    ]


def _differences(given: Sequence[Answer], expected: Sequence[Answer]) -> list[str]:
    if len(given) != len(expected):
        return [f"{len(given)} answers, not {len(expected)}"]
    if not given:
        return []
    scores = {answer.id: answer.score for answer in expected}
    found = [_difference(answer, scores, expected[-1].score) for answer in given]
    places = [
        f"place {place} scores {one.score:.4f}, not {other.score:.4f}"
        for place, (one, other) in enumerate(zip(given, expected, strict=True), 1)
        if abs(one.score - other.score) > SCORE_TOLERANCE
    ]
    return [difference for difference in found if difference] or places


def _difference(answer: Answer, scores: Mapping[str, float], last: float) -> str:
    if answer.id not in scores:
        # Beyond the list's end stands what scores no more than its last answer.
        tie = abs(answer.score - last) <= SCORE_TOLERANCE
        return "" if tie else f"{answer.name} ({answer.score:.4f}) is not among the answers"
    if abs(answer.score - scores[answer.id]) > SCORE_TOLERANCE:
        return f"{answer.name} scores {answer.score:.4f}, not {scores[answer.id]:.4f}"
    return ""
