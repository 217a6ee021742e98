"""The three stages by name, from settings to a sentence that says what came of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taskvec.core.errors import InputError
from taskvec.integrations.train.pairs import train_pairs
from taskvec.integrations.train.pretrain import pretrain
from taskvec.integrations.train.settings import (
    PairsSettings,
    PretrainSettings,
    TaskSettings,
    read_settings,
)
from taskvec.integrations.train.task import train_task


def run_pretrain(path: Path | None, given: Mapping[str, Any]) -> str:
    """Stage 1 with the settings of a TOML file and those given beside it."""
    return _loadable(pretrain(read_settings(PretrainSettings, path, given)))


def run_pairs(path: Path | None, given: Mapping[str, Any]) -> str:
    """Stage 2, likewise."""
    return _loadable(train_pairs(read_settings(PairsSettings, path, given)))


def run_task(path: Path | None, given: Mapping[str, Any]) -> str:
    """Stage 3, likewise."""
    settings = read_settings(TaskSettings, path, given)
    prompts = {settings.name: settings.prompt, settings.passage_name: settings.passage_prompt}
    return "\n".join(
        f"encoder.add_task({name!r}, {str(folder)!r}, prompt={prompts[name]!r})"
        for name, folder in train_task(settings).items()
    )


def _loadable(folder: Path) -> str:
    return f"Encoder.load({str(folder)!r})"


STAGES: Mapping[str, Callable[[Path | None, Mapping[str, Any]], str]] = {
    "pretrain": run_pretrain,
    "pairs": run_pairs,
    "task": run_task,
}


def run_stage(name: str, path: Path | None, given: Mapping[str, Any]) -> str:
    """Run a stage to its end; returns the Python line, or lines, that use the result.

    Raises InputError for an unknown stage, and what the stage itself raises.
    """
    if name not in STAGES:
        raise InputError(f"unknown stage {name!r}: use one of {', '.join(STAGES)}")
    return STAGES[name](path, given)
