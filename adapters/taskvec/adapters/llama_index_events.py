"""What LlamaIndex is told while texts are embedded: spans, events and callbacks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.embedding import (
    EmbeddingEndEvent,
    EmbeddingStartEvent,
)
from llama_index_instrumentation import get_dispatcher

Returned = TypeVar("Returned")

dispatcher = get_dispatcher(__name__)


def without_span(method: Callable[..., Returned]) -> Callable[..., Returned]:
    """A base class's method without the span that LlamaIndex puts around it.

    It puts one around an override, too, so that every call would be told of twice.
    """
    plain: Callable[..., Returned] = getattr(method, "__wrapped__", method)
    return plain


@contextmanager
def announced(
    model: dict[str, Any], callbacks: CallbackManager
) -> Iterator[Callable[[list[str], list[list[float]]], None]]:
    """Tell of an embedding as LlamaIndex's own methods do.

    model: what is told of the embedding model. Yields what is to be called at the end, with the
    texts and their vectors.
    """
    dispatcher.event(EmbeddingStartEvent(model_dict=model))
    with callbacks.event(CBEventType.EMBEDDING, {EventPayload.SERIALIZED: model}) as event:

        def done(texts: list[str], vectors: list[list[float]]) -> None:
            event.on_end({EventPayload.CHUNKS: texts, EventPayload.EMBEDDINGS: vectors})
            dispatcher.event(EmbeddingEndEvent(chunks=texts, embeddings=vectors))

        yield done
