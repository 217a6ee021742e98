"""A taskvec model for the `mteb` package: each kind of its tasks, and side, gets its LoRA."""

from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from taskvec.core import Embedder
from taskvec.core.embedder import Array

# As the owner of jina-embeddings-v3 states them in mteb's own list of models.
SEARCHES = ("Retrieval", "InstructionRetrieval")
TASKS = {
    "Reranking": "separation",
    "Clustering": "separation",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "PairClassification": "classification",
    "STS": "text-matching",
    "Summarization": "text-matching",
    "BitextMining": "text-matching",
}


def task_for(kind: str, side: str | None) -> str | None:
    """The model's task for mteb's kind of task and the side of a search that a text is on.

    None, the base weights, for a kind that the model was not trained for.
    """
    if kind in SEARCHES:
        return "retrieval.query" if side == "query" else "retrieval.passage"
    return TASKS.get(kind)


class MtebEncoder(AbsEncoder):
    """What `mteb.evaluate` takes: an embedder behind mteb's encoder protocol.

    name: as mteb's results call it, "owner/model". dim: a Matryoshka dim, or the full one.
    """

    mteb_model_meta: ModelMeta

    def __init__(self, embedder: Embedder, *, name: str, dim: int | None = None) -> None:
        self.model = embedder
        self.dim = dim
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name,
                "max_tokens": embedder.max_tokens,
                "embed_dim": dim or embedder.dim,
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch"],
                "revision": embedder.fingerprint(task=None, dim=dim),
            }
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,  # noqa: ARG002
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,
        **options: Any,
    ) -> Array:
        """Vectors (B, dim) of all texts of a loader of batches, under their kind's LoRA."""
        texts = [text for batch in inputs for text in batch["text"]]
        if not texts:
            return np.zeros((0, self.dim or self.model.dim), dtype=np.float32)
        vectors: Array = self.model.encode(
            texts,
            task=task_for(task_metadata.type, prompt_type),
            dim=self.dim,
            show_progress=bool(options.get("show_progress_bar")),
        )
        return vectors
