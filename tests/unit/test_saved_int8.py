"""A model saved with int8 rows: its size, its vectors, and what a broken file says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taskvec.core import Encoder
from taskvec.core.errors import CheckpointError, InputError
from taskvec.core.tensors import rows_in_int8
from tests.checkpoints import tiny_checkpoint

TEXTS = ["open file", "parse json value", "thread lock queue"]
FC1 = "roberta.encoder.layers.0.mlp.fc1.parametrizations.weight.original"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    with Encoder.load(tiny_checkpoint(folder / "whole"), dtype="float32") as encoder:
        encoder.save(folder / "int8", dtype="int8")
    return folder


def test_rows_are_within_half_a_step_and_zeros_stay(saved: Path) -> None:
    rows = torch.randn(5, 3, 64)
    rows[1, 2] = 0
    whole, scale = rows_in_int8(rows)
    assert whole.dtype == torch.int8
    assert scale.shape == (5, 3)
    assert ((whole * scale.unsqueeze(-1) - rows).abs() <= scale.unsqueeze(-1) / 2 + 1e-7).all()
    assert not whole[1, 2].any()
    before = load_file(saved / "whole" / "model.safetensors")
    after = load_file(saved / "int8" / "model.safetensors")
    assert after[FC1].dtype == torch.int8
    # LoRAs and biases are as they were.
    kept = [name for name in before if "lora_" in name or name.endswith("bias")]
    for name in kept:
        if "pooler" not in name:
            assert torch.equal(after[name], before[name])


def test_rows_of_int8_come_back_to_the_bit() -> None:
    rows = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0)) * 3
    whole, scale = rows_in_int8(rows)
    again, same = rows_in_int8(whole * scale.unsqueeze(-1))
    assert torch.equal(again, whole)
    assert torch.equal(same, scale)


def test_vectors_stay_near_and_the_fingerprint_tells_them_apart(saved: Path) -> None:
    with (
        Encoder.load(saved / "whole", dtype="float32") as whole,
        Encoder.load(saved / "int8", dtype="float32") as rounded,
    ):
        for task in (None, *whole.tasks):
            left, right = whole.encode(TEXTS, task=task), rounded.encode(TEXTS, task=task)
            assert (left * right).sum(1).min() > 0.999
            assert not np.array_equal(left, right)
        assert whole.fingerprint() != rounded.fingerprint()


def test_saved_again_it_is_the_same_model_in_any_dtype(saved: Path, tmp_path: Path) -> None:
    with Encoder.load(saved / "int8", dtype="float32") as rounded:
        rounded.save(tmp_path / "again", dtype="int8")
        rounded.save(tmp_path / "floats", layout="hf")
        wanted, fingerprint = rounded.encode(TEXTS), rounded.fingerprint("separation")
    again = load_file(tmp_path / "again" / "model.safetensors")
    for name, tensor in load_file(saved / "int8" / "model.safetensors").items():
        assert torch.equal(again[name], tensor), name
    with Encoder.load(tmp_path / "floats", dtype="float32") as floats:
        np.testing.assert_allclose(floats.encode(TEXTS), wanted, atol=1e-6)
        assert floats.fingerprint("separation") == fingerprint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop(f"{FC1}.scale"), "fc1.*is torch.int8, expected floats"),
        (
            lambda tensors: tensors.update({f"{FC1}.scale": torch.ones(3)}),
            r"fc1.*\.scale' has shape \(3,\), expected \(64,\)",
        ),
    ],
)
def test_a_factor_that_is_missing_or_misshapen_is_named(
    damage: object, message: str, saved: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((saved / "int8" / name).read_bytes())
    tensors = load_file(saved / "int8" / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        Encoder.load(tmp_path)


def test_a_layout_or_dtype_that_does_not_go_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no int8 rows in layout 'hf'"):
        encoder.save(tmp_path / "a", layout="hf", dtype="int8")
    with pytest.raises(InputError, match="unknown dtype 'int4'"):
        encoder.save(tmp_path / "a", dtype="int4")
    assert not (tmp_path / "a").exists()
