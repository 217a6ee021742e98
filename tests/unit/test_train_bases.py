"""What a run starts from and how it runs: batches in parts of like length, and dropout."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn

from taskvec.core import Encoder
from taskvec.integrations.train import bases, modules, pretrain
from taskvec.integrations.train.settings import PretrainSettings
from tests.checkpoints import WORDS

TEXTS = [" ".join(WORDS[:count]) for count in (9, 1, 4, 12, 2, 7, 3)]


@pytest.fixture
def start(checkpoint: Path, tmp_path: Path) -> Path:
    with Encoder.load(checkpoint, dtype="float32") as encoder:
        encoder.save(tmp_path / "hf", layout="hf")
    return tmp_path / "hf"


def answers(model: SentenceTransformer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Pooled vectors, and what their squares' sum asks of the tokens' embeddings."""
    vectors = model(dict(model.preprocess(texts)))["sentence_embedding"]
    vectors.square().sum().backward()
    found = [value.grad for name, value in model.named_parameters() if "word_embeddings" in name]
    (gradient,) = found
    assert gradient is not None
    return vectors.detach(), gradient


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_batch_in_parts_has_the_vectors_and_gradients_of_a_whole_one(
    start: Path, count: int
) -> None:
    whole, parts = (
        modules.sentence_model(modules.sentence_module(start, 16, None, kind))
        for kind in (Transformer, modules.PartsTransformer)
    )
    for ours, theirs in zip(
        answers(parts, TEXTS[:count]), answers(whole, TEXTS[:count]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_batch_in_parts_runs_little_padding(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = modules.sentence_module(start, 16, None, modules.PartsTransformer)
    model, ran = modules.sentence_model(module), []
    run = type(module.model).forward

    def noting(own: nn.Module, *given: object, **named: Tensor) -> object:
        ran.append(named["input_ids"].numel())
        return run(own, *given, **named)

    monkeypatch.setattr(type(module.model), "forward", noting)
    features = model.preprocess(TEXTS)
    model(dict(features))
    real = int(features["attention_mask"].sum())
    assert real <= sum(ran) < 0.8 * features["input_ids"].numel()


def test_dropout_is_that_of_the_run_and_not_the_models(start: Path) -> None:
    def shares(module: nn.Module) -> set[float]:
        return {part.p for part in module.modules() if isinstance(part, nn.Dropout)}

    assert bases.JinaEmbeddingsV3Config.from_pretrained(start).hidden_dropout_prob > 0
    assert shares(bases.load_body(start)) == {0.0}
    assert shares(bases.load_body(start, 0.2)) == {0.2}
    for share in (0.0, 0.2):
        module = modules.sentence_module(start, 16, None, modules.PartsTransformer, share)
        assert shares(module) == {share}
        assert module.model.config.attention_probs_dropout_prob == share
    config = bases.config_for(start, None, 0.2)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.2


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_pretraining_has_the_dropout_that_it_is_told(start: Path, share: float) -> None:
    settings = PretrainSettings(data=start, out=start, dropout=share)
    parts = pretrain._model(start, settings).modules()
    assert {part.p for part in parts if isinstance(part, nn.Dropout)} == {share}
