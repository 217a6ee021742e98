"""Texts straight into Qdrant's calls, with a small vector for speed and a large one for ranking.

Needs taskvec[qdrant]. Run: python examples/qdrant_documents.py
"""

from qdrant_client import QdrantClient, models

from taskvec.adapters.qdrant import enable_inference
from taskvec.core import shared_encoder

PASSAGES = {
    "json": "Deserialize a str, bytes or bytearray instance containing a JSON document.",
    "gzip": "Open a gzip-compressed file in binary or text mode.",
    "heapq": "Pop the smallest item off the heap, maintaining the heap invariant.",
    "socket": "Connect to a remote address and return the socket object.",
}
QUESTION = "How do I read compressed data?"
SMALL = 32


def document(text: str, dim: int) -> models.Document:
    """A text whose task follows from the call that it is used in."""
    return models.Document(text=text, model="taskvec/starter", options={"dim": dim})


def main() -> None:
    client = QdrantClient(":memory:")
    enable_inference(client)

    full = shared_encoder("starter").dim
    sizes = {"small": SMALL, "full": full}
    client.create_collection(
        "docs",
        vectors_config={
            name: models.VectorParams(size=size, distance=models.Distance.COSINE)
            for name, size in sizes.items()
        },
    )
    client.upsert(
        "docs",
        [
            models.PointStruct(
                id=number,
                vector={name: document(text, size) for name, size in sizes.items()},
                payload={"module": module, "text": text},
            )
            for number, (module, text) in enumerate(PASSAGES.items())
        ],
    )

    # The small vectors choose candidates, the full ones rank them.
    found = client.query_points(
        "docs",
        query=document(QUESTION, full),
        using="full",
        prefetch=models.Prefetch(query=document(QUESTION, SMALL), using="small", limit=3),
        limit=2,
    )
    print(QUESTION)
    for point in found.points:
        payload = point.payload or {}
        print(f"  {point.score:.3f}  {payload['module']}: {payload['text']}")


if __name__ == "__main__":
    main()
