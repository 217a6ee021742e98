"""transformers' own model, with PEFT's LoRAs live or with each merged into a copy of its own."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import JinaEmbeddingsV3Model

from benchmarks.models import FOLDERS, Size
from benchmarks.peers import Setting, Spec, Vectors
from benchmarks.peers.merging import merged_folder
from benchmarks.peers.padding import Batch, Batcher
from benchmarks.peers.torch_memory import peak_memory


class Padded:
    """What both have in common: padded batches, sorted by length, mean pooling."""

    def __init__(self, spec: Spec, size: Size) -> None:
        torch.set_num_threads(spec.threads)
        self._spec, self._hidden = spec, size.hidden
        self._batcher = Batcher(spec.folder)

    def encode(self, texts: list[str], tasks: list[str], setting: Setting) -> Vectors:
        """(B, D) unit vectors."""
        out = torch.empty(len(texts), self._hidden)
        with torch.inference_mode():
            for batch in self._batcher.batches(texts, tasks, setting.batch):
                out[batch.rows] = self._vectors(batch).cpu()
        array: Vectors = out.numpy()
        return array

    def facts(self) -> dict[str, Any]:
        """Peak memory."""
        return peak_memory(self._spec.device)

    def model(self, task: str) -> Callable[..., Any]:
        """The model that serves a task."""
        raise NotImplementedError

    def _vectors(self, batch: Batch) -> Tensor:
        ids, mask = (torch.from_numpy(x).to(self._spec.device) for x in (batch.ids, batch.mask))
        # A batch without padding takes the kernels' fast way.
        given = None if bool(batch.mask.all()) else mask
        hidden = self.model(batch.task)(input_ids=ids, attention_mask=given).last_hidden_state
        pooled = (hidden.float() * mask[..., None]).sum(1)
        return torch.nn.functional.normalize(pooled)


class WithPeft(Padded):
    """One model with every task's LoRA, switched between groups of texts."""

    def __init__(self, spec: Spec, size: Size) -> None:
        super().__init__(spec, size)
        first, *others = FOLDERS.values()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT remarks on every further adapter
            self._model = PeftModel.from_pretrained(load(spec), spec.folder / first, first)
            for name in others:
                self._model.load_adapter(spec.folder / name, name)
        self._model.eval()
        self._active = first

    def model(self, task: str) -> Callable[..., Any]:
        """The model, switched to a task."""
        name = FOLDERS[task]
        if name != self._active:
            self._model.set_adapter(name)
            self._active = name
        return self._model


class Merged(Padded):
    """A copy of the model per task, made when the task first occurs."""

    def __init__(self, spec: Spec, size: Size) -> None:
        super().__init__(spec, size)
        self._load = functools.cache(lambda task: load(spec, merged_folder(spec, task)))

    def model(self, task: str) -> Callable[..., Any]:
        """A task's own copy."""
        return self._load(task)


def load(spec: Spec, folder: object = None) -> JinaEmbeddingsV3Model:
    """The model of a folder, without LoRAs."""
    model = JinaEmbeddingsV3Model.from_pretrained(
        str(folder or spec.folder), add_pooling_layer=False, dtype=getattr(torch, spec.dtype)
    )
    return model.eval().to(spec.device)  # type: ignore[no-any-return]
