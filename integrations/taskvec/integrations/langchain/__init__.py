"""LangChain workflows: late-chunked vectors in any vector store, and caches of both roles."""

from taskvec.adapters.langchain import cached
from taskvec.integrations.langchain.indexing import aindex_documents, index_documents

__all__ = ["aindex_documents", "cached", "index_documents"]
