"""Search through LangChain, on Qdrant's local mode, with vectors kept in a cache.

Needs taskvec[langchain,qdrant] and langchain-qdrant. Run: python examples/langchain_search.py
"""

from tempfile import TemporaryDirectory

from langchain_classic.storage import LocalFileStore
from langchain_core.documents import Document
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from taskvec.adapters.langchain import TaskvecEmbeddings, cached

PASSAGES = {
    "json": "Deserialize a str, bytes or bytearray instance containing a JSON document.",
    "gzip": "Open a gzip-compressed file in binary or text mode.",
    "heapq": "Pop the smallest item off the heap, maintaining the heap invariant.",
    "socket": "Connect to a remote address and return the socket object.",
}
QUESTION = "How do I read compressed data?"


def main() -> None:
    with TemporaryDirectory() as folder:
        plain = TaskvecEmbeddings(dim=64)
        embeddings = cached(plain, LocalFileStore(folder))  # one store, both roles, no mix-up

        client = QdrantClient(":memory:")
        params = models.VectorParams(size=64, distance=models.Distance.COSINE)
        client.create_collection("docs", vectors_config=params)
        store = QdrantVectorStore(client, "docs", embedding=embeddings)

        # add_documents gives each text the passage task, the search gives its text the query task.
        store.add_documents(
            [Document(text, metadata={"module": name}) for name, text in PASSAGES.items()]
        )
        print(QUESTION)
        for document, score in store.similarity_search_with_score(QUESTION, k=2):
            print(f"  {score:.3f}  {document.metadata['module']}: {document.page_content}")


if __name__ == "__main__":
    main()
