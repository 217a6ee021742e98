"""transformers with PEFT, as its users would run it: the same weights, padded batches."""

import warnings
from pathlib import Path

import torch
from transformers import JinaEmbeddingsV3Model

from benchmarks.models import tokenizer
from taskvec.core.layout_hf import FOLDERS


class TransformersPeft:
    """One model with every task's LoRA live, switched between groups of texts."""

    def __init__(self, folder: Path, dtype: torch.dtype, *, batch: int) -> None:
        self.batch = batch
        self._tokenizer = tokenizer()
        self._model = JinaEmbeddingsV3Model.from_pretrained(
            folder, add_pooling_layer=False, dtype=dtype
        ).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT remarks on every further adapter
            for name in FOLDERS.values():
                self._model.load_adapter(str(folder / name), adapter_name=name)

    @torch.inference_mode()
    def encode(self, texts: list[str], tasks: list[str]) -> torch.Tensor:
        """(B, D) unit vectors; texts of one task and similar length share a batch."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        out = torch.empty(len(texts), self._model.config.hidden_size)
        for task in dict.fromkeys(tasks):
            self._model.set_adapter(FOLDERS[task])
            own = sorted((i for i, t in enumerate(tasks) if t == task), key=lambda i: len(ids[i]))
            for start in range(0, len(own), self.batch):
                rows = own[start : start + self.batch]
                out[rows] = self._padded([ids[i] for i in rows])
        return out

    def _padded(self, ids: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, ids))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
        mask = (torch.arange(longest) < torch.tensor([len(row) for row in ids])[:, None]).long()
        hidden = self._model(input_ids=padded, attention_mask=mask).last_hidden_state.float()
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(pooled)
