"""What is kept of the stages in a checkout, so that hours of training need not be repeated.

The model after its pairs, and the LoRAs that are trained. Without its folder `tasks`, all LoRAs are
trained anew, in less than an hour.
`python -m taskvec.integrations.train.recipe.kept --work FOLDER` writes it anew;
`python -m taskvec.integrations.train.recipe --from-kept …` begins with it.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from taskvec.core import Encoder
from taskvec.core.errors import InputError
from taskvec.core.writing import new_folder
from taskvec.integrations.train.recipe.stages import RUNS, card_file
from taskvec.integrations.train.runs import last_checkpoint

FOLDER = Path(__file__).with_name("kept")
# What the later stages and the card read of the earlier ones, beside the model.
RECORDS = ("seed.json", "centre.safetensors", "distil/loss.jsonl", "pairs/run/loss.jsonl")
STATE = "trainer_state.json"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def keep(work: Path, out: Path) -> None:
    """Write what `take` needs: the model after its pairs, with int8 rows, LoRAs, and the records.

    work: the recipe's folder. out: a new folder.
    """
    runs = ["pairs"] + [f"tasks/{name}" for name in RUNS if (work / "tasks" / name).exists()]
    states = [Path(str(last_checkpoint(work / run / "run"))) / STATE for run in runs]
    loras = [path.parent for path in sorted(work.glob(f"tasks/*/*/{WEIGHTS}"))]
    with new_folder(out) as scratch:
        with Encoder.load(work / "pairs" / "model", device="cpu", dtype="float32") as encoder:
            encoder.save(scratch / "model", layout="jina", dtype="int8")
        for lora in loras:
            _keep_lora(lora, scratch / lora.relative_to(work))
        for record in (*RECORDS, *(str(state.relative_to(work)) for state in states)):
            (scratch / record).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / record, scratch / record)
        for name in ("LICENSE", "NOTICE"):
            (scratch / name).write_text(card_file(name), encoding="utf-8")


def _keep_lora(lora: Path, out: Path) -> None:
    out.mkdir(parents=True)
    shutil.copyfile(lora / WEIGHTS, out / WEIGHTS)
    described = json.loads((lora / CONFIG).read_text(encoding="utf-8"))
    described["base_model_name_or_path"] = None  # a folder of the machine that trained it
    (out / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def take(work: Path, kept: Path = FOLDER) -> None:
    """Begin a recipe's folder in which the kept stages are done.

    work: a new folder. Raises InputError where nothing is kept, as in an installed package.
    """
    if not kept.exists():
        raise InputError(f"nothing is kept in {kept}: train all stages, or use a checkout")
    with new_folder(work) as scratch:
        shutil.copytree(kept, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model"))
        with Encoder.load(kept / "model", device="cpu", dtype="float32") as encoder:
            encoder.save(scratch / "pairs" / "model", layout="hf")
        # The first stage's own model is not kept: nothing reads it, once the second is done.
        shutil.copytree(scratch / "pairs" / "model", scratch / "body")


def main(arguments: Sequence[str] | None = None) -> None:
    """Keep what the stages have made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="the recipe's folder")
    options = parser.parse_args(arguments)
    # The former one goes once the new one is whole.
    new = FOLDER.with_name("kept.new")
    keep(options.work, new)
    shutil.rmtree(FOLDER, ignore_errors=True)
    new.replace(FOLDER)


if __name__ == "__main__":
    main()
