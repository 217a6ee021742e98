"""A student of jina-embeddings-v3's architecture, started from a BERT teacher's own layers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import BertModel, JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

MAX_TOKENS = 8192
# Trained at this base and served at a higher one: arXiv:2409.10173, section 4.
ROPE_BASE = 10_000.0
RENAMES = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj",
    "attention.output.LayerNorm": "post_attention_layernorm",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "post_mlp_layernorm",
}


def fold_embeddings(teacher: BertModel, kept: Tensor, bos: int) -> Tensor:
    """Word rows that stand for word + token type 0 + position, (V, D).

    kept: the teacher's id of each of the student's. The position is the mean over the teacher's
    positions; the first token, `bos`, stands at position 0 always.
    """
    tables = teacher.embeddings
    positions = tables.position_embeddings.weight
    rows = tables.word_embeddings.weight[kept] + tables.token_type_embeddings.weight[0]
    folded = rows + positions.mean(0)
    folded[bos] = rows[bos] + positions[0]
    return folded.detach()


def new_student(
    teacher: BertModel, kept: Tensor, specials: Mapping[str, int], rope_base: float = ROPE_BASE
) -> JinaEmbeddingsV3Model:
    """A student with the teacher's layers, RoPE in place of positions and a zero token type.

    kept: the teacher's id of each of the student's, (V,) int64. specials: the student's ids of
    `pad`, `bos` and `eos`. Source: arXiv:2409.10173, section 3 for the architecture.
    """
    source = teacher.config
    config = JinaEmbeddingsV3Config(
        vocab_size=len(kept),
        hidden_size=source.hidden_size,
        num_hidden_layers=source.num_hidden_layers,
        num_attention_heads=source.num_attention_heads,
        intermediate_size=source.intermediate_size,
        layer_norm_eps=source.layer_norm_eps,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=MAX_TOKENS + 2,
        rope_parameters={"rope_type": "default", "rope_theta": rope_base},
        pad_token_id=specials["pad"],
        bos_token_id=specials["bos"],
        eos_token_id=specials["eos"],
    )
    student = JinaEmbeddingsV3Model(config, add_pooling_layer=False)
    weights = layer_weights(teacher)
    weights["embeddings.word_embeddings.weight"] = fold_embeddings(teacher, kept, specials["bos"])
    weights["embeddings.token_type_embeddings.weight"] = torch.zeros(1, source.hidden_size)
    student.load_state_dict(weights)
    return student


def layer_weights(teacher: BertModel) -> dict[str, Tensor]:
    """A BERT model's embedding norm and layers, under the student's names."""
    weights = {f"embeddings.LayerNorm.{k}": v for k, v in _own(teacher.embeddings.LayerNorm)}
    for index, layer in enumerate(teacher.encoder.layer):
        for old, new in RENAMES.items():
            for name, value in _own(layer.get_submodule(old)):
                weights[f"layers.{index}.{new}.{name}"] = value
    return weights


def _own(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, value.detach()) for name, value in module.named_parameters()]


def shift_output(student: JinaEmbeddingsV3Model, shift: Tensor) -> None:
    """Add a vector (D,) to every token's last hidden state, through the last norm's bias."""
    last = student.config.num_hidden_layers - 1
    with torch.no_grad():
        student.get_parameter(f"layers.{last}.post_mlp_layernorm.bias").add_(shift)


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are not padding. hidden (B, T, D), mask (B, T): (B, D) float32."""
    weight = mask.unsqueeze(-1).float()
    return (hidden.float() * weight).sum(1) / weight.sum(1)
