"""What the student is shown of its teacher: token by token, through windows and behind a prefix."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, TrainingArguments

from taskvec.integrations.train import transplant
from taskvec.integrations.train.batches import BatchedRows, collate
from taskvec.integrations.train.distillation import Distillation, Lesson, ask, hidden_loss
from taskvec.integrations.train.runs import StopAt

WORDS = 40
KEPT = torch.tensor([0, 1, 2, *range(5, 35)])


@pytest.fixture(scope="module")
def teacher() -> BertModel:
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False)
    model.train(mode=False)
    return model


@pytest.fixture
def lesson() -> Lesson:
    return Lesson(KEPT, prefix=(36, 37), pad=1, window=8)


def row(*tokens: int) -> list[int]:
    return [0, *tokens, 2]


def test_every_token_of_the_student_finds_its_own_in_the_teachers_windows(lesson: Lesson) -> None:
    rows = [row(*range(3, 17)), row(9), row()]
    batch = lesson.inputs(rows)
    asked = batch["teacher_ids"].flatten()[batch["source"]]
    mask = batch["mask"].bool()
    assert torch.equal(asked[mask], KEPT[batch["ids"]][mask])
    # Fourteen tokens in windows of eight, of which two are specials and two the prefix.
    assert batch["owner"].tolist() == [0, 0, 0, 0, 1, 2]
    assert batch["teacher_ids"].shape[1] <= lesson.window
    assert (batch["teacher_ids"][:, 1:3] == torch.tensor([36, 37])).all()
    # The last special is that of the last window.
    last = batch["source"][0, int(mask[0].sum()) - 1]
    assert int(last) // batch["teacher_ids"].shape[1] == 3


def test_a_pooled_vector_is_the_mean_over_all_windows_tokens(
    teacher: BertModel, lesson: Lesson
) -> None:
    batch = lesson.inputs([row(*range(3, 10)), row(4, 5)])
    wanted = ask(teacher, batch, (1, 2))
    hidden = teacher(input_ids=batch["teacher_ids"], attention_mask=batch["teacher_mask"])
    tokens = [
        vector
        for window, owner in enumerate(batch["owner"])
        for vector, there in zip(
            hidden.last_hidden_state[window], batch["teacher_mask"][window], strict=True
        )
        if owner == 0 and there
    ]
    torch.testing.assert_close(wanted.pooled[0], torch.stack(tokens).mean(0))
    torch.testing.assert_close(
        wanted.hidden[2][1, 1], hidden.last_hidden_state.flatten(0, 1)[batch["source"][1, 1]]
    )


def test_padding_does_not_count_in_the_loss() -> None:
    ours, theirs = torch.zeros(1, 3, 4), torch.ones(1, 3, 4)
    mask = torch.tensor([[1, 1, 0]])
    ours[0, 2] = 100.0
    assert hidden_loss(ours, theirs, mask).item() == pytest.approx(1.0)


def test_distillation_brings_the_student_nearer_and_resumes(
    teacher: BertModel, lesson: Lesson, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)

    def some(length: int) -> list[int]:
        return row(*torch.randint(3, 33, (length,), generator=generator).tolist())

    rows = [some(3 + i % 12) for i in range(80)]
    data = BatchedRows(rows, token_budget=128, seed=0)
    centre = torch.full((32,), 0.1)

    def trained(
        steps: int, resume: str | None = None, stop: int = 1000, **more: Any
    ) -> tuple[Tensor, list[float]]:
        student = transplant.new_student(teacher, KEPT, {"bos": 0, "pad": 1, "eos": 2})
        transplant.shift_output(student, -centre)
        arguments = TrainingArguments(
            str(tmp_path / "run"),
            per_device_train_batch_size=1,
            max_steps=steps,
            learning_rate=3e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
            dataloader_pin_memory=False,
            seed=0,
            **more,
        )
        trainer = Distillation(
            student,
            teacher,
            lesson,
            centre,
            layers=(1, 2),
            dims=(8, 32),
            args=arguments,
            train_dataset=data,
            callbacks=[StopAt(stop)],
        )
        trainer.train(resume_from_checkpoint=resume)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return student.get_parameter("layers.0.mlp.fc1.weight").detach(), [
            float(loss) for loss in losses
        ]

    whole, losses = trained(60, save_steps=30)
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
    resumed, _ = trained(60, resume=str(tmp_path / "run" / "checkpoint-30"), save_strategy="no")
    torch.testing.assert_close(resumed, whole, atol=1e-5, rtol=1e-4)
    _, stopped = trained(60, stop=7, save_strategy="no")
    assert stopped == pytest.approx(losses[:7], abs=1e-4)


def test_batches_hold_every_row_once_within_the_budget() -> None:
    rows = [row(*range(3, 3 + length)) for length in (1, 20, 2, 9, 3, 9, 1, 30)]
    data = BatchedRows(rows, token_budget=40, seed=0)
    groups = [data[i] for i in range(len(data))]
    assert sorted(map(tuple, (r for group in groups for r in group))) == sorted(map(tuple, rows))
    for group in groups:
        assert len(group) == 1 or collate(group, pad=1).ids.numel() <= 40
