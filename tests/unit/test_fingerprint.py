"""A fingerprint changes exactly when the vectors would."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from taskvec.core import Encoder
from tests.checkpoints import TASKS, tiny_checkpoint

ALL_TASKS = (None, *TASKS)


def prints(folder: Path, **options: object) -> dict[str | None, str]:
    with Encoder.load(folder, **options) as encoder:  # type: ignore[arg-type]
        return {task: encoder.fingerprint(task) for task in ALL_TASKS}


def test_every_task_and_dim_has_its_own(encoder: Encoder) -> None:
    pairs = [(task, dim) for task in ALL_TASKS for dim in encoder.dims]
    assert len({encoder.fingerprint(task, dim) for task, dim in pairs}) == len(pairs)
    assert encoder.fingerprint("separation") == encoder.fingerprint("separation", encoder.dim)


def test_layout_dtype_and_process_do_not_change_it(tmp_path: Path, checkpoint: Path) -> None:
    want = prints(checkpoint, dtype="float32")
    assert prints(checkpoint, dtype="bfloat16") == want
    assert prints(tiny_checkpoint(tmp_path / "hf", "hf")) == want
    code = (
        "import sys; from taskvec.core import Encoder\n"
        "print(Encoder.load(sys.argv[1]).fingerprint('separation'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, checkpoint], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == want["separation"]


def test_other_weights_change_it(tmp_path: Path, checkpoint: Path) -> None:
    other, want = prints(tiny_checkpoint(tmp_path / "other", seed=1)), prints(checkpoint)
    assert not set(other.values()) & set(want.values())


def test_the_prompt_changes_that_tasks_alone(tmp_path: Path, checkpoint: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "prompted")
    config = json.loads((folder / "config.json").read_text())
    config["task_instructions"]["separation"] = "Represent: "
    (folder / "config.json").write_text(json.dumps(config))
    other, want = prints(folder), prints(checkpoint)
    assert [task for task in ALL_TASKS if other[task] != want[task]] == ["separation"]


def test_the_context_and_the_tokenizer_change_it(tmp_path: Path, checkpoint: Path) -> None:
    want = prints(checkpoint)
    shorter = prints(checkpoint, max_tokens=100)
    folder = tiny_checkpoint(tmp_path / "tokenizer")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"▁thread"', '"▁dread"'))
    assert not set(want.values()) & set(shorter.values())
    assert not set(want.values()) & set(prints(folder).values())


def test_saving_in_either_layout_keeps_every_fingerprint(tmp_path: Path) -> None:
    """Also those of tasks of another rank and dtype than the model's own."""
    folder = tiny_checkpoint(tmp_path / "base", dtype=torch.bfloat16)
    other = tiny_checkpoint(tmp_path / "other", "hf", seed=3, shared_a=False)
    with Encoder.load(folder) as encoder:
        encoder.add_task("retrieval_query", other / "separation", prompt="ask: ")
        want = {task: encoder.fingerprint(task) for task in (None, *encoder.tasks)}
        for layout in ("jina", "hf"):
            encoder.save(tmp_path / layout, layout)  # type: ignore[arg-type]
            with Encoder.load(tmp_path / layout) as again:
                assert {task: again.fingerprint(task) for task in want} == want
                assert again.tasks == encoder.tasks


def test_an_equal_lora_under_another_name_has_an_equal_one(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "hf", "hf")
    with Encoder.load(folder) as encoder:
        before = {task: encoder.fingerprint(task) for task in ALL_TASKS}
        encoder.add_task("mine", folder / "separation")
        assert encoder.fingerprint("mine") == before["separation"]
        assert {task: encoder.fingerprint(task) for task in ALL_TASKS} == before
