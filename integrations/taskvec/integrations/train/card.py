"""The model card: a template filled with what a run did and what was measured."""

import platform
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from taskvec.core import Encoder
from taskvec.integrations.train import evaluate
from taskvec.integrations.train.export import megabytes
from taskvec.integrations.train.stages import PROBE_DIMS, Figures
from taskvec.integrations.train.texts.docstrings import docstring_pairs

CARD_MEGABYTES = 0.006


def probe_table(figures: Mapping[str, Figures]) -> str:
    """Markdown table of each LoRA stage's figures, base weights against LoRA."""
    heads = [f"{kind} {dim}" for dim in PROBE_DIMS for kind in ("base", "lora")]
    names = [f"{kind}, {dim} dims" for dim in PROBE_DIMS for kind in ("base", "LoRA")]
    lines = [f"| task | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for task, values in figures.items():
        if heads[0] in values:
            cells = " | ".join(f"{values[head]:.3f}" for head in heads)
            lines.append(f"| {task} | {cells} |")
    return "\n".join(lines)


def write_card(out: Path, figures: Mapping[str, Figures], facts: Mapping[str, object]) -> str:
    """Measure the checkpoint in `out`, write its README.md, and return the table of figures.

    facts: what the run knows of its data and settings, by the template's names.
    """
    with Encoder.load(str(out), device="cpu", dtype="float32") as encoder:
        table = evaluate.table(encoder, "starter", docstring_pairs("test"))
        sizes = encoder.config
    template = (files("taskvec.integrations.train") / "card" / "README.md").read_text("utf-8")
    values = {
        "table": table,
        "probes": probe_table(figures),
        "settings": 4 * len(evaluate.BM25_METHODS) * len(evaluate.BM25_GRID),
        "layers": sizes.layers,
        "hidden": sizes.hidden,
        "vocab": f"{sizes.vocab:,}".replace(",", " "),
        "megabytes": f"{megabytes(out) + CARD_MEGABYTES:.1f}",
        "distil": _distilled(figures["distil"]),
        "retrieval": _trained(figures["retrieval"]),
        "separation": _trained(figures["separation"]),
        "classification": _trained(figures["classification"]),
        "matching_stage": _trained(figures["text-matching"]),
        "dims": ", ".join(map(str, sizes.dims)),
        "python": platform.python_version(),
        "release": release(),
    }
    (out / "README.md").write_text(Template(template).substitute(values | dict(facts)), "utf-8")
    return table


def release() -> str:
    """The name of the Debian release whose archive was read, such as "bookworm"."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return "unknown release"
    found = re.search(r"^VERSION_CODENAME=(\w+)", text, re.MULTILINE)
    return found[1] if found else "unknown release"


def _distilled(figures: Figures) -> str:
    return (
        f"{figures['texts'] / 1e3:.0f} 000 texts, {figures['tokens'] / 1e6:.1f} M tokens "
        f"in {figures['minutes']:.0f} minutes"
    )


def _trained(figures: Figures) -> str:
    return f"{figures['steps']:.0f} batches in {figures['minutes']:.0f} minutes"
