"""sentence-transformers' module and trainer, as the runs of pairs and of LoRAs have them."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor
from torch.nn import functional

from taskvec.integrations.train import bases

T = TypeVar("T", bound=Transformer)
WEIGHTS = "trained.safetensors"
# How many parts of like length a batch runs in.
PARTS = 4


def sentence_module(
    folder: Path,
    max_tokens: int,
    rope_base: float | None,
    kind: type[T],
    dropout: float = 0.0,
) -> T:
    """sentence-transformers' module of a folder's base weights, in float32, trainable."""
    rope = bases.config_for(folder, rope_base).rope_parameters
    module: T = kind(
        str(folder),
        max_seq_length=max_tokens,
        model_kwargs={"add_pooling_layer": False, "dtype": torch.float32},
        config_kwargs={"rope_parameters": rope, **bases.dropouts(dropout)},
    )
    return module


class PartsTransformer(Transformer):
    """sentence-transformers' module, which runs a batch in parts of like length: less is padding.

    Texts are padded on the right.
    """

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Token vectors of a batch, (B, T, D); those of padding are 0 where a part is shorter."""
        mask = features["attention_mask"]
        order = mask.sum(1).argsort()
        found = [self._part(features, rows, options) for rows in order.chunk(PARTS)]
        features[self.module_output_name] = torch.cat(found)[order.argsort()]
        return features

    def _part(self, features: dict[str, Any], rows: Tensor, options: dict[str, Any]) -> Tensor:
        mask = features["attention_mask"]
        width = int(mask[rows].sum(1).max())
        part = {
            name: value[rows, :width] if _is_like(value, mask) else value
            for name, value in features.items()
        }
        vectors: Tensor = super().forward(part, **options)[self.module_output_name]
        return functional.pad(vectors, (0, 0, 0, mask.shape[1] - width))


def _is_like(value: object, mask: Tensor) -> bool:
    """Whether a feature has something of every token."""
    return isinstance(value, Tensor) and value.shape[:2] == mask.shape


class LeanTrainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer whose checkpoints hold what is trained alone, as safetensors.

    Its own opens a checkpoint as a whole model, whose pooler this one does not have.
    """

    def _trained(self) -> dict[str, Tensor]:
        found = self.model.named_parameters()
        return {name: value for name, value in found if value.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu() for name, value in self._trained().items()}
        save_file(tensors, folder / WEIGHTS)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:  # noqa: ARG002
        tensors = load_file(Path(checkpoint_path) / WEIGHTS)
        with torch.no_grad():
            for name, value in self._trained().items():
                value.copy_(tensors[name])


def sentence_model(module: Transformer) -> SentenceTransformer:
    """The module with mean pooling behind it."""
    pooling = Pooling(module.get_embedding_dimension(), pooling_mode="mean")
    # Without this every run would first encode samples for a model card that nobody writes.
    card = SentenceTransformerModelCardData(generate_widget_examples=False)
    return SentenceTransformer(modules=[module, pooling], model_card_data=card)
