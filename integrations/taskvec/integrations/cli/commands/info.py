"""`taskvec info`: what a model offers."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from taskvec.core.embedder import Embedder
from taskvec.integrations.cli.console import output
from taskvec.integrations.cli.encoders import open_embedder, resolve_dim
from taskvec.integrations.cli.redaction import redacted

SIZES = ("layout", "layers", "hidden", "heads", "ffn", "vocab", "lora_rank")
NO_TASK = "none (base weights)"


def run(arguments: argparse.Namespace) -> int:
    """Print the model's tasks, prompts, dims, size and fingerprints."""
    embedder = open_embedder(arguments.model)
    facts = gather(embedder, arguments.model, dim=resolve_dim(embedder, arguments.dim))
    if arguments.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        _print(facts)
    return 0


def gather(embedder: Embedder, model: str, *, dim: int) -> dict[str, Any]:
    """Everything known of a model, ready for JSON. dim: that of the fingerprints.

    A remote encoder does not tell its size and prompts; they are left out then.
    """
    embedder = getattr(embedder, "loaded", embedder)
    config = getattr(embedder, "config", None)
    sizes = {name: getattr(config, name) for name in SIZES if hasattr(config, name)}
    known = {
        name: getattr(embedder, name) for name in ("device", "dtype") if hasattr(embedder, name)
    }
    prompts: Mapping[str, str] = getattr(embedder, "prompts", {})
    tasks: list[dict[str, Any]] = [
        {
            "task": task,
            **({"prompt": prompts[task]} if task and task in prompts else {}),
            "fingerprint": embedder.fingerprint(task=task, dim=dim),
        }
        for task in (*embedder.tasks, None)
    ]
    return {
        "model": redacted(model),
        "dims": list(embedder.dims),
        "dim": embedder.dim,
        "max_tokens": embedder.max_tokens,
        **sizes,
        **known,
        "fingerprint_dim": dim,
        "tasks": tasks,
    }


def _print(facts: Mapping[str, Any]) -> None:
    console = output()
    labels = {"max_tokens": "context", "fingerprint_dim": "fingerprints at dim"}
    for name, value in facts.items():
        if name != "tasks":
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            console.print(f"{labels.get(name, name):<20} {shown}")
    for task in facts["tasks"]:
        console.print(f"\n{task['task'] or NO_TASK}", style="bold")
        if task.get("prompt"):
            console.print(f"  prompt       {task['prompt']!r}")
        console.print(f"  fingerprint  {task['fingerprint']}")
