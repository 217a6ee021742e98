"""Keeps passwords out of messages."""

import re

PASSWORD = re.compile(r"(?i)(pass(?:word|wd)\s*=\s*)(?:'(?:[^'\\]|\\.?)*'?|(?:\\.|\S)+)")


def redacted(spec: str) -> str:
    """A store, DSN or URL as messages show it: without user, password and query.

    Where a password cannot be told from the rest, all of it is left out.
    """
    kind, mark, rest = spec.partition("://")
    if mark:
        last_at = rest.rfind("@")
        query = re.search(r"[?#]", rest)
        if query is not None and query.start() < last_at:
            return f"{kind}://…"
        return kind + mark + re.split(r"[?#]", rest[last_at + 1 :])[0]
    # A URL whose slashes were forgotten.
    spec = re.sub(r"^([\w+.-]*:).*:.*@", r"\1…@", spec, flags=re.DOTALL)
    return PASSWORD.sub(r"\1…", spec)
