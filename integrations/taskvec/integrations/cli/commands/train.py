"""`taskvec train`: one of the three stages, from a TOML file and the command line."""

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskvec.core.errors import InputError
from taskvec.integrations.extras import needs_extra

OPTIONS = ("model", "data", "out", "steps", "name", "prompt")


def run(arguments: argparse.Namespace) -> int:
    """Train, and say what to do with the result."""
    with needs_extra("training", "train"):
        from taskvec.integrations.train.running import run_stage
    given = {name: getattr(arguments, name, None) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    given |= _settings(arguments.set)
    config = Path(arguments.config) if arguments.config else None
    print(run_stage(arguments.stage, config, given))
    return 0


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        try:
            told = tomllib.loads(pair)
        except tomllib.TOMLDecodeError:
            raise InputError(f"--set {pair!r} is no KEY=VALUE; a text needs quotes") from None
        for key, value in told.items():
            known = settings.get(key)
            if isinstance(known, dict) and isinstance(value, dict):
                settings[key] = known | value
            else:
                settings[key] = value
    return settings
