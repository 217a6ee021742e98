"""Texts to token ids, without state that threads would share."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from taskvec.core.config import ModelConfig
from taskvec.core.errors import CheckpointError

Ids = npt.NDArray[np.int32]
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Tokens:
    """One text's token ids with specials, and the character that each token stands at.

    ids: (T,) int32. anchors: (T,) int32, ascending; the index of the token's last character in
    prompt + text.
    """

    ids: Ids
    anchors: Ids

    def head(self, prompt: int) -> int:
        """How many tokens BOS and a prompt of `prompt` characters take."""
        return 1 + int(np.searchsorted(self.anchors[1:-1], prompt))


class Tokenizer:
    """The tokenizer.json of a checkpoint. Methods may be called from any thread.

    Truncation and padding are switched off once and never touched again: changing them per call
    is what makes the Rust tokenizer fail with "Already borrowed" between threads.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self._config = config
        self._fast = _load(path)
        self._fast.no_truncation()
        self._fast.no_padding()
        self._check(path, config)

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of whole texts, BOS and EOS included, never truncated."""
        encodings = self._fast.encode_batch_fast([clean(text) for text in texts])
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def tokens(self, text: str) -> Tokens:
        """Token ids of one text together with where each token stands."""
        encoding: Encoding = self._fast.encode(clean(text))
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        anchors = np.maximum(offsets[:, 0], offsets[:, 1] - 1)
        # Specials carry the offsets (0, 0); EOS belongs behind the last character.
        anchors[-1] = max(len(text) - 1, 0)
        return Tokens(np.array(encoding.ids, dtype=np.int32), np.maximum.accumulate(anchors))

    def to_json(self) -> str:
        """The tokenizer as the JSON that it is saved in."""
        text: str = self._fast.to_str()
        return text

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and the tokenizer_config.json that transformers wants beside it."""
        (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
        names = {
            f"{kind}_token": self._fast.id_to_token(getattr(self._config, kind))
            for kind in ("bos", "eos", "pad")
        }
        described = names | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self._config.max_tokens,
        }
        text = json.dumps(described, indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _check(self, path: Path, config: ModelConfig) -> None:
        size = self._fast.get_vocab_size()
        if size > config.vocab:
            raise CheckpointError(
                f"{path} has {size} pieces, but the word embedding only {config.vocab} rows"
            )
        specials = self._fast.encode("").ids
        if specials != [config.bos, config.eos]:
            raise CheckpointError(
                f"{path} wraps a text in {specials}, but config.json names "
                f"bos {config.bos} and eos {config.eos}"
            )


def _load(path: Path) -> FastTokenizer:
    if not path.exists():
        raise CheckpointError(f"{path} is missing")
    try:
        return FastTokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise CheckpointError(f"{path} is not a tokenizer: {error}") from error


def clean(text: str) -> str:
    """Lone surrogates, which UTF-8 cannot hold, become U+FFFD: one character for one."""
    return LONE_SURROGATE.sub("\ufffd", text)
