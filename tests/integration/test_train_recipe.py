"""The starter's stages after its body from end to end, on a tiny body with tiny teachers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from taskvec.core import Encoder
from taskvec.core.errors import InputError
from taskvec.integrations.train.recipe import __main__ as command
from taskvec.integrations.train.recipe import card, prefixed, rows, stages
from taskvec.integrations.train.recipe.aligned import Aligned, Passage
from taskvec.integrations.train.recipe.body import Work
from taskvec.integrations.train.recipe.mix import LANGUAGES
from taskvec.integrations.train.settings import Stage
from taskvec.integrations.train.texts.questions import Question
from taskvec.integrations.train.texts.wordnet import Gloss
from tests.checkpoints import WORDS, tiny_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.timeout(300),
]


def words(start: int, count: int) -> str:
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(count))


def texts(language: str) -> Aligned:
    shift = len(language) + ord(language[0])

    def passage(i: int) -> Passage:
        own, english = (f"{words(i + s, 4)}. {words(i + s + 4, 4)}" for s in (shift, 0))
        place = f"group {i % 4 // 2}", f"a/{i % 3}" if i % 2 else f"package {i}"
        return Passage(words(i + shift, 3), own, words(i, 3), english, *place)

    passages = [passage(i) for i in range(24)]
    sentences = {words(i, 5): words(i + shift, 5) for i in range(24)}
    return Aligned(passages, sentences, {source: f"c{i % 2}" for i, source in enumerate(sentences)})


@pytest.fixture
def recipe(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stages.Recipe:
    for name in ("PAIRS", "OWN_PAIRS", "CROSS_PAIRS", "LABELLED"):
        few = 200 if name == "LABELLED" else 24
        monkeypatch.setattr(rows, name, dict.fromkeys(getattr(rows, name), few))
    monkeypatch.setattr(rows, "MIN_REST_CHARS", 1)
    monkeypatch.setattr(rows, "MIN_STORY_CHARS", 1)
    quick = {"batch_size": 4, "steps": 2, "save_steps": 1, "dim_weights": {8: 2.0}}
    for name in ("PAIRS", "TUNED", "FIRST", "TASK"):
        monkeypatch.setattr(stages, name, getattr(stages, name) | quick)
    monkeypatch.setattr(stages, "TUNED", stages.TUNED | {"steps": 4})
    monkeypatch.setattr(stages, "FIRST", stages.FIRST | {"steps": 5})
    own = {name: {**own, **quick} for name, own in stages.OWN.items()}
    own[stages.QUERY]["steps"] = 3
    monkeypatch.setattr(stages, "OWN", own)
    monkeypatch.setattr(prefixed, "STEPS", 2)
    monkeypatch.setattr(prefixed, "FIRST_LAYER", 1)
    monkeypatch.setattr(prefixed, "WEIGHTS", {8: 1.0, 16: 1.0})
    body, teacher = tmp_path / "body", tmp_path / "teacher"
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.save(body, layout="hf")
    with Encoder.load(tiny_checkpoint(tmp_path / "other", "hf", seed=5)) as encoder:
        encoder.save(teacher, layout="hf")
    made = stages.Recipe(tmp_path / "work")
    vars(made)["body"] = body
    vars(made)["teachers"] = {"teachers": (str(teacher),), "pivot_teachers": (str(teacher),)}
    vars(made)["_aligned"] = {language: texts(language) for language in LANGUAGES}
    vars(made)["_glosses"] = [
        Gloss(words(i, 1), i % 2, words(i, 4), (words(i, 5),)) for i in range(40)
    ]
    vars(made)["_near_words"] = [(words(i, 1), words(i + 1, 1), 0.5) for i in range(20)]
    vars(made)["_questions"] = [Question(words(i, 4), words(i + 4, 9)) for i in range(24)]
    return made


def test_the_stages_make_a_model_with_all_five_tasks(recipe: stages.Recipe, tmp_path: Path) -> None:
    out = tmp_path / "starter"
    recipe.write(out)
    text = words(3, 6)
    with Encoder.load(out, dtype="float32") as encoder:
        assert set(encoder.tasks) == {task for tasks in stages.RUNS.values() for task in tasks}
        assert not any(encoder.prompts.values())
        vectors = [encoder.encode(text, task=task) for task in (None, *encoder.tasks)]
        encoder.save(tmp_path / "written", layout="hf")
    for i, left in enumerate(vectors):
        for right in vectors[i + 1 :]:
            assert not np.allclose(left, right, atol=1e-6)
    tuned, before, written = (
        load_file(folder / "model.safetensors")
        for folder in (recipe.tuned, recipe.prefixed, tmp_path / "written")
    )
    # What is no matrix is not rounded.
    norms = [name for name in tuned if name.endswith("LayerNorm.weight")]
    assert all(torch.equal(tuned[name], written[name]) for name in norms)
    assert not any(torch.equal(tuned[name], before[name]) for name in norms)
    with safe_open(out / "model.safetensors", "pt") as file:
        kinds = {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
    assert "I8" in kinds
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert "MIT License" in (out / "NOTICE").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="not empty"):
        recipe.write(out)
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp


def test_the_card_says_what_the_runs_did(recipe: stages.Recipe, tmp_path: Path) -> None:
    out = tmp_path / "starter"
    recipe.write(out)
    distil = recipe.folder / "distil"
    distil.mkdir()
    (distil / "loss.jsonl").write_text(json.dumps({"step": 1200, "loss": 0.4}) + "\n")
    tables = {name: f"table of {name}" for name in ("searches", "tasks", "lengths", "chunking")}
    card.write_card(recipe, out, tables)
    text = (out / "README.md").read_text(encoding="utf-8")
    assert all(table in text for table in tables.values())
    assert "| 1 200 steps" in text
    assert "| 8 scored pairs" in text
    assert "| 2 steps of 64 texts" in text
    amounts = [line.rpartition("|")[0].rpartition("| ")[2] for line in text.splitlines()]
    assert [amount for amount in amounts if amount.endswith(" pairs ")] == [
        *("8 pairs ", "16 pairs ", "20 and then 12 pairs ", "8 scored pairs ")
    ]
    assert "$" not in text


def test_a_killed_recipe_goes_on_with_the_rows_and_stages_that_it_has(
    recipe: stages.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, bodies = recipe.loras, (recipe.prefixed, recipe.tuned, recipe.query_start)
    again = stages.Recipe(recipe.folder)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    for name in ("train_pairs", "train_task", "distil", "write_e5"):
        monkeypatch.setattr(stages, name, refuse)
    monkeypatch.setattr(rows, "write", refuse)
    monkeypatch.setattr(prefixed, "PrefixTrainer", refuse)
    assert again.loras == first
    assert (again.prefixed, again.tuned, again.query_start) == bodies
    with pytest.raises(InputError, match="begun with seed 0, not 5"):
        stages.Recipe(recipe.folder, 5)
    with pytest.raises(InputError, match="take tasks/separation out, and run"):
        again.used("tasks/separation")


def test_what_is_taken_out_is_made_again_and_nothing_else(
    recipe: stages.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = recipe.loras
    run = f"{stages.FIRST_TASKS}/{stages.QUERY}"
    shutil.rmtree(recipe.folder / "tuned")
    shutil.rmtree(recipe.folder / run)
    again = stages.Recipe(recipe.folder)
    vars(again).update({name: vars(recipe)[name] for name in ("body", "teachers")})
    monkeypatch.setattr(prefixed, "PrefixTrainer", None)
    made: list[str] = []

    def noted(train: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def trained(settings: Stage) -> Any:
            made.append(settings.out.relative_to(recipe.folder).as_posix())
            return train(settings)

        return trained

    for name in ("train_pairs", "train_task"):
        monkeypatch.setattr(stages, name, noted(getattr(stages, name)))
    assert set(again.loras) == set(recipe.loras)
    assert made == [run, "tuned", *(f"{stages.TASKS}/{name}" for name in stages.OWN)]


def test_each_lora_stands_on_the_tuned_body_and_retrieval_goes_on_from_the_query(
    recipe: stages.Recipe,
) -> None:
    loras = recipe.loras
    for name in stages.OWN:
        told = (recipe.folder / stages.TASKS / name / "run" / "settings.json").read_text()
        body = recipe.query_start if name == stages.QUERY else recipe.tuned
        assert json.loads(told)["model"] == str(body)
    text = words(3, 6)
    with (
        Encoder.load(recipe.prefixed, dtype="float32") as before,
        Encoder.load(recipe.tuned, dtype="float32") as tuned,
        Encoder.load(recipe.query_start, dtype="float32") as start,
    ):
        assert start.tasks == (stages.QUERY,)
        np.testing.assert_allclose(start.encode(text), tuned.encode(text), atol=1e-6)
        assert not np.allclose(tuned.encode(text), before.encode(text), atol=1e-4)
        for task in (stages.QUERY, stages.PASSAGE):
            tuned.add_task(task, loras[task])
            learned = tuned.encode(text, task=task)
            # A few steps away from its start, and nearer to it than to no LoRA.
            gone = np.abs(learned - start.encode(text, task=stages.QUERY)).max()
            assert 1e-4 < gone < np.abs(learned - tuned.encode(text)).max()


def test_the_teachers_wait_for_the_body_whose_run_measures_their_centre(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def distil(work: Work, _: int) -> Path:
        order.append("body")
        save_file({"centre": torch.zeros(3)}, work.folder / "centre.safetensors")
        return tmp_path

    def write_e5(_: object, centre: torch.Tensor, out: Path) -> Path:
        order.append(f"e5 of {len(centre)}")
        return out

    monkeypatch.setattr(stages, "distil", distil)
    monkeypatch.setattr(stages, "write_e5", write_e5)
    assert stages.Recipe(tmp_path / "work").teachers["teachers"] == (str(tmp_path / "work" / "e5"),)
    assert order == ["body", "e5 of 3"]


def test_a_folder_that_holds_something_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").write_text("weights")
    with pytest.raises(SystemExit) as caught:
        command.main(["--out", str(tmp_path)])
    assert caught.value.code == 2
    assert "is not empty" in capsys.readouterr().err
    assert not tmp_path.with_name(f"{tmp_path.name}.work").exists()
