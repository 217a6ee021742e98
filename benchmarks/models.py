"""Random models with live LoRAs, of any size: speed does not depend on what weights know."""

import functools
import json
import shutil
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

FOLDERS = {
    "retrieval.query": "retrieval_query",
    "retrieval.passage": "retrieval_passage",
    "separation": "separation",
    "classification": "classification",
    "text-matching": "text_matching",
}


def _packaged() -> Path:
    """The starter's folder, found without importing the core and with it torch."""
    spec = find_spec("taskvec.core")
    if spec is None or spec.origin is None:
        raise SystemExit("taskvec is not installed here: run `make bench`")
    return Path(spec.origin).parent / "starter"


PACKAGED = _packaged()


@dataclass(frozen=True)
class Size:
    """The shape of a model."""

    name: str
    title: str
    layers: int
    hidden: int
    heads: int
    ffn: int

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of one layer's linear layers: qkv, out, fc1, fc2."""
        return (
            (3 * self.hidden, self.hidden),
            (self.hidden, self.hidden),
            (self.ffn, self.hidden),
            (self.hidden, self.ffn),
        )

    def linear_flops(self, tokens: int) -> int:
        """Of the linear layers, a multiply-add counted twice; LoRA left out."""
        return 2 * tokens * self.layers * sum(out * width for out, width in self.linears)

    def attention_flops(self, lengths: list[int]) -> int:
        """Of attention's two products over rows of these lengths."""
        return 4 * self.layers * self.hidden * sum(length**2 for length in lengths)


WIDE = Size("wide", "jina-v3 shape, 6 layers", layers=6, hidden=1024, heads=16, ffn=4096)
DEEP = Size("deep", "jina-v3 shape, 24 layers", layers=24, hidden=1024, heads=16, ffn=4096)
SMALL = Size("small", "6 layers, 384 wide", layers=6, hidden=384, heads=12, ffn=1536)
STARTER = Size("starter", "the packaged starter", layers=12, hidden=384, heads=12, ffn=1536)


@functools.cache
def tokenizer() -> Tokenizer:
    """The starter's tokenizer, which every bench model shares."""
    return Tokenizer.from_file(str(PACKAGED / "tokenizer.json"))


def prompts(folder: Path) -> dict[str, str]:
    """What each task of a model puts before a text."""
    found: dict[str, str] = json.loads((folder / "config.json").read_text())["task_instructions"]
    return found


class Writer:
    """Writes models; lives in a worker, because random weights are made by torch."""

    def write(self, folder: Path, size: Size) -> None:
        """Write a model in the hf layout, unless it is there already."""
        if (folder / "config.json").exists():
            return
        scratch = folder.with_name(folder.name + ".part")
        shutil.rmtree(scratch, ignore_errors=True)
        if size == STARTER:
            _write_starter(scratch)
        else:
            _write_random(scratch, size)
        scratch.rename(folder)


def _write_starter(folder: Path) -> None:
    from taskvec.core import Encoder  # noqa: PLC0415 - loads torch, which only workers may

    with Encoder.load("starter", device="cpu") as encoder:
        encoder.save(folder, layout="hf")
    shutil.copy(PACKAGED / "tokenizer_config.json", folder)


def _write_random(folder: Path, size: Size) -> None:
    import torch  # noqa: PLC0415
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model  # noqa: PLC0415

    bos, eos = tokenizer().encode("").ids
    config = JinaEmbeddingsV3Config(
        vocab_size=tokenizer().get_vocab_size(),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.ffn,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=tokenizer().token_to_id("<pad>"),
    )
    torch.manual_seed(0)
    model = JinaEmbeddingsV3Model(config, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PACKAGED / name, folder)
    _write_loras(folder, model)
    # Without prompts: a text has the length that its workload says.
    described = json.loads((folder / "config.json").read_text())
    bare = {"task_instructions": dict.fromkeys(FOLDERS, ""), "lora_adaptations": list(FOLDERS)}
    (folder / "config.json").write_text(json.dumps(described | bare))


def _write_loras(folder: Path, model: Any) -> None:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

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
