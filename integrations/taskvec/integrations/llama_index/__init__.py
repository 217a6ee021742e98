"""LlamaIndex workflows: nodes with late-chunked vectors, in any pipeline, index or store."""

from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.integrations.llama_index.parsing import LateChunkingNodeParser

__all__ = ["LateChunkingNodeParser", "TaskvecEmbedding"]
