"""What somebody may have meant by a name that is none of ours."""

import difflib
from collections.abc import Iterable

# Beyond so many characters, which are anybody's to send, nothing is compared.
LONGEST = 64
SHORTEST_START = 3


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is most like what was given; None where none is like it."""
    if len(given) > LONGEST:
        return None
    names = list(known)
    if len(given) >= SHORTEST_START:
        for name in names:
            if name.startswith(given) or given.startswith(name):
                return name
    return next(iter(difflib.get_close_matches(given, names, 1)), None)


def cure(given: str, known: Iterable[str]) -> str:
    """The question whether the nearest was meant, or else the list of all."""
    names = list(known)
    near = nearest(given, names)
    if near:
        return f"did you mean {near!r}?"
    return f"use {', '.join(names)}" if names else "leave it out"
