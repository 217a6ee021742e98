"""Random models with live LoRAs, of any size: speed does not depend on what weights know."""

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from taskvec.core.layout_hf import FOLDERS
from taskvec.core.source import find


@dataclass(frozen=True)
class Size:
    """The shape of a model."""

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int

    @property
    def flops_per_token(self) -> int:
        """Multiply-adds of the linear layers, counted twice; attention's own are left out."""
        return 2 * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.ffn)


WIDE = Size("6 layers of jina-embeddings-v3", layers=6, hidden=1024, heads=16, ffn=4096)
SMALL = Size("6 layers, 384 wide", layers=6, hidden=384, heads=12, ffn=1536)


def tokenizer() -> Tokenizer:
    """The starter's tokenizer, which every bench model shares."""
    return Tokenizer.from_file(str(find("starter") / "tokenizer.json"))


def write_model(folder: Path, size: Size) -> Path:
    """Write a random model in the hf layout with one PEFT LoRA per task; returns the folder."""
    bos, eos = tokenizer().encode("").ids
    config = JinaEmbeddingsV3Config(
        vocab_size=tokenizer().get_vocab_size(),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.ffn,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = JinaEmbeddingsV3Model(config, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    # Without prompts: the peers are given bare texts, and so are we.
    config = json.loads((folder / "config.json").read_text())
    prompts = {"task_instructions": {}, "lora_adaptations": list(FOLDERS)}
    (folder / "config.json").write_text(json.dumps(config | prompts))
    shutil.copy(find("starter") / "tokenizer.json", folder)
    lora = LoraConfig(
        r=4,
        lora_alpha=1,
        init_lora_weights=False,
        target_modules=[
            *("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
            *("word_embeddings", "token_type_embeddings"),
        ],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on every further adapter
        tuned = get_peft_model(model, lora, adapter_name=FOLDERS["retrieval.query"])
        for name in list(FOLDERS.values())[1:]:
            tuned.add_adapter(name, lora)
    tuned.save_pretrained(str(folder))
    return folder
