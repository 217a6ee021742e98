"""A stage of the body: its first dims learn to rank as all of them do.

Its rotary positions are those that are served.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from taskvec.integrations.train.bases import TOKENIZER_FILES, load_body, soften, write_body
from taskvec.integrations.train.prefixes import DrawnTexts, PrefixTrainer
from taskvec.integrations.train.recipe.body import DROPOUT, arguments
from taskvec.integrations.train.runs import LossPlot, last_checkpoint

STEPS = 700
PAIRS = 32
FIRST_LAYER = 8
STRENGTH = 0.8
MAX_TOKENS = 96
MEMORY = 32
# The smaller a prefix is, the more it has to learn, and the more that costs all dims.
WEIGHTS = {32: 1.0, 64: 2.0, 128: 1.0, 256: 0.5}
SCHEDULE: Mapping[str, Any] = {
    "learning_rate": 2e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 30,
}


def teach_prefixes(start: Path, pairs: Sequence[Path], folder: Path, seed: int) -> Path:
    """Train the last layers of a body without LoRAs, unless that is done; returns its folder.

    start: the body, in transformers' layout. pairs: files of rows. folder: of the run and its
    model; a killed run goes on from its last checkpoint.
    """
    out, run = folder / "model", folder / "run"
    if out.exists():
        return out
    body = load_body(start, DROPOUT)
    trainer = PrefixTrainer(
        body,
        Tokenizer.from_file(str(start / TOKENIZER_FILES[0])),
        first=FIRST_LAYER,
        weights=WEIGHTS,
        max_tokens=MAX_TOKENS,
        memory=MEMORY,
        args=arguments(run, seed, max_steps=STEPS, **SCHEDULE),
        train_dataset=DrawnTexts(pairs, STEPS, PAIRS, seed),
        callbacks=[LossPlot(run)],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(run))
    soften(body, start, STRENGTH)
    write_body(body, start, out)
    return out
