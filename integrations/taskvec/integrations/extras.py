"""Optional packages: a missing one names the extra that brings it."""

from collections.abc import Iterator
from contextlib import contextmanager

from taskvec.core.errors import MissingExtraError


@contextmanager
def needs_extra(feature: str, extra: str) -> Iterator[None]:
    """Imports inside raise MissingExtraError, naming `feature` and `extra`, where they fail."""
    try:
        yield
    except ModuleNotFoundError as error:
        # A module of taskvec itself that is missing is a fault, not an extra to install.
        if (error.name or "").partition(".")[0] == "taskvec":
            raise
        raise MissingExtraError(feature, extra) from error
