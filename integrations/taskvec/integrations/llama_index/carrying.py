"""What a splitter's tokenizer needs in another process."""

import pickle
from collections.abc import Callable
from contextlib import suppress

from llama_index.core.node_parser import NodeParser
from llama_index.core.utils import get_tokenizer


class DefaultTokenizer:
    """Unpickled, it has LlamaIndex load its default tokenizer from its own files.

    tiktoken does not know of these: a splitter's tokenizer that is unpickled first is fetched from
    the network. Where that fails, multiprocessing drops the task, and waits for its end for ever.
    """

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _load, ()


def has_tokenizer(splitter: NodeParser) -> bool:
    """Whether a splitter takes one of tiktoken's tokenizers along."""
    return b"tiktoken" in pickle.dumps(splitter)


def _load() -> None:
    with suppress(Exception):  # the splitter says what it lacks
        get_tokenizer()
