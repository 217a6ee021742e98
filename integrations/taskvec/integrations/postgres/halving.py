"""Does something to many items together, and finds those that it does not work for by halving."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Outcome(Generic[Item, Result]):
    """What became of items: results of those that went well, errors of those that did not."""

    results: list[Result] = field(default_factory=list)
    failed: list[tuple[Item, Exception]] = field(default_factory=list)


def halving(
    items: Sequence[Item],
    act: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    outage: Callable[[Exception], bool],
) -> Outcome[Item, Result]:
    """Do something to items together; where it raises, to each half, down to the culprits.

    One culprit among n costs about 2·log2(n) calls more. outage: errors that are no item's fault,
    and are raised.
    """
    outcome: Outcome[Item, Result] = Outcome()
    waiting = [items] if items else []
    while waiting:
        part = waiting.pop()
        try:
            outcome.results.extend(act(part))
        except Exception as error:  # an encoder may raise anything
            if outage(error):
                raise
            if len(part) == 1:
                outcome.failed.append((part[0], error))
            else:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
    return outcome
