"""Train a task of your own on the CPU in minutes, and serve it beside the model's tasks at once.

The task: to tell whether a docstring describes a module, a class, a function or a method. The
model's own tasks see what a text is about; this one must see what kind of thing it is about.
"""

import ast
import json
import random
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

from taskvec.core import Encoder
from taskvec.integrations.train.settings import TaskSettings
from taskvec.integrations.train.task import train_task

Rows = list[dict[str, str]]
OF_EACH_KIND = 320
NEIGHBOURS = 5


def docstrings() -> dict[str, list[str]]:
    """Docstrings of the standard library by the kind of thing that they describe, each once."""
    found: dict[str, set[str]] = {kind: set() for kind in ("module", "class", "function", "method")}
    for path in Path(sysconfig.get_path("stdlib")).glob("*.py"):
        module = ast.parse(path.read_bytes())
        found["module"].add(ast.get_docstring(module) or "")
        for node in ast.walk(module):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.ClassDef):
                    found["class"].add(ast.get_docstring(child) or "")
                elif isinstance(child, ast.FunctionDef):
                    kind = "method" if isinstance(node, ast.ClassDef) else "function"
                    found[kind].add(ast.get_docstring(child) or "")
    order = random.Random(0)  # noqa: S311
    kept = {kind: sorted(text[:200] for text in texts if text) for kind, texts in found.items()}
    return {
        kind: order.sample(texts, min(OF_EACH_KIND, len(texts))) for kind, texts in kept.items()
    }


def accuracy(encoder: Encoder, known: Rows, asked: Rows, task: str | None) -> float:
    """Share of texts whose kind most of the nearest known texts share."""
    vectors = encoder.encode([row["text"] for row in known], task=task)
    scores = encoder.encode([row["text"] for row in asked], task=task) @ vectors.T
    kinds = np.array([row["label"] for row in known])
    right = 0
    for row, nearest in zip(asked, np.argsort(-scores)[:, :NEIGHBOURS], strict=True):
        names, counts = np.unique(kinds[nearest], return_counts=True)
        right += names[counts.argmax()] == row["label"]
    return right / len(asked)


def main() -> None:
    """Train on half of the docstrings, and measure on the others."""
    trained: Rows = []
    held_out: Rows = []
    for kind, texts in docstrings().items():
        rows = [{"text": text, "label": kind} for text in texts]
        trained += rows[::2]
        held_out += rows[1::2]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "docstrings.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in trained))
        settings = TaskSettings(
            name="kind",
            data=(data,),
            out=Path(folder) / "run",
            epochs=4,
            max_tokens=64,
        )
        lora = train_task(settings)["kind"]
        with Encoder.load("starter") as encoder:
            encoder.add_task("kind", lora)
            print(f"{len(trained)} docstrings to train on, {len(held_out)} held out")
            print("share of held-out docstrings whose kind is told right:")
            for task in (None, "classification", "kind"):
                print(f"{accuracy(encoder, trained, held_out, task):.3f}  {task or 'base weights'}")


if __name__ == "__main__":
    main()
