"""API keys: where they come from, and whether a request has one."""

import hashlib
import os
from collections.abc import Sequence
from hmac import compare_digest
from pathlib import Path

from taskvec.core.errors import InputError

VARIABLE = "TASKVEC_API_KEYS"
OF_CLIENTS = "TASKVEC_API_KEY"
SHORTEST = 16
BEARER = "bearer "


class Keys:
    """The keys that a server accepts; none lets everybody in.

    keys: of at least SHORTEST printable ASCII characters each, without spaces.
    Raises InputError for one that is not such, without showing it.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        for number, key in enumerate(keys, 1):
            fit = all("!" <= letter <= "~" for letter in key)
            if len(key) < SHORTEST or not fit:
                wrong = "is too short" if fit else "has a space, or what is not ASCII"
                raise InputError(
                    f"API key {number} {wrong}: expected {SHORTEST} or more ASCII characters "
                    "without spaces, such as `openssl rand -hex 24` prints"
                )
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def find(self, authorization: bytes) -> int | None:
        """The number, from 1, of the key in an Authorization header; None for none of them.

        Every key is compared, and in constant time, so that no time tells how near a guess was.
        """
        kind, key = authorization[: len(BEARER)], authorization[len(BEARER) :].strip()
        digest = _digest(key)
        found = [
            number for number, own in enumerate(self._digests, 1) if compare_digest(own, digest)
        ]
        return found[0] if found and kind.lower() == BEARER.encode() else None


def read_keys(file: str | Path | None) -> list[str]:
    """The keys of a file, one a line, `#` before a comment; without one, of the environment.

    TASKVEC_API_KEYS holds keys with white space or commas between them.
    Raises InputError for a file or variable without keys, OSError for a file that cannot be read.
    """
    if file is None:
        return _of_environment()
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{file} is no list of API keys: it is not UTF-8") from None
    stripped = (line.strip() for line in lines)
    keys = [line for line in stripped if line and not line.startswith("#")]
    if not keys:
        raise InputError(f"{file} has no API key: write one a line")
    return keys


def _of_environment() -> list[str]:
    """An empty variable is a mistake: who sets it means to have keys."""
    text = os.environ.get(VARIABLE)
    keys = (text or "").replace(",", " ").split()
    if text is not None and not keys:
        raise InputError(
            f"{VARIABLE} is set and has no API key: write them with spaces or commas between, or "
            "unset it to serve without keys"
        )
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
