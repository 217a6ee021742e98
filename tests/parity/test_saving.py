"""What Encoder.save writes is what transformers, PEFT and we ourselves read."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer, JinaEmbeddingsV3Model

from taskvec.core import Encoder
from tests.checkpoints import PROMPTS, TASKS, tiny_checkpoint, tokenizer
from tests.parity.oracle import Oracle

TEXTS = ["read the json file", "", "a thread lock", "query " * 90]


@pytest.mark.parametrize("source", ["jina", "hf", "hf, own A"])
def test_transformers_and_peft_load_the_hf_layout(tmp_path: Path, source: str) -> None:
    layout = source.partition(",")[0]
    folder = tiny_checkpoint(tmp_path / "from", layout, shared_a=layout == source)
    with Encoder.load(folder, dtype="float32") as encoder:
        encoder.save(tmp_path / "saved", "hf")
        oracle = Oracle(tmp_path / "saved")
        for task in (None, *TASKS):
            want = encoder.encode(TEXTS, task=task)
            np.testing.assert_allclose(oracle.encode(TEXTS, task), want, rtol=0, atol=1e-5)
    assert isinstance(AutoModel.from_pretrained(tmp_path / "saved"), JinaEmbeddingsV3Model)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs("read the file")["input_ids"] == tokenizer().encode("read the file").ids


@pytest.mark.parametrize("source", ["jina", "hf", "hf, own A"])
@pytest.mark.parametrize("layout", ["jina", "hf"])
def test_a_round_trip_changes_no_vector(tmp_path: Path, source: str, layout: str) -> None:
    kind = source.partition(",")[0]
    folder = tiny_checkpoint(tmp_path / "from", kind, shared_a=kind == source)
    with Encoder.load(folder, dtype="float32") as encoder:
        encoder.save(tmp_path / "saved", layout)  # type: ignore[arg-type]
        with Encoder.load(tmp_path / "saved", dtype="float32") as again:
            assert again.tasks == encoder.tasks == TASKS
            assert again.dims == encoder.dims
            assert {task: p for task, p in again.prompts.items() if p} == PROMPTS
            for task in (None, *TASKS):
                want = encoder.encode(TEXTS, task=task)
                np.testing.assert_allclose(again.encode(TEXTS, task=task), want, atol=1e-6)


def test_a_model_that_transformers_saved_under_the_original_names_loads(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "hf", "hf")
    trained = JinaEmbeddingsV3Model.from_pretrained(folder, add_pooling_layer=False)
    fresh = JinaEmbeddingsV3Model(trained.config, add_pooling_layer=False)
    fresh.load_state_dict(trained.state_dict())
    fresh.save_pretrained(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert "emb_ln.weight" in file.keys()  # noqa: SIM118
    shutil.copy(folder / "tokenizer.json", tmp_path / "saved")
    with (
        Encoder.load(folder, dtype="float32") as first,
        Encoder.load(tmp_path / "saved", dtype="float32") as second,
    ):
        np.testing.assert_array_equal(first.encode(TEXTS), second.encode(TEXTS))
        assert first.fingerprint() == second.fingerprint()
