"""What no adapter takes for a list of texts."""

import asyncio
from typing import Any

import pytest

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.adapters.pgvector import PgVectors
from taskvec.adapters.qdrant import points
from taskvec.core import Encoder
from taskvec.core.errors import InputError


@pytest.mark.parametrize(
    "call",
    [
        lambda encoder: TaskvecEmbeddings(embedder=encoder).embed_documents("abc"),
        lambda encoder: asyncio.run(TaskvecEmbeddings(embedder=encoder).aembed_documents("abc")),
        lambda encoder: PgVectors(embedder=encoder).passages("abc"),
        lambda encoder: asyncio.run(PgVectors(embedder=encoder).apassages("abc")),
        lambda encoder: points("abc", embedder=encoder),
        lambda encoder: TaskvecEmbedding(embedder=encoder).get_text_embedding_batch("abc"),
    ],
)
def test_a_lone_text_is_no_list_of_texts(encoder: Encoder, call: Any) -> None:
    with pytest.raises(InputError, match="texts is str: expected a list of str"):
        call(encoder)
