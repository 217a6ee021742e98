"""transformers' own model with PEFT, padded batches and all: what our vectors must equal."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import JinaEmbeddingsV3Model

from tests.checkpoints import PROMPTS, TASKS, tokenizer


class Oracle:
    """JinaEmbeddingsV3Model and one PEFT adapter per task, float32."""

    def __init__(self, folder: Path) -> None:
        self.model = JinaEmbeddingsV3Model.from_pretrained(folder, add_pooling_layer=False).eval()
        with warnings.catch_warnings():
            # PEFT says so of every model with a second adapter, which is the very point here.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            for task in TASKS:
                name = task.replace(".", "_").replace("-", "_")
                self.model.load_adapter(str(folder / name), adapter_name=name)

    def encode(self, texts: list[str], task: str | None) -> npt.NDArray[np.float32]:
        """(B, D) unit vectors of one padded batch under one task."""
        ids = [tokenizer().encode(PROMPTS.get(task or "", "") + text).ids for text in texts]
        longest = max(map(len, ids))
        padded = torch.tensor([row + [1] * (longest - len(row)) for row in ids])
        mask = (torch.arange(longest) < torch.tensor([len(row) for row in ids])[:, None]).long()
        self._switch(task)
        with torch.inference_mode():
            hidden = self.model(input_ids=padded, attention_mask=mask).last_hidden_state
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        unit: npt.NDArray[np.float32] = torch.nn.functional.normalize(pooled).numpy()
        return unit

    def _switch(self, task: str | None) -> None:
        if task is None:
            self.model.disable_adapters()
        else:
            self.model.enable_adapters()
            self.model.set_adapter(task.replace(".", "_").replace("-", "_"))
