"""The three stages on tiny models: what they learn, what they write, and what a kill costs."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import JinaEmbeddingsV3Config

from taskvec.core import Encoder
from taskvec.core.errors import InputError, TaskError
from taskvec.integrations.cli import main
from taskvec.integrations.train import modules, runs, teaching
from taskvec.integrations.train.pairs import train_pairs
from taskvec.integrations.train.running import run_stage
from taskvec.integrations.train.settings import (
    PairsSettings,
    PretrainSettings,
    TaskSettings,
    read_settings,
)
from taskvec.integrations.train.tables import Kind, read_rows
from taskvec.integrations.train.task import train_task
from taskvec.integrations.train.teaching import pivots, prepare
from tests.checkpoints import WORDS, tiny_checkpoint

# PEFT 0.21 asks transformers for a property that is being renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.timeout(300),
]
Weights = dict[str, torch.Tensor]
Write = Callable[[list[dict[str, Any]]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def rows_to_file(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return rows_to_file


def pairs() -> list[dict[str, str]]:
    """Thirty questions and answers that share the one word that matters among four."""
    order = random.Random(0)  # noqa: S311
    rows = []
    for word in WORDS[:30]:
        texts = [[word, *order.sample(WORDS[30:], 3)] for _ in range(2)]
        query, passage = (" ".join(order.sample(words, 4)) for words in texts)
        rows.append({"query": query, "passage": passage})
    return rows


# A tiny model learns in a few steps what a tiny rate would not teach it.
QUICK: dict[str, Any] = {"learning_rate": 1e-2, "embedding_learning_rate": 3e-2, "save_steps": 1000}


def task_settings(checkpoint: Path, data: Path, out: Path, **more: Any) -> TaskSettings:
    given = {
        "name": "legal",
        "model": str(checkpoint),
        "data": (data,),
        "out": out,
        "batch_size": 8,
        "steps": 6,
        "save_steps": 2,
        "log_steps": 1,
        "device": "cpu",
    }
    return read_settings(TaskSettings, None, given | more)


def pairs_run(checkpoint: Path, write: Write, out: Path, **more: Any) -> Weights:
    """The weights after a few steps of pairs."""
    told = {"steps": 2, "batch_size": 8, "learning_rate": 1e-3, "device": "cpu", **more}
    settings = PairsSettings(model=str(checkpoint), data=write(pairs()), out=out, **told)
    return load_file(train_pairs(settings) / "model.safetensors")


def far(left: Weights, right: Weights) -> float:
    """The most by which two models' weights differ."""
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "loss.jsonl").read_text().splitlines()]


def right_first(
    encoder: Encoder, rows: list[dict[str, str]], tasks: tuple[str, str] | None = None
) -> float:
    query, passage = tasks or (None, None)
    queries = encoder.encode([row["query"] for row in rows], task=query)
    passages = encoder.encode([row["passage"] for row in rows], task=passage)
    return float(((queries @ passages.T).argmax(1) == np.arange(len(rows))).mean())


def test_two_loras_learn_pairs_and_are_served_beside_the_models_own(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    rows = pairs()
    settings = task_settings(
        checkpoint,
        write(rows),
        tmp_path / "out",
        passage_name="legal.passage",
        prompt="Find: ",
        steps=60,
        batch_size=24,
        **QUICK,
    )
    folders = train_task(settings)
    trained = load_file(folders["legal"] / "adapter_model.safetensors")
    for name, value in trained.items():
        # The original layout has one fused matrix for the three, and so one A.
        if "q_proj.lora_A" in name:
            for other in ("k_proj", "v_proj"):
                assert torch.equal(value, trained[name.replace("q_proj", other)])
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        before = right_first(encoder, rows)
        encoder.add_task("legal", folders["legal"], prompt="Find: ")
        encoder.add_task("legal.passage", folders["legal.passage"])
        after = right_first(encoder, rows, ("legal", "legal.passage"))
        texts = ["open file", "json value", "thread lock"]
        mixed = encoder.encode(texts, task=["legal", "separation", "legal.passage"])
        for index, task in enumerate(["legal", "separation", "legal.passage"]):
            np.testing.assert_allclose(
                mixed[index], encoder.encode(texts[index], task=task), atol=1e-5
            )
        assert after > before + 0.2
        swapped = encoder.encode(texts[0], task="legal.passage")
        assert not np.allclose(mixed[0], swapped, atol=1e-2)


def test_scores_order_the_cosines_of_pairs(checkpoint: Path, write: Write, tmp_path: Path) -> None:
    order = random.Random(0)  # noqa: S311
    matter, noise = WORDS[:20], WORDS[20:]
    rows: list[dict[str, Any]] = []
    for _ in range(96):
        left, right = order.sample(matter, 2), order.sample(matter, 2)
        shared, distraction = order.randrange(3), order.sample(noise, 3)
        right = left[:shared] + right[shared:]
        others = distraction if order.random() < 0.5 else order.sample(noise, 3)
        text1, text2 = " ".join([*left, *distraction]), " ".join([*right, *others])
        rows.append({"sentence1": text1, "sentence2": text2, "score": shared / 2})
    settings = task_settings(
        checkpoint, write(rows), tmp_path / "out", steps=60, batch_size=24, **QUICK
    )
    folder = train_task(settings)["legal"]

    def agreement(encoder: Encoder, task: str | None) -> float:
        left = encoder.encode([row["sentence1"] for row in rows], task=task)
        right = encoder.encode([row["sentence2"] for row in rows], task=task)
        return float(np.corrcoef((left * right).sum(1), [row["score"] for row in rows])[0, 1])

    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.add_task("legal", folder)
        assert agreement(encoder, "legal") > agreement(encoder, None) + 0.1


@pytest.mark.parametrize("anchor", [0.0, 5.0])
def test_labels_gather_texts_of_a_class(
    checkpoint: Path, write: Write, tmp_path: Path, anchor: float
) -> None:
    order = random.Random(0)  # noqa: S311
    groups = [WORDS[i::3] for i in range(3)]
    rows = [
        {"text": " ".join(order.sample(groups[i % 3], 4)), "class": f"class {i % 3}"}
        for i in range(90)
    ]
    told = QUICK | {"steps": 60, "batch_size": 24, "anchor": anchor}
    folder = train_task(task_settings(checkpoint, write(rows), tmp_path / "out", **told))["legal"]
    same = np.equal.outer(np.arange(90) % 3, np.arange(90) % 3)

    def cosines(encoder: Encoder, task: str | None) -> Any:
        vectors = encoder.encode([row["text"] for row in rows], task=task)
        return vectors @ vectors.T

    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.add_task("legal", folder)
        before, after = cosines(encoder, None), cosines(encoder, "legal")
    margins = [found[same].mean() - found[~same].mean() for found in (before, after)]
    assert margins[1] > margins[0] + 0.1
    if anchor:
        assert after.mean() < before.mean()


def test_a_lora_of_half_strength_has_half_the_effect(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.save(start, layout="hf")
    given = {"start": "separation", "steps": 1, "learning_rate": 1e-9}
    given |= {"embedding_learning_rate": 1e-9, "strength": 0.5}
    folder = train_task(task_settings(checkpoint, write(pairs()), tmp_path / "out", **given))
    whole = load_file(start / "separation" / "adapter_model.safetensors")
    half = load_file(folder["legal"] / "adapter_model.safetensors")
    for name, value in half.items():
        factor = 0.5 if "_B" in name else 1.0
        np.testing.assert_allclose(value, factor * whole[name], rtol=1e-4, atol=1e-6)


def test_a_lora_may_start_from_one_of_the_models(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    settings = task_settings(
        checkpoint,
        write(pairs()),
        tmp_path / "out",
        start="separation",
        steps=1,
        learning_rate=1e-9,
        embedding_learning_rate=1e-9,
    )
    folder = train_task(settings)["legal"]
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.add_task("legal", folder)
        texts = ["open file", "json value"]
        started = encoder.encode(texts, task="legal")
        np.testing.assert_allclose(started, encoder.encode(texts, task="separation"), atol=1e-5)
    again = task_settings(checkpoint, settings.data[0], tmp_path / "none", start="translation")
    with pytest.raises(TaskError, match="no task 'translation'"):
        train_task(again)


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    data = write(pairs())
    whole = train_task(task_settings(checkpoint, data, tmp_path / "whole", steps=30))["legal"]
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "taskvec.integrations.cli", "train", "task"]
    command += [
        "--name",
        "legal",
        "--from",
        str(checkpoint),
        "--data",
        str(data),
        "--out",
        str(out),
    ]
    command += ["--steps", "30", "--set", "batch_size=8", "--set", "save_steps=2"]
    command += ["--set", "log_steps=1", "--set", 'device="cpu"']
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("run/checkpoint-*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "legal").exists()
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"encoder.add_task('legal', '{out / 'legal'}', prompt='')" in ended.stdout
    resumed = load_file(out / "legal" / "adapter_model.safetensors")
    for name, value in load_file(whole / "adapter_model.safetensors").items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=1e-4)
    assert len(losses(out / "run")) == 30
    assert (out / "run" / "loss.svg").read_text().startswith("<?xml")


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    settings = task_settings(tmp_path, tmp_path / "data.jsonl", tmp_path / "out")
    run = runs.Run(settings)
    for steps, state in ((2, "{}"), (10, '{"epo'), (12, None)):
        folder = run.folder / f"checkpoint-{steps}"
        folder.mkdir(parents=True)
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert run.last_checkpoint() == str(run.folder / "checkpoint-2")


def test_a_finished_run_is_not_trained_again_and_another_is_refused(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    data = write(pairs())
    settings = task_settings(checkpoint, data, tmp_path / "out", steps=2)
    folder = train_task(settings)["legal"]
    written = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    train_task(settings)
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == written
    data.write_text(data.read_text() + '{"query": "open", "passage": "close"}\n')
    with pytest.raises(InputError, match="another sha256"):
        train_task(settings)
    with pytest.raises(InputError, match="another learning_rate, seed"):
        train_task(
            task_settings(checkpoint, data, tmp_path / "out", steps=2, seed=3, learning_rate=1)
        )
    with pytest.raises(InputError, match="is not empty"):
        train_task(task_settings(checkpoint, data, tmp_path))


def test_pairs_train_all_weights_with_mined_negatives_and_teachers(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    rows = pairs()
    teacher = tmp_path / "teacher"
    with Encoder.load(tiny_checkpoint(tmp_path / "other", "hf", seed=5)) as encoder:
        encoder.save(teacher, layout="hf")
    given: dict[str, Any] = {
        "model": str(checkpoint),
        "data": (write(rows),),
        "out": tmp_path / "out",
        "steps": 60,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "mine": 1,
        "teachers": (str(teacher), str(teacher)),
        "teacher_weight": 0.1,
        "log_steps": 1,
        "device": "cpu",
    }
    told = run_stage("pairs", None, given)
    assert told == f"Encoder.load('{tmp_path / 'out' / 'model'}')"
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        before = right_first(encoder, rows)
    with Encoder.load(tmp_path / "out" / "model", dtype="float32") as encoder:
        assert encoder.tasks == ()
        assert encoder.dims == (8, 16, 32)
        assert right_first(encoder, rows) > before + 0.2


def test_pairs_of_half_strength_end_half_way_from_the_start(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    whole, half = (
        pairs_run(checkpoint, write, tmp_path / str(strength), strength=strength)
        for strength in (1.0, 0.5)
    )
    start = load_file(tmp_path / "1.0" / "run" / "start" / "model.safetensors")
    for name, value in half.items():
        np.testing.assert_allclose(value, (whole[name] + start[name]) / 2, rtol=1e-4, atol=1e-6)
    assert far(whole, start) > 1e-4


def test_a_stopped_run_of_pairs_goes_on_to_the_same_weights(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    once = pairs_run(checkpoint, write, out, steps=4, save_steps=2)
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "run" / "checkpoint-4")
    again = pairs_run(checkpoint, write, out, steps=4, save_steps=2)
    assert far(once, again) < 1e-5


def test_dropout_is_asked_for_and_batches_run_in_parts(
    checkpoint: Path, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, run = [], modules.PartsTransformer._part

    def noting(own: Any, features: Any, rows: torch.Tensor, options: Any) -> torch.Tensor:
        ran.append(len(rows))
        return run(own, features, rows, options)

    monkeypatch.setattr(modules.PartsTransformer, "_part", noting)
    none, some = (
        pairs_run(checkpoint, write, tmp_path / str(share), dropout=share) for share in (0.0, 0.5)
    )
    assert far(none, some) > 1e-4
    assert set(ran) == {2}, "eight rows in four parts"
    ran.clear()
    found = []
    for share in (0.0, 0.5):
        out = tmp_path / f"task {share}"
        settings = task_settings(checkpoint, write(pairs()), out, steps=2, dropout=share)
        found.append(load_file(train_task(settings)["legal"] / "adapter_model.safetensors"))
    assert far(*found) > 1e-5
    assert set(ran) == {2}
    assert {
        JinaEmbeddingsV3Config.from_pretrained(folder).hidden_dropout_prob
        for folder in (tmp_path / "0.5" / "model", tmp_path / "0.5" / "run" / "start")
    } == {0.1}


def test_a_pivot_teacher_reads_the_pivots_and_the_other_the_texts(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tmp_path / "teacher"
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.save(teacher, layout="hf")
        german, english = encoder.encode(["lock thread", "open file"])
    rows = Dataset.from_list(
        [
            {"anchor": "open file", "positive": "lock thread", "positive_pivot": "open file"},
            {"anchor": "read queue", "positive": "parse json", "positive_pivot": None},
        ]
    )
    settings = read_settings(
        PairsSettings,
        None,
        {
            "data": ("rows.jsonl",),
            "out": tmp_path,
            "teachers": (str(teacher),),
            "pivot_teachers": (str(teacher),),
        },
    )
    ready = prepare(settings, {"rows": rows}, tmp_path / "rows")["rows"]
    assert ready.column_names == ["anchor", "positive", "label"]
    labels = np.array(ready["label"], dtype=np.float32).reshape(2, 2, 2, 32)
    np.testing.assert_allclose(labels[0, 1], [german, english], atol=1e-5)
    np.testing.assert_allclose(labels[0, 0, 0], english, atol=1e-5)
    np.testing.assert_allclose(labels[1, :, 0], labels[1, :, 1], atol=1e-6)
    # A teacher reads no more of a text than the student will.
    short = settings.model_copy(update={"max_tokens": 5, "pivot_teachers": ()})
    texts = ["open file read queue parse json value", "open file read"]
    cut = Dataset.from_list([{"anchor": text, "positive": text} for text in texts])
    labels = np.array(prepare(short, {"rows": cut}, tmp_path / "short")["rows"]["label"])
    np.testing.assert_allclose(labels[0], labels[1], atol=1e-6)
    with pytest.raises(InputError, match="no row has a pivot"):
        prepare(settings, {"rows": cut}, tmp_path / "none")
    opened: list[str] = []

    def opening(name: str, **told: Any) -> SentenceTransformer:
        opened.append(name)
        return SentenceTransformer(name, **told)

    monkeypatch.setattr(teaching, "SentenceTransformer", opening)
    both = prepare(settings, {"a": rows, "b": cut}, tmp_path / "both")
    assert opened == [str(teacher)] * 2
    np.testing.assert_allclose(both["a"]["label"], ready["label"], atol=1e-6)
    untaught = settings.model_copy(update={"teachers": (), "pivot_teachers": ()})
    bare = prepare(untaught, {"rows": rows}, tmp_path / "bare")["rows"]
    assert bare.column_names == ["anchor", "positive"]


@pytest.mark.parametrize(
    ("card", "start", "told", "workers"),
    [
        (True, "fork", {}, 8),
        (True, "fork", {"TOKENIZERS_PARALLELISM": "false", "LOCAL_WORLD_SIZE": "4"}, 5),
        (True, "fork", {"TOKENIZERS_PARALLELISM": "true"}, 0),
        (True, "spawn", {}, 0),
        (False, "fork", {}, 0),
    ],
)
def test_processes_prepare_batches_for_a_card_where_a_fork_of_tokenizers_may(
    card: bool, start: str, told: dict[str, str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "on_card", lambda _: card)
    monkeypatch.setattr(runs, "choose_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: start)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(20)), raising=False)
    for name in ("TOKENIZERS_PARALLELISM", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert runs.place("auto")["dataloader_num_workers"] == workers


def test_pivots_follow_the_other_names_of_their_columns(write: Write) -> None:
    row = {"query": "was", "passage": "das", "query_pivot": "what", "passage_pivot": "that"}
    files, _ = read_rows([write([row])], [Kind.PAIRS])
    (rows,) = files.values()
    assert rows.column_names == ["anchor", "positive", "anchor_pivot", "positive_pivot"]
    assert pivots(rows) == {"was": "what", "das": "that"}


def test_a_batch_is_of_one_file_so_that_files_may_differ(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    rows = pairs()
    hard = [row | {"negative": rows[i - 1]["passage"]} for i, row in enumerate(rows)]
    teacher = tmp_path / "teacher"
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.save(teacher, layout="hf")
    settings = task_settings(
        checkpoint,
        write(rows),
        tmp_path / "out",
        teachers=(str(teacher),),
        teacher_weight=0.1,
        steps=60,
        batch_size=24,
        **QUICK,
    )
    settings = settings.model_copy(update={"data": (*settings.data, write(hard))})
    folder = train_task(settings)["legal"]
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        before = right_first(encoder, rows)
        encoder.add_task("legal", folder)
        assert right_first(encoder, rows, ("legal", "legal")) > before + 0.15


def test_pretraining_learns_to_fill_gaps_on_short_and_then_on_long_rows(
    checkpoint: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.save(start, layout="hf")
    path = start / "tokenizer.json"
    # A piece that no text here holds becomes the mask.
    path.write_text(path.read_text().replace('"ż"', '"<mask>"'))
    (tmp_path / "texts.csv").write_text(
        "text\n" + "\n".join(" ".join(WORDS[:20]) for _ in range(60))
    )
    config = tmp_path / "stage.toml"
    config.write_text(
        f'model = "{start}"\ndata = "texts.csv"\nout = "out"\nlearning_rate = 1e-2\nlog_steps = 1\n'
        'token_budget = 128\nrope_base = 10000.0\ndevice = "cpu"\n'
        "[[phases]]\nmax_tokens = 12\nsteps = 30\n[[phases]]\nmax_tokens = 64\nsteps = 3\n"
    )
    run_stage("pretrain", config, {})
    short = losses(tmp_path / "out" / "run" / "phase-1")
    assert np.mean(short[-5:]) < 0.6 * np.mean(short[:5])
    assert len(losses(tmp_path / "out" / "run" / "phase-2")) == 3
    with Encoder.load(tmp_path / "out" / "model", dtype="float32") as encoder:
        assert encoder.encode("open file").shape == (32,)
    written = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    # Trained at one base, served at the start's.
    assert written["rope_parameters"]["rope_theta"] == 20_000.0


def test_pretraining_needs_a_mask_token(checkpoint: Path, write: Write, tmp_path: Path) -> None:
    given = {"model": str(checkpoint), "data": (write([{"text": "a b"}]),), "out": tmp_path / "out"}
    with pytest.raises(InputError, match="no mask token"):
        run_stage("pretrain", None, given)


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([{"foo": "a"}], {}, "the data has columns foo; needed: anchor, positive or text1"),
        (
            [{"query": "a", "passage": "b"}, {"query": "c", "passage": " "}] * 4,
            {},
            "row 2: 'positive'",
        ),
        ([{"text": "a", "label": "b"}] * 8, {"passage_name": "other"}, "only pairs have two sides"),
        ([{"text": "a", "label": "b"}] * 8, {"teachers": ("x",)}, "only pairs are taught"),
        (
            [{"query": f"a {i}", "passage": f"b {i}"} for i in range(8)],
            {"anchor": 1.0},
            "pairs have none",
        ),
        ([{"text": "a", "label": "b"}] * 8, {}, "fewer than two of its labels have two texts"),
        ([{"text": "a", "label": x} for x in "xxyyxxyy"], {"batch_size": 7}, "need an even one"),
        ([{"text": "a", "label": x} for x in ("x", None) * 4], {}, "row 2: 'label' is None"),
        ([{"text1": "a", "text2": "b", "score": "high"}] * 8, {}, "row 1: 'score' is 'high'"),
        ([{"query": "a", "passage": "b"}] * 7, {}, "7 rows, which fill no batch of 8"),
        ([{"query": "a", "passage": "b"}] * 9, {}, "1 different anchors: they fill no batch of 8"),
        (
            [{"text": f"a {i}", "label": "x" if i < 98 else "y"} for i in range(100)],
            {"batch_size": 32},
            "its labels fill no batch of 32",
        ),
        (
            [{"question": "a", "passage": "b", "answer": "c"}],
            {},
            "'passage' and 'answer' both mean",
        ),
        ([{"query": "a", "passage": "b"}] * 8, {"name": "type"}, "cannot hold a LoRA named 'type'"),
        ([], {}, "can not be read|holds no row"),
    ],
)
def test_data_that_does_not_fit_is_refused_by_name(
    rows: list[dict[str, Any]], more: dict[str, Any], message: str, write: Write, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "never read"
    with pytest.raises(InputError, match=message):
        train_task(task_settings(checkpoint, write(rows), tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (TaskSettings, 'name = "a"\nout = "o"\ndata = "d"\nlearn = 1', "learn: Extra inputs"),
        (TaskSettings, 'name = "a b"\nout = "o"\ndata = "d"', "name: .*task name 'a b': use up"),
        (TaskSettings, 'name = "façade"\nout = "o"\ndata = "d"', "task name 'façade': use up"),
        (TaskSettings, 'name = "run"\nout = "o"\ndata = "d"', "name of the run's own folder"),
        (
            TaskSettings,
            'name = "a.b"\npassage_name = "a_b"\nout = "o"\ndata = "d"',
            "needs a name of its own",
        ),
        (PretrainSettings, 'out = "o"\ndata = "d"\nsteps = 5', "steps: Extra inputs"),
        (TaskSettings, 'name = "a"\nout = "o"\ndata = "d"\npassage_name = "a"', "name of its own"),
        (PairsSettings, 'out = "o"\ndata = "d"\nsteps = 0', "steps: Input should be greater"),
        (PairsSettings, 'out = "o"', "data: Field required"),
        (PairsSettings, 'out = "o"\ndata = "d"\ncosine_weight = 1', "there are no teachers"),
        (PairsSettings, 'out = "o"\ndata = "d"\nmemory = 2', "memory: there are no teachers"),
        (
            TaskSettings,
            'name = "a"\nout = "o"\ndata = "d"\nmean_cosine_share = 0.5',
            "mean_cosine_share: without an anchor",
        ),
        (
            PairsSettings,
            'out = "o"\ndata = "d"\ndim_weights.x = 1',
            "dim_weights.x: Input should be a valid integer",
        ),
        (
            PairsSettings,
            'out = "o"\ndata = "d"\n[dim_weights]\n32 = -1',
            "dim_weights.32: Input should be greater",
        ),
        (TaskSettings, 'name = "a"\nout = "o"\ndata = "d"\nstrength = 1.5', "strength: Input"),
        (PretrainSettings, 'out = "o"\ndata = "d"\nmask = 1.5', "mask: Input should be less"),
        (PretrainSettings, "out = ", "is no TOML file"),
    ],
)
def test_settings_that_a_stage_does_not_know_are_refused_by_name(
    kind: Any, text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "stage.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_settings(kind, path, {})


def test_paths_in_a_file_are_of_its_folder_and_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "stage.toml"
    path.write_text('name = "a"\nout = "o"\ndata = ["d.csv", "e.csv"]\nseed = 1')
    settings = read_settings(TaskSettings, path, {"seed": 2})
    assert settings.out == tmp_path / "o"
    assert settings.data == (tmp_path / "d.csv", tmp_path / "e.csv")
    assert settings.seed == 2
    (tmp_path / "trained").mkdir()
    path.write_text('name = "a"\nout = "o"\ndata = "d.csv"\nmodel = "trained"')
    assert read_settings(TaskSettings, path, {}).model == str(tmp_path / "trained")
    path.write_text('name = "a"\nout = "o"\ndata = "d.csv"\nmodel = "owner/trained"')
    assert read_settings(TaskSettings, path, {"data": "e.csv"}).model == "owner/trained"


def chain() -> list[dict[str, str]]:
    """Pairs of which no two neighbours may be in one batch: each repeats the other's text."""
    return [{"query": WORDS[i], "passage": WORDS[i + 1]} for i in range(12)]


def test_a_run_that_came_to_nothing_may_be_told_otherwise(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="fill no batch"):
        train_task(task_settings(checkpoint, write(chain()), out))
    settings = task_settings(checkpoint, write(pairs()), out, batch_size=8, steps=1)
    # As a kill leaves it between making the folder and writing what it is for.
    (out / "run" / "settings.json").unlink()
    assert train_task(settings)["legal"].exists()


def test_a_start_keeps_its_effect_under_another_alpha_and_says_what_does_not_go(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    still = {"learning_rate": 1e-9, "embedding_learning_rate": 1e-9, "steps": 1}
    data = write(pairs())
    settings = task_settings(
        checkpoint, data, tmp_path / "out", start="separation", alpha=8.0, **still
    )
    folder = train_task(settings)["legal"]
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.add_task("legal", folder)
        started = encoder.encode("open file", task="legal")
        np.testing.assert_allclose(
            started, encoder.encode("open file", task="separation"), atol=1e-5
        )
    with pytest.raises(InputError, match="has rank 4"):
        train_task(task_settings(checkpoint, data, tmp_path / "a", start="separation", rank=8))
    apart = tiny_checkpoint(tmp_path / "apart", "hf", shared_a=False)
    with pytest.raises(InputError, match=r"an A each for q, k and v|has rank"):
        train_task(task_settings(apart, data, tmp_path / "b", start="separation"))


def test_negatives_are_mined_beside_none_and_are_no_right_answers(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    given = {"model": str(checkpoint), "mine": 2, "batch_size": 2, "steps": 1, "device": "cpu"}
    rows: list[dict[str, Any]] = [
        {"query": word, "passage": f"{word} {other}"} for word in WORDS[:6] for other in WORDS[6:8]
    ]
    run_stage("pairs", None, given | {"data": write(rows), "out": tmp_path / "out"})
    (made,) = DatasetDict.load_from_disk(str(tmp_path / "out" / "run" / "rows")).values()
    assert len(made) == len(rows)
    for row in made:
        for name in ("negative_1", "negative_2"):
            assert row[name].split()[0] != row["anchor"]
    rows = [row | {"negative": "open"} for row in rows]
    with pytest.raises(InputError, match="negatives of its own"):
        run_stage("pairs", None, given | {"data": write(rows), "out": tmp_path / "other"})


@pytest.mark.parametrize("stage", ["pairs", "task"])
def test_a_dim_that_the_model_lacks_is_refused_before_a_teacher_is_asked(
    stage: str, checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    given = {"data": write(pairs()), "out": tmp_path / "out", "teachers": ("no such teacher",)}
    given |= {"model": str(checkpoint), "device": "cpu", "batch_size": 4}
    given |= {"dim_weights": {5: 1.0}}
    given |= {"name": "legal"} if stage == "task" else {}
    with pytest.raises(InputError, match="dim_weights: the model has no dim 5: use 8, 16, 32"):
        run_stage(stage, None, given)


def test_a_table_may_be_set_key_by_key(checkpoint: Path, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["train", "task", "--name", "legal", "--data", str(write(pairs())), "--steps", "1"]
    command += ["--from", str(checkpoint), "--out", str(out), "--set", "batch_size=4"]
    command += ["--set", "dim_weights.8=2", "--set", "dim_weights.16=3", "--set", 'device="cpu"']
    assert main(command) == 0
    told = json.loads((out / "run" / "settings.json").read_text(encoding="utf-8"))
    assert told["dim_weights"] == {"8": 2.0, "16": 3.0}


def test_rows_that_fill_no_batch_are_an_error(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    settings = task_settings(checkpoint, write(chain()), tmp_path / "out")
    with pytest.raises(InputError, match="fill no batch without repeats"):
        train_task(settings)
    assert not (tmp_path / "out" / "legal").exists()


def test_two_processes_train_one_lora(checkpoint: Path, write: Write, tmp_path: Path) -> None:
    data, out = write(pairs()), tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "taskvec.integrations.cli", "train", "task", "--name", "legal"]
    command += ["--from", str(checkpoint), "--data", str(data), "--out", str(out), "--steps", "6"]
    command += ["--set", "batch_size=4", "--set", 'device="cpu"', "--set", 'passage_name="passage"']
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        for name in ("legal", "passage"):
            encoder.add_task(name, out / name)
            # An untrained LoRA changes nothing.
            assert not np.allclose(
                encoder.encode("open file", task=name), encoder.encode("open file")
            )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "batch_size: 3"], "--set 'batch_size: 3' is no KEY=VALUE"),
        (["--set", "batch=3"], "batch: Extra inputs are not permitted"),
        (["--config", "none.toml"], "none.toml: no such file or directory"),
        (["--steps", "0"], "'0' is not a whole number"),
    ],
)
def test_a_command_that_cannot_run_says_why_in_one_line(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("query,passage\na,b\n")
    data, out = str(tmp_path / "rows.csv"), str(tmp_path / "out")
    command = ["train", "task", "--name", "legal", "--data", data, "--out", out]
    assert main([*command, *more]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
