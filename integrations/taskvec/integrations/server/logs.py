"""Structured logs: one JSON object a line, without texts, keys or addresses."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from taskvec.integrations.server.facts import Facts

LOGGER = logging.getLogger("taskvec.server")
EXTRA = "taskvec"
SOURCES = ("taskvec.server", "uvicorn.error")


class JsonLines(logging.Formatter):
    """Formats records as JSON.

    An exception is its class and where it was raised: its message might hold a text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, EXTRA, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= described(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


def described(error: BaseException) -> dict[str, Any]:
    """An exception without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__qualname__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def log_request(facts: Facts, *, status: int, seconds: float) -> None:
    """One line for a request that has been answered; those of probes at level debug."""
    quiet = facts.route in {"/healthz", "/readyz", "/metrics", "/ping"} and status < 500
    known = {name: value for name, value in asdict(facts).items() if value not in {None, ""}}
    line = known | {"status": status, "seconds": round(seconds, 6)}
    LOGGER.log(logging.DEBUG if quiet else logging.INFO, "request", extra={EXTRA: line})


def log_failure(facts: Facts, error: BaseException) -> None:
    """An error that nobody expected: what it was, where, and in which request."""
    line = {"id": facts.id, "route": facts.route, **described(error)}
    LOGGER.error("request failed", extra={EXTRA: line})


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Let the server's logger, and uvicorn's, write JSON lines to standard error for a while."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    loggers = [logging.getLogger(name) for name in SOURCES]
    former = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level_, propagate) in zip(loggers, former, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level_)
            logger.propagate = propagate
