"""LoRAs that PEFT itself trained and saved, hot-loaded and mixed with the model's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import JinaEmbeddingsV3Model

from taskvec.core import Encoder
from tests.checkpoints import TASKS, tiny_checkpoint, tokenizer

TEXTS = ["read the json file", "a thread lock in the queue", "error"]
LORAS = {
    "attention only": LoraConfig(r=2, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
    "rank per module": LoraConfig(
        r=4,
        lora_alpha=3,
        target_modules=["q_proj", "k_proj", "v_proj", "fc1", "word_embeddings"],
        rank_pattern={"fc1": 8, "layers.0.self_attn.q_proj": 2},
        alpha_pattern={"fc1": 5},
    ),
    "rank-stabilised": LoraConfig(r=4, lora_alpha=8, target_modules=["fc2"], use_rslora=True),
    "everything": LoraConfig(r=6, lora_alpha=1, target_modules="all-linear"),
}


# PEFT 0.21 reads an attribute that transformers 5.23 has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", LORAS)
def test_a_peft_lora_serves_beside_the_models_own(tmp_path: Path, name: str) -> None:
    folder = tiny_checkpoint(tmp_path / "base", "hf")
    base = JinaEmbeddingsV3Model.from_pretrained(folder, add_pooling_layer=False)
    torch.manual_seed(5)
    LORAS[name].init_lora_weights = False
    tuned = get_peft_model(base, LORAS[name]).eval()
    tuned.save_pretrained(str(tmp_path / "lora"))
    want = []
    with torch.inference_mode():
        for text in TEXTS:
            ids = torch.tensor([tokenizer().encode("ask: " + text).ids])
            pooled = tuned(input_ids=ids).last_hidden_state.mean(1)
            want.append(torch.nn.functional.normalize(pooled)[0].numpy())
    with Encoder.load(folder, dtype="float32") as encoder:
        before = encoder.encode(TEXTS, task="separation")
        encoder.add_task("own", tmp_path / "lora", prompt="ask: ")
        assert encoder.tasks == (*TASKS, "own")
        mixed = encoder.encode([*TEXTS, *TEXTS], task=["own"] * 3 + ["separation"] * 3)
        np.testing.assert_allclose(mixed[:3], want, rtol=0, atol=1e-5)
        np.testing.assert_allclose(mixed[3:], before, rtol=0, atol=1e-6)
        for layout in ("jina", "hf"):
            encoder.save(tmp_path / layout, layout)  # type: ignore[arg-type]
            with Encoder.load(tmp_path / layout, dtype="float32") as again:
                assert set(again.tasks) == set(encoder.tasks)
                np.testing.assert_allclose(again.encode(TEXTS, task="own"), want, atol=1e-5)
                np.testing.assert_allclose(
                    again.encode(TEXTS, task="separation"), before, atol=1e-5
                )
