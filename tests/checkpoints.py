"""Small random checkpoints in both published layouts, written without taskvec's own code."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
PROMPTS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
WORDS = (
    "the of and a to in is for that with as on by this from are be or an it query document "
    "represent retrieving evidence retrieval file list string number open close read write parse "
    "json time date path thread lock queue socket error value return function class module test"
).split()
HIDDEN, HEADS, LAYERS, FFN, RANK = 32, 4, 2, 64, 4
DIMS = (8, 16, 32)


def tokenizer() -> Tokenizer:
    """A Unigram model like XLM-R's: words and characters, <s> 0, <pad> 1, </s> 2, <unk> 3."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -4.0)]
    pieces += [("▁" + word, -6.0) for word in WORDS] + [
        (word, -7.0) for word in WORDS if word != "a"
    ]
    pieces += [(chr(code), -9.0) for code in [*range(33, 127), *range(0xC0, 0x180)]]
    pieces += [(letter, -9.0) for letter in "数据库检索日本語한국어мирпивет"]
    unique = dict(pieces)
    made = Tokenizer(Unigram(list(unique.items()), unk_id=3))
    made.pre_tokenizer = Metaspace()
    made.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return made


def linear_shapes() -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer of one encoder layer, q, k and v apart."""
    return {
        "q": (HIDDEN, HIDDEN),
        "k": (HIDDEN, HIDDEN),
        "v": (HIDDEN, HIDDEN),
        "o": (HIDDEN, HIDDEN),
        "fc1": (FFN, HIDDEN),
        "fc2": (HIDDEN, FFN),
    }


def tiny_checkpoint(
    folder: Path,
    layout: str = "jina",
    *,
    seed: int = 0,
    shared_a: bool = True,
    max_positions: int = 1026,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a random two-layer model with five live LoRAs; returns the folder.

    The same seed gives the same model in both layouts, as long as q, k and v share their LoRA A
    (`shared_a`), which the jina layout cannot do otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tok = tokenizer()
    tok.save(str(folder / "tokenizer.json"))
    weights = _weights(tok.get_vocab_size(), seed, shared_a=shared_a)
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    write = {"jina": _write_jina, "hf": _write_hf}[layout]
    write(folder, weights, tok.get_vocab_size(), max_positions)
    return folder


def _weights(vocab: int, seed: int, *, shared_a: bool) -> dict[str, torch.Tensor]:
    """Every tensor by a neutral name; LoRA tensors are `{module}.A.{task}` and `.B.{task}`."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    weights = {
        "word": randn(vocab, HIDDEN, scale=1.0),
        "type": randn(1, HIDDEN, scale=0.5),
        "norm.weight": 1 + randn(HIDDEN, scale=0.1),
        "norm.bias": randn(HIDDEN, scale=0.1),
    }
    for task in TASKS:
        weights[f"word.A.{task}"] = randn(vocab, RANK, scale=0.5)
        weights[f"word.B.{task}"] = randn(RANK, HIDDEN, scale=0.5)
        weights[f"type.A.{task}"] = randn(1, RANK, scale=0.5)
        weights[f"type.B.{task}"] = randn(RANK, HIDDEN, scale=0.5)
    for layer in range(LAYERS):
        for norm in ("norm1", "norm2"):
            weights[f"{layer}.{norm}.weight"] = 1 + randn(HIDDEN, scale=0.1)
            weights[f"{layer}.{norm}.bias"] = randn(HIDDEN, scale=0.1)
        for name, (rows, columns) in linear_shapes().items():
            module = f"{layer}.{name}"
            weights[module] = randn(rows, columns, scale=columns**-0.5)
            weights[f"{module}.bias"] = randn(rows, scale=0.1)
            for task in TASKS:
                a = randn(RANK, columns, scale=columns**-0.5)
                if shared_a and name in "kv":
                    a = weights[f"{layer}.q.A.{task}"]
                weights[f"{module}.A.{task}"] = a
                weights[f"{module}.B.{task}"] = randn(rows, RANK, scale=1.0)
    return weights


def _config(vocab: int, max_positions: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": max_positions,
        "type_vocab_size": 1,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }


def _write_jina(folder: Path, w: dict[str, torch.Tensor], vocab: int, max_positions: int) -> None:
    config = _config(vocab, max_positions) | {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "lora_adaptations": list(TASKS),
        "lora_rank": RANK,
        "lora_alpha": 1,
        "task_instructions": PROMPTS,
        "matryoshka_dimensions": list(DIMS),
        "rotary_emb_base": 20000.0,
        "position_embedding_type": "rotary",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        "roberta.emb_ln.weight": w["norm.weight"],
        "roberta.emb_ln.bias": w["norm.bias"],
        "roberta.pooler.dense.weight": torch.zeros(HIDDEN, HIDDEN),
        "roberta.pooler.dense.bias": torch.zeros(HIDDEN),
    }

    def put(prefix: str, parts: list[str]) -> None:
        tensors[f"{prefix}.parametrizations.weight.original"] = torch.cat([w[p] for p in parts])
        if f"{parts[0]}.bias" in w:
            tensors[f"{prefix}.bias"] = torch.cat([w[f"{p}.bias"] for p in parts])
        a = torch.stack([w[f"{parts[0]}.A.{task}"] for task in TASKS])
        b = torch.stack([torch.cat([w[f"{p}.B.{task}"] for p in parts]) for task in TASKS])
        tensors[f"{prefix}.parametrizations.weight.0.lora_A"] = a
        tensors[f"{prefix}.parametrizations.weight.0.lora_B"] = b

    put("roberta.embeddings.word_embeddings", ["word"])
    put("roberta.embeddings.token_type_embeddings", ["type"])
    for i in range(LAYERS):
        prefix = f"roberta.encoder.layers.{i}"
        put(f"{prefix}.mixer.Wqkv", [f"{i}.q", f"{i}.k", f"{i}.v"])
        put(f"{prefix}.mixer.out_proj", [f"{i}.o"])
        put(f"{prefix}.mlp.fc1", [f"{i}.fc1"])
        put(f"{prefix}.mlp.fc2", [f"{i}.fc2"])
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                tensors[f"{prefix}.{norm}.{part}"] = w[f"{i}.{norm}.{part}"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


HF_MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
HF_NORMS = {"norm1": "post_attention_layernorm", "norm2": "post_mlp_layernorm"}


def _write_hf(folder: Path, w: dict[str, torch.Tensor], vocab: int, max_positions: int) -> None:
    config = _config(vocab, max_positions) | {
        "architectures": ["JinaEmbeddingsV3Model"],
        "model_type": "jina_embeddings_v3",
        "rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"},
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "matryoshka_dimensions": list(DIMS),
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        "embeddings.word_embeddings.weight": w["word"],
        "embeddings.token_type_embeddings.weight": w["type"],
        "embeddings.LayerNorm.weight": w["norm.weight"],
        "embeddings.LayerNorm.bias": w["norm.bias"],
    }
    for i in range(LAYERS):
        for ours, theirs in HF_MODULES.items():
            tensors[f"layers.{i}.{theirs}.weight"] = w[f"{i}.{ours}"]
            tensors[f"layers.{i}.{theirs}.bias"] = w[f"{i}.{ours}.bias"]
        for ours, theirs in HF_NORMS.items():
            for part in ("weight", "bias"):
                tensors[f"layers.{i}.{theirs}.{part}"] = w[f"{i}.{ours}.{part}"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for task in TASKS:
        write_peft(folder / task.replace(".", "_").replace("-", "_"), w, task)


def write_peft(folder: Path, w: dict[str, torch.Tensor], task: str) -> None:
    """Write one task's LoRA as PEFT does."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [
            "word_embeddings",
            "token_type_embeddings",
            *sorted(name.split(".")[1] for name in HF_MODULES.values()),
        ],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    prefix = "base_model.model"
    tensors = {}
    for ours, theirs in (("word", "word_embeddings"), ("type", "token_type_embeddings")):
        stem = f"{prefix}.embeddings.{theirs}"
        tensors[f"{stem}.lora_embedding_A"] = w[f"{ours}.A.{task}"].T.contiguous()
        tensors[f"{stem}.lora_embedding_B"] = w[f"{ours}.B.{task}"].T.contiguous()
    for i in range(LAYERS):
        for ours, theirs in HF_MODULES.items():
            stem = f"{prefix}.layers.{i}.{theirs}"
            tensors[f"{stem}.lora_A.weight"] = w[f"{i}.{ours}.A.{task}"].clone()
            tensors[f"{stem}.lora_B.weight"] = w[f"{i}.{ours}.B.{task}"]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
