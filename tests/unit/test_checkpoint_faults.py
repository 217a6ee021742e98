"""Broken checkpoints are refused in one sentence that names the file and the tensor."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from taskvec.core import Encoder
from taskvec.core.errors import CheckpointError, TaskError
from tests.checkpoints import TASKS, tiny_checkpoint

Break = Callable[[Path], object]


def edit_config(**changes: object) -> Break:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], object], name: str = "model") -> Break:
    def edit(folder: Path) -> None:
        path = next(folder.rglob(f"{name}.safetensors"))
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


WQKV = "roberta.encoder.layers.1.mixer.Wqkv"
INDEXES: tuple[dict[str, Any], ...] = (
    {},
    {"weight_map": {}},
    {"weight_map": ["a"]},
    {"weight_map": {"a": None}},
)
OUTSIDE: tuple[dict[str, Any], ...] = (
    {"weight_map": {"a": "../other.safetensors"}},
    {"weight_map": {"a": "/a.safetensors"}},
)
JINA_FAULTS: dict[str, tuple[Break, list[str]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json", "is missing"]),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), ["config.json"]),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json", "object"]),
    "size missing": (edit_config(hidden_size=None), ["config.json", "hidden_size"]),
    "size no whole number": (edit_config(hidden_size=32.9), ["config.json", "hidden_size", "32.9"]),
    "size endless": (edit_config(hidden_size=float("inf")), ["config.json", "hidden_size"]),
    "too many positions": (edit_config(max_position_embeddings=10**13), ["max_position"]),
    "norm negative": (edit_config(layer_norm_eps=-1), ["layer_norm_eps", "-1"]),
    "rope base NaN": (edit_config(rotary_emb_base=float("nan")), ["rotary_emb_base"]),
    "dims no list": (edit_config(matryoshka_dimensions="123"), ["matryoshka_dimensions"]),
    "tasks no names": (edit_config(lora_adaptations=[1, 2]), ["config.json", "task name 1"]),
    "task name a path": (edit_config(lora_adaptations=["../x"]), ["config.json", "'../x'"]),
    "task twice": (edit_config(lora_adaptations=["a", "a"]), ["config.json", "twice"]),
    "prompt no text": (edit_config(task_instructions={"separation": 5}), ["task_instructions"]),
    "nested too deeply": (
        lambda f: (f / "config.json").write_text('{"a":' * 100_000),
        ["config.json"],
    ),
    "NaN in a weight": (
        edit_tensors(lambda t: t[f"{WQKV}.bias"].fill_(float("nan"))),
        ["layers.1.qkv.bias", "not finite"],
    ),
    "NaN in a LoRA": (
        edit_tensors(
            lambda t: t[f"{WQKV}.parametrizations.weight.0.lora_B"][3].fill_(float("nan"))
        ),
        ["layers.1.qkv", "not finite"],
    ),
    "wrong type": (edit_config(num_hidden_layers="two"), ["config.json", "two"]),
    "another model": (edit_config(model_type="bert"), ["config.json", "unknown layout", "'bert'"]),
    "absolute positions": (edit_config(position_embedding_type="absolute"), ["unknown layout"]),
    "other activation": (edit_config(hidden_act="silu"), ["hidden_act", "'silu'"]),
    "uneven heads": (edit_config(num_attention_heads=5), ["config.json", "5"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors is missing"]),
    "truncated": (truncate, ["model.safetensors", "not a complete safetensors file"]),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), ["model.safetensors"]),
    "pickle only": (pickle_only, ["pytorch_model.bin", "never opens"]),
    "tensor missing": (
        edit_tensors(lambda t: t.pop("roberta.encoder.layers.0.norm1.bias")),
        ["model.safetensors", "'roberta.encoder.layers.0.norm1.bias' is missing"],
    ),
    "tensor misshapen": (
        edit_tensors(lambda t: t.update({f"{WQKV}.bias": torch.zeros(7)})),
        ["model.safetensors", f"'{WQKV}.bias'", "(7,)", "(96,)"],
    ),
    "LoRA missing": (
        edit_tensors(lambda t: t.pop(f"{WQKV}.parametrizations.weight.0.lora_B")),
        [f"'{WQKV}.parametrizations.weight.0.lora_B' is missing"],
    ),
    "whole numbers": (
        edit_tensors(lambda t: t.update({f"{WQKV}.bias": torch.zeros(96, dtype=torch.int64)})),
        [f"'{WQKV}.bias'", "int64"],
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        ["tokenizer.json is missing"],
    ),
    "broken tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        ["tokenizer.json", "not a tokenizer"],
    ),
    "other specials": (edit_config(eos_token_id=5), ["tokenizer.json", "eos 5"]),
}

LORA = "retrieval_query"
HF_FAULTS: dict[str, tuple[Break, list[str]]] = {
    "LoRA of another base": (
        edit_tensors(
            lambda t: t.update(
                {"base_model.model.layers.0.mlp.fc1.lora_A.weight": torch.zeros(4, 48)}
            ),
            "adapter_model",
        ),
        ["adapter_model.safetensors", "layers.0.mlp.fc1.lora_A.weight", "another base"],
    ),
    "LoRA with more layers": (
        edit_tensors(
            lambda t: t.update(
                {"base_model.model.layers.9.mlp.fc1.lora_A.weight": torch.zeros(4, 32)}
            ),
            "adapter_model",
        ),
        ["adapter_model.safetensors", "layers.9.mlp.fc1.lora_A.weight", "fits no module"],
    ),
    "half a LoRA": (
        edit_tensors(
            lambda t: t.pop("base_model.model.layers.0.mlp.fc1.lora_B.weight"), "adapter_model"
        ),
        ["adapter_model.safetensors", "layers.0.mlp.fc1.lora_B.weight", "missing"],
    ),
    "q of another width": (
        edit_tensors(lambda t: t.update({"layers.0.self_attn.k_proj.weight": torch.zeros(16, 32)})),
        ["model.safetensors", "layers.0.self_attn.k_proj.weight", "(16, 32)"],
    ),
}


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Encoder.load(folder)
    return str(caught.value)


@pytest.mark.parametrize("fault", JINA_FAULTS)
def test_a_broken_jina_checkpoint_is_refused_by_name(tmp_path: Path, fault: str) -> None:
    break_it, words = JINA_FAULTS[fault]
    break_it(tiny_checkpoint(tmp_path / "model", "jina"))
    message = refused(tmp_path / "model")
    assert str(tmp_path / "model") in message or "not finite" in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("fault", HF_FAULTS)
def test_a_broken_hf_checkpoint_is_refused_by_name(tmp_path: Path, fault: str) -> None:
    break_it, words = HF_FAULTS[fault]
    break_it(tiny_checkpoint(tmp_path / "model", "hf"))
    message = refused(tmp_path / "model")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["pooler"]}, "modules_to_save"),
        ({"r": 0}, "'r'"),
        ({"r": 8}, "shape"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    tmp_path: Path, change: dict[str, object], word: str
) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "hf")
    path = folder / LORA / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    message = refused(folder)
    assert LORA in message
    assert word in message


@pytest.mark.parametrize("index", [*INDEXES, *OUTSIDE])
def test_an_index_names_files_of_its_folder(tmp_path: Path, index: dict[str, object]) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "index.json: 'weight_map' must map" in refused(folder)


def test_a_model_in_shards_loads(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    with Encoder.load(folder, dtype="float32") as whole:
        want = whole.encode("the file", task="separation")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    places = {name: file for file, own in parts.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with Encoder.load(folder, dtype="float32") as sharded:
        assert (sharded.encode("the file", task="separation") == want).all()


@pytest.mark.parametrize(
    "change",
    [
        {"rank_pattern": {"fc1": None}},
        {"alpha_pattern": ["fc1"]},
        {"alpha_pattern": {"(": 2}},
        {"r": 4.5},
        {"lora_alpha": float("nan")},
    ],
)
def test_odd_lora_settings_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "hf")
    path = folder / LORA / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "adapter_config.json" in refused(folder)


def test_a_trainers_leftover_is_no_task_and_a_listed_task_must_be_there(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "hf")
    shutil.copytree(folder / LORA, folder / "checkpoint-500")
    with Encoder.load(folder) as encoder:
        assert encoder.tasks == TASKS
    edit_config(lora_adaptations=["separation", "mine"])(folder)
    assert "mine/adapter_config.json of a listed task is missing" in refused(folder)


def test_one_bad_lora_cannot_spoil_its_neighbours(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "hf")
    other = tiny_checkpoint(tmp_path / "other", "hf") / LORA
    edit_tensors(
        lambda t: t["base_model.model.layers.0.mlp.fc1.lora_B.weight"].fill_(float("nan")),
        "adapter_model",
    )(other)
    with Encoder.load(folder, dtype="float32") as encoder:
        want = encoder.encode("the file", task="separation")
        with pytest.raises(CheckpointError, match="not finite"):
            encoder.add_task("bad", other)
        assert "bad" not in encoder.tasks
        assert (encoder.encode("the file", task="separation") == want).all()


def test_a_pickled_lora_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "hf")
    (folder / LORA / "adapter_model.safetensors").rename(folder / LORA / "adapter_model.bin")
    assert "never opens" in refused(folder)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("nowhere", "no model 'nowhere'"),
        ("127.0.0.1:9317", "or, to an adapter, a server's URL, as 'http://…'"),
        ("~nobody-here/x/y", "no model"),
        ("a\0b", "no model"),
        ("x" * 9999, "no model"),
        ("./no/such/folder", "no model"),
        ("./nope", "no model"),
        ("http://127.0.0.1:9", "RemoteEncoder"),
        (__file__, "is a file"),
    ],
)
def test_a_source_that_is_no_model_is_refused(source: str, word: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(word)):
        Encoder.load(source)


def test_a_hub_model_that_is_not_cached_is_refused_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="nobody/nothing"):
        Encoder.load("nobody/nothing")


def test_a_cached_hub_model_loads_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--owner--model"
    tiny_checkpoint(repo / "snapshots" / "0123abc", "jina")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    with Encoder.load("owner/model") as encoder:
        assert encoder.tasks == TASKS


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Encoder.load(tiny_checkpoint(tmp_path / "model")) as encoder:
        encoder.add_task("own", _lora(tmp_path))
        monkeypatch.setattr(
            "taskvec.core.layout_hf.write_peft",
            lambda *_, **__: (_ for _ in ()).throw(OSError("full")),
        )
        with pytest.raises(OSError, match="full"):
            encoder.save(tmp_path / "saved", "hf")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model"]


def test_saving_never_mixes_with_older_files(tmp_path: Path) -> None:
    with Encoder.load(tiny_checkpoint(tmp_path / "model")) as encoder:
        with pytest.raises(ValueError, match="not empty"):
            encoder.save(tmp_path / "model")
        with pytest.raises(ValueError, match="unknown layout 'onnx'"):
            encoder.save(tmp_path / "new", "onnx")  # type: ignore[arg-type]


def test_tasks_come_and_go(tmp_path: Path) -> None:
    with Encoder.load(tiny_checkpoint(tmp_path / "model"), dtype="float32") as encoder:
        encoder.add_task("own", _lora(tmp_path), prompt="ask: ")
        assert encoder.tasks == (*TASKS, "own")
        assert encoder.prompts["own"] == "ask: "
        with pytest.raises(TaskError, match="'own' exists already"):
            encoder.add_task("own", _lora(tmp_path))
        encoder.remove_task("own")
        assert encoder.tasks == TASKS
        with pytest.raises(TaskError, match="unknown task 'own'"):
            encoder.remove_task("own")
        with pytest.raises(TaskError, match="unknown task 'own'"):
            encoder.encode("text", task="own")
        with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
            encoder.add_task("other", tmp_path / "nowhere")


def _lora(tmp_path: Path) -> Path:
    if not (tmp_path / "hf").exists():
        tiny_checkpoint(tmp_path / "hf", "hf")
    return tmp_path / "hf" / LORA
