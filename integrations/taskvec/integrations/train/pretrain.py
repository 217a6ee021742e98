"""Stage 1: masked-language modelling of the RoPE encoder, on short rows and then on long ones."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_model, save_model
from tokenizers import Tokenizer
from transformers import (
    DataCollatorForLanguageModeling,
    JinaEmbeddingsV3ForMaskedLM,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from taskvec.core.config import read_config
from taskvec.core.errors import InputError
from taskvec.integrations.train import bases
from taskvec.integrations.train.batches import BatchedRows, Row
from taskvec.integrations.train.runs import LossPlot, Run, WholeTrainer
from taskvec.integrations.train.settings import Phase, PretrainSettings
from taskvec.integrations.train.tables import Kind, read_rows

MASKS = ("<mask>", "[MASK]")


def pretrain(settings: PretrainSettings) -> Path:
    """Pre-train the model's base weights; a killed run goes on from its last checkpoint.

    Returns the new model's folder, in transformers' layout, without LoRAs. Raises InputError for
    settings, data or a tokenizer that do not fit.
    """
    run = Run(settings)
    files, _ = read_rows(settings.data, [Kind.TEXTS])
    texts = [text for rows in files.values() for text in rows["text"]]
    start = run.open()
    out = settings.out / "model"
    if out.exists():
        return out
    model = _model(start, settings)
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
    encoded = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    collate = DataCollatorForLanguageModeling(
        masking_tokenizer(start), mlm_probability=settings.mask
    )
    for number, phase in enumerate(settings.phases, 1):
        part = f"phase-{number}"
        weights = run.folder / part / "finished.safetensors"
        if weights.exists():
            load_model(model, weights)
            continue
        rows = cut(encoded, phase.max_tokens)
        trainer = WholeTrainer(
            model=model,
            args=_arguments(run, phase, part),
            train_dataset=BatchedRows(rows, settings.token_budget, settings.seed + number),
            # An item of the dataset is a batch of its own.
            data_collator=lambda items: collate([{"input_ids": row} for row in items[0]]),
            callbacks=[LossPlot(run.folder / part)],
        )
        run.train(trainer, part)
        if trainer.is_world_process_zero():
            unfinished = weights.with_suffix(".part")
            save_model(model, str(unfinished))
            unfinished.replace(weights)
    if run.processes.is_main_process:
        bases.write_body(model.roberta, start, out)
    return out


def cut(rows: Sequence[Row], max_tokens: int) -> list[Row]:
    """Rows of token ids in parts of at most max_tokens, each between the row's own specials."""
    parts = []
    for first, *inner, last in rows:
        room = max_tokens - 2
        parts += [[first, *inner[i : i + room], last] for i in range(0, len(inner), room)]
    return parts


def masking_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A model's tokenizer with its mask token, for masking alone.

    Raises InputError where the vocabulary has none.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = read_config(folder)
    mask = next((text for text in MASKS if tokenizer.token_to_id(text) is not None), None)
    if mask is None:
        raise InputError(f"the tokenizer has no mask token, one of {', '.join(MASKS)}")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        mask_token=mask,
        pad_token=tokenizer.id_to_token(config.pad),
        bos_token=tokenizer.id_to_token(config.bos),
        eos_token=tokenizer.id_to_token(config.eos),
    )


def _model(start: Path, settings: PretrainSettings) -> JinaEmbeddingsV3ForMaskedLM:
    config = bases.config_for(start, settings.rope_base, settings.dropout)
    config.tie_word_embeddings = True
    model = JinaEmbeddingsV3ForMaskedLM(config)
    if not settings.fresh:
        model.roberta.load_state_dict(bases.load_body(start).state_dict())
        model.tie_weights()
    return model


def _arguments(run: Run, phase: Phase, part: str) -> TrainingArguments:
    own = {
        "num_train_epochs": phase.epochs,
        "max_steps": phase.steps or -1,
        # What is masked is drawn while a batch is prepared, and is to follow from the seed.
        "dataloader_num_workers": 0,
    }
    # An item of the dataset is a batch.
    return TrainingArguments(**run.arguments(part, per_device_train_batch_size=1, **own))
