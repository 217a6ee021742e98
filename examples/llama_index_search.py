"""Search through LlamaIndex: an ingestion pipeline with a cache, then an index and a retriever.

Needs taskvec[llama-index]. Run: python examples/llama_index_search.py
"""

from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TextNode

from taskvec.adapters.llama_index import TaskvecEmbedding

PASSAGES = {
    "json": "Deserialize a str, bytes or bytearray instance containing a JSON document.",
    "gzip": "Open a gzip-compressed file in binary or text mode.",
    "heapq": "Pop the smallest item off the heap, maintaining the heap invariant.",
    "socket": "Connect to a remote address and return the socket object.",
}
QUESTION = "How do I read compressed data?"


def main() -> None:
    embedding = TaskvecEmbedding(dim=64)
    pipeline = IngestionPipeline(transformations=[embedding], cache=IngestionCache())
    nodes = [
        TextNode(text=text, metadata={"module": name}, excluded_embed_metadata_keys=["module"])
        for name, text in PASSAGES.items()
    ]
    # The pipeline's texts get the passage task, the retriever's question gets the query task.
    index = VectorStoreIndex(list(pipeline.run(nodes=nodes)), embed_model=embedding)
    print(QUESTION)
    for hit in index.as_retriever(similarity_top_k=2).retrieve(QUESTION):
        print(f"  {hit.score:.3f}  {hit.metadata['module']}: {hit.text}")


if __name__ == "__main__":
    main()
