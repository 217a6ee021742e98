"""A run's folder: its settings, its checkpoints and its losses, so that a killed one goes on.

out/run/settings.json   what the run was told; another run is refused
out/run/start/          the model that it started from, in transformers' layout
out/run/checkpoint-N/   the trainer's state after N steps
out/run/loss.jsonl, loss.svg
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from matplotlib.figure import Figure
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from taskvec.core.errors import InputError
from taskvec.core.placement import choose_dtype
from taskvec.integrations.train.bases import as_transformers
from taskvec.integrations.train.settings import RUN, RowStage, Stage

WEIGHTS = "weights.safetensors"
# The most processes that prepare batches for a card.
WORKERS = 8
# Where they are changed, the run is still the same.
FREE = {"data", "out", "device", "save_steps", "log_steps"}


class Run:
    """The folder of one run."""

    def __init__(self, settings: Stage) -> None:
        self.settings = settings
        self.folder = settings.out / RUN

    @property
    def processes(self) -> PartialState:
        """The processes that train together: one, unless accelerate or torchrun started more."""
        return PartialState(cpu=not on_card(self.settings.device))

    def open(self) -> Path:
        """Make the folder, or check that it is of this very run; returns the start's folder.

        Where several processes train together, the first one does the work. Raises InputError if
        the folder is of another run. What is drawn at random from here on follows from the seed.
        """
        set_seed(self.settings.seed)
        with self.processes.main_process_first():
            self._own()
            return as_transformers(self.settings.model, self.folder / "start")

    def _own(self) -> None:
        told = json.loads(self.settings.model_dump_json(exclude=FREE))
        told["stage"] = type(self.settings).__name__
        told["sha256"] = [_digest(path) for path in self.settings.data]
        path = self.folder / "settings.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        changed = sorted(key for key in known.keys() | told if known.get(key) != told.get(key))
        if not changed:
            return
        out = self.settings.out
        if known and any(self.folder.rglob("checkpoint-*")):
            names = ", ".join(changed)
            raise InputError(f"{out} holds a run with another {names}: use a new folder")
        if out.exists() and any(entry != self.folder for entry in out.iterdir()):
            raise InputError(f"{out} is not empty: give the run a new folder")
        # A run that came to no checkpoint has nothing to keep.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(told, indent=2), encoding="utf-8")
        part.replace(path)

    def arguments(self, part: str = "", **more: Any) -> dict[str, Any]:
        """What transformers' training arguments of any stage have in common.

        part: a subfolder, where a stage trains more than once. more: the stage's own.
        """
        settings = self.settings
        own = {
            "output_dir": str(self.folder / part),
            "learning_rate": settings.learning_rate,
            "warmup_steps": settings.warmup,
            "weight_decay": settings.weight_decay,
            "seed": settings.seed,
            "data_seed": settings.seed,
            "save_steps": settings.save_steps,
            "save_total_limit": 2,
            "logging_steps": settings.log_steps,
            "report_to": [],
            "remove_unused_columns": False,
            # The contrast of a batch that is nearly empty teaches nothing.
            "dataloader_drop_last": True,
            # Every weight is used, though not in every one of a step's forward passes.
            "ddp_find_unused_parameters": False,
        }
        return own | place(settings.device) | more

    def train(self, trainer: Trainer, part: str = "") -> None:
        """Train to the end, from the last checkpoint where there is one.

        Raises InputError where the rows do not fill a single batch.
        """
        trainer.train(resume_from_checkpoint=self.last_checkpoint(part))
        if not trainer.state.global_step:
            raise InputError(
                "the rows fill no batch without repeats: give more rows, or a smaller batch_size"
            )

    def last_checkpoint(self, part: str = "") -> str | None:
        """The latest checkpoint that is whole: a kill may have cut one short."""
        return last_checkpoint(self.folder / part)


def by_rows(settings: RowStage) -> dict[str, Any]:
    """The arguments of a stage whose batches hold a fixed number of rows."""
    return {
        "per_device_train_batch_size": settings.batch_size,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.steps or -1,
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_checkpoint(folder: Path) -> str | None:
    """The latest whole checkpoint of a trainer's folder."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in found if _whole(path)]
    return str(whole[-1]) if whole else None


def _whole(checkpoint: Path) -> bool:
    # The trainer writes this file last.
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def on_card(device: str) -> bool:
    """Whether "auto", "cpu" or "cuda" means a GPU here."""
    return device != "cpu" and torch.cuda.is_available()


def place(device: str) -> dict[str, Any]:
    """The training arguments that say where a run computes, and how.

    With autocast where this card or CPU multiplies in bfloat16, so that it is faster. A card would
    wait for a process that prepares its batches beside all else: others do it.
    """
    card = on_card(device)
    found = torch.device("cuda" if card else "cpu")
    return {
        "use_cpu": not card,
        "bf16": choose_dtype("auto", found) is torch.bfloat16,
        "dataloader_pin_memory": card,
        "dataloader_num_workers": _workers() if card else 0,
    }


def _workers() -> int:
    """How many processes prepare batches for a card: none where they cannot."""
    # What a batch is prepared with cannot be pickled, so that only a fork has it; and a fork in
    # which tokenizers are told to be parallel hangs.
    told = os.environ.get("TOKENIZERS_PARALLELISM", "").lower()
    if multiprocessing.get_start_method() != "fork" or told not in ("", "false", "off", "no", "0"):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(WORKERS, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class WholeTrainer(Trainer):
    """transformers' trainer whose checkpoints hold the weights under the model's own names.

    Its own writes them under those of the model's first checkpoint, and passes over the ones that
    it then does not know when it resumes.
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_model(cast(nn.Module, self.model), str(folder / WEIGHTS))

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        load_model(cast(nn.Module, model or self.model), Path(checkpoint_path) / WEIGHTS)


class StopAt(TrainerCallback):
    """Ends a run after some steps, wherever its learning rate then is."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Stop the trainer once it has done its steps."""
        control.should_training_stop |= state.global_step >= self.steps


class LossPlot(TrainerCallback):
    """Writes every logged loss to `loss.jsonl`, and a plot of all of them to `loss.svg`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Write both files anew from the trainer's own history, which a resumed run has whole."""
        if not state.is_world_process_zero:
            return
        history = [entry for entry in state.log_history if "loss" in entry]
        lines = [json.dumps({"step": e["step"], "loss": float(e["loss"])}) for e in history]
        (self.folder / "loss.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([e["step"] for e in history], [float(e["loss"]) for e in history])
        axes.set(xlabel="step", ylabel="loss")
        figure.savefig(self.folder / "loss.svg")
