"""The starter's model card: a template filled with what the runs did and what was measured."""

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from taskvec.core.config import read_config
from taskvec.integrations.train.recipe import body, prefixed, stages
from taskvec.integrations.train.recipe.stages import Recipe
from taskvec.integrations.train.texts.docstrings import docstring_pairs

CARD_BYTES = 14_000


def write_card(recipe: Recipe, out: Path, tables: Mapping[str, str]) -> None:
    """Write the README.md of a checkpoint. tables: by the template's names."""
    config = read_config(out)
    bytes_ = sum(path.stat().st_size for path in out.iterdir() if path.name != "README.md")
    values = {
        "layers": config.layers,
        "hidden": config.hidden,
        "vocab": f"{config.vocab:,}".replace(",", " "),
        "dims": ", ".join(map(str, config.dims)),
        "megabytes": f"{(bytes_ + CARD_BYTES) / 1e6:.1f}",
        "docstrings": len(docstring_pairs("test")),
        "distil_steps": _steps(recipe.folder / "distil" / "loss.jsonl"),
        "pairs": _spaced(recipe.used("pairs")),
        "tuned": _spaced(recipe.used("tuned")),
        "first_retrieval": _spaced(recipe.used(f"{stages.FIRST_TASKS}/{stages.QUERY}")),
        "retrieval": _spaced(recipe.used(f"{stages.TASKS}/{stages.QUERY}")),
        "memory": stages.RETRIEVAL["memory"],
        "scored": _spaced(recipe.used(f"{stages.TASKS}/text-matching")),
        "separated": _spaced(recipe.used(f"{stages.TASKS}/separation")),
        "labelled": _spaced(recipe.used(f"{stages.TASKS}/classification")),
        "prefix_steps": _spaced(recipe.used("prefixes")),
        "prefix_texts": 2 * prefixed.PAIRS,
        "trained_tokens": _spaced(body.MAX_TOKENS),
        "pair_tokens": stages.RETRIEVAL["max_tokens"],
        "python": platform.python_version(),
        "release": release(),
        "seed": recipe.seed,
    }
    text = Template(stages.card_file("README.md")).substitute(values | dict(tables))
    (out / "README.md").write_text(text, encoding="utf-8")


def _spaced(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _steps(path: Path) -> str:
    last = path.read_text(encoding="utf-8").splitlines()[-1]
    return _spaced(json.loads(last)["step"])


def release() -> str:
    """The name of the Debian release whose archive was read, such as "bookworm"."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return "unknown release"
    found = re.search(r"^VERSION_CODENAME=(\w+)", text, re.MULTILINE)
    return found[1] if found else "unknown release"
