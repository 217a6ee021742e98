"""The student's start, its LoRAs and their losses, on tiny models with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from taskvec.core import Encoder
from taskvec.integrations.train import distil, evaluate, loras, objectives, student
from taskvec.integrations.train.export import convert, write_body
from taskvec.integrations.train.tasks import optimize

# PEFT 0.21 asks transformers for a property that is being renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[unused1]", "a", "b", "##b", "c"]
TEXTS = ["a b", "b c a", "ab", "c"]


def teacher_json() -> str:
    ids = {piece: index for index, piece in enumerate(PIECES)}
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    added = [
        {
            "id": ids[name],
            "content": name,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for name in specials
    ]
    wrap = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": {
                "max_length": 4,
                "strategy": "LongestFirst",
                "stride": 0,
                "direction": "Right",
            },
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": wrap,
                "pair": wrap,
                "special_tokens": {
                    name: {"id": name, "ids": [ids[name]], "tokens": [name]}
                    for name in ("[CLS]", "[SEP]")
                },
            },
            "decoder": None,
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": ids,
            },
        }
    )


@pytest.fixture
def teacher() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=32,
        attn_implementation="eager",
    )
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def model(teacher: BertModel) -> PeftModel:
    tokenizer, kept = student.student_tokenizer(teacher_json())
    return loras.with_loras(student.new_student(teacher, tokenizer, kept))


def test_tokenizer_loses_unused_pieces_and_truncation_only() -> None:
    tokenizer, kept = student.student_tokenizer(teacher_json())
    assert [PIECES[index] for index in kept] == [p for p in PIECES if "unused" not in p]
    encoding = tokenizer.encode("A ab c b")
    assert encoding.tokens == ["[CLS]", "a", "a", "##b", "c", "b", "[SEP]"]
    assert [PIECES[kept[index]] for index in encoding.ids] == encoding.tokens


def test_student_starts_as_the_teacher_where_positions_say_nothing(teacher: BertModel) -> None:
    tokenizer, kept = student.student_tokenizer(teacher_json())
    with torch.no_grad():
        teacher.embeddings.position_embeddings.weight[:] = torch.randn(384) * 0.1
    made = student.new_student(teacher, tokenizer, kept).eval()
    made.rotary_emb.inv_freq.zero_()  # no rotation: both models now ignore where a token stands
    batch = distil.collate([encoding.ids for encoding in tokenizer.encode_batch(TEXTS)])
    with torch.inference_mode():
        wanted = teacher(input_ids=kept[batch.ids], attention_mask=batch.mask).last_hidden_state
        given = made(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    keep = batch.mask.bool()
    torch.testing.assert_close(given[keep], wanted[keep], atol=1e-4, rtol=1e-4)


def test_pooling_does_not_depend_on_padding_or_order(teacher: BertModel) -> None:
    tokenizer, kept = student.student_tokenizer(teacher_json())
    made = student.new_student(teacher, tokenizer, kept).eval()
    with torch.inference_mode():
        together = loras.pooled(made, tokenizer, TEXTS, 16)
        alone = torch.cat([loras.pooled(made, tokenizer, [text], 16) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_training_both_retrieval_loras_leaves_the_others_alone(model: PeftModel) -> None:
    tokenizer, _ = student.student_tokenizer(teacher_json())
    encoder = loras.TaskEncoder(model, tokenizer, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = encoder.train("retrieval.query", "retrieval.passage")

    def step() -> torch.Tensor:
        queries, passages = encoder(TEXTS, "retrieval.query"), encoder(TEXTS, "retrieval.passage")
        return objectives.retrieval_loss(queries, passages, queries.detach(), passages.detach())

    optimize(parameters, step, minutes=0.01, name="test")
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert {name.split(".lora_")[1].split(".")[1] for name in changed} == {
        "retrieval_query",
        "retrieval_passage",
    }


def test_exported_model_gives_the_trained_vectors(model: PeftModel, tmp_path: Path) -> None:
    tokenizer, _ = student.student_tokenizer(teacher_json())
    torch.manual_seed(1)
    for parameter in loras.parameters_of(model, loras.TASKS).values():
        torch.nn.init.normal_(parameter, std=0.2)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    encoder = loras.TaskEncoder(model, tokenizer, 64)
    with torch.inference_mode():
        wanted = {task: encoder(TEXTS, task) for task in (None, *loras.TASKS)}
    loras.save_loras(model, loras.TASKS, tmp_path / "hf")
    write_body(model.unload(), tokenizer, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "jina")
    with Encoder.load(tmp_path / "jina", dtype="float32") as made:
        assert made.tasks == loras.TASKS
        assert made.dims == student.DIMS
        for task, vectors in wanted.items():
            ours = torch.nn.functional.normalize(vectors, dim=-1).numpy()
            np.testing.assert_allclose(made.encode(TEXTS, task=task), ours, atol=1e-4)


def test_query_key_and_value_share_one_a_after_export(model: PeftModel, tmp_path: Path) -> None:
    loras.save_loras(model, ["separation"], tmp_path)
    tensors = load_file(tmp_path / "separation" / "adapter_model.safetensors")
    for layer in range(6):
        stem = f"base_model.model.layers.{layer}.self_attn"
        first = tensors[f"{stem}.q_proj.lora_A.weight"]
        assert torch.equal(first, tensors[f"{stem}.k_proj.lora_A.weight"])
        assert torch.equal(first, tensors[f"{stem}.v_proj.lora_A.weight"])


def test_losses_prefer_the_right_vectors() -> None:
    torch.manual_seed(0)
    vectors, noise = torch.randn(12, 384), torch.randn(12, 384)
    labels = torch.arange(4).repeat_interleave(3)
    grouped = torch.randn(4, 384).repeat_interleave(3, 0) + 0.1 * noise
    assert objectives.separation_loss(grouped, labels) < objectives.separation_loss(vectors, labels)
    assert objectives.classification_loss(grouped, labels) < objectives.classification_loss(
        vectors, labels
    )
    assert objectives.matching_loss(vectors, vectors) < objectives.matching_loss(noise, vectors)
    right = objectives.retrieval_loss(vectors, vectors, vectors, vectors)
    assert right < objectives.retrieval_loss(noise, vectors, vectors, vectors)


def test_recall_counts_ties_against_the_model() -> None:
    assert evaluate.recall(np.eye(20, dtype=np.float32)) == (1.0, 1.0)
    assert evaluate.recall(np.zeros((20, 20), dtype=np.float32)) == (0.0, 0.0)


def test_tokenizer_round_trips_through_its_file(tmp_path: Path) -> None:
    tokenizer, _ = student.student_tokenizer(teacher_json())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode("a ab").ids == tokenizer.encode("a ab").ids
    assert again.truncation is None
    assert again.padding is None
