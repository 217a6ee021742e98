"""sentence-transformers with the LoRA merged: what most people run. It sorts by length itself."""

import functools
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from benchmarks.models import Size
from benchmarks.peers import Setting, Spec, Vectors
from benchmarks.peers.merging import merged_folder
from benchmarks.peers.padding import Batcher
from benchmarks.peers.torch_memory import peak_memory


class Merged:
    """A copy of the model per task, made when the task first occurs."""

    def __init__(self, spec: Spec, size: Size) -> None:
        torch.set_num_threads(spec.threads)
        self._spec, self._hidden = spec, size.hidden
        self._batcher = Batcher(spec.folder)
        self._model = functools.cache(self._load)

    def encode(self, texts: list[str], tasks: list[str], setting: Setting) -> Vectors:
        """(B, D) unit vectors."""
        out = torch.empty(len(texts), self._hidden)
        prompted = self._batcher.prompted(texts, tasks)
        for task in dict.fromkeys(tasks):
            rows = [i for i, other in enumerate(tasks) if other == task]
            vectors = self._model(task).encode(
                [prompted[i] for i in rows], batch_size=setting.batch, convert_to_tensor=True
            )
            out[rows] = vectors.float().cpu()
        array: Vectors = out.numpy()
        return array

    def facts(self) -> dict[str, Any]:
        """Peak memory."""
        return peak_memory(self._spec.device)

    def _load(self, task: str) -> SentenceTransformer:
        folder = str(merged_folder(self._spec, task))
        dtype = getattr(torch, self._spec.dtype)
        transformer = Transformer(folder, model_kwargs={"dtype": dtype, "add_pooling_layer": False})
        pooling = Pooling(self._hidden, pooling_mode="mean")
        return SentenceTransformer(
            modules=[transformer, pooling, Normalize()], device=self._spec.device
        )
