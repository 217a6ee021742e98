"""Vectors into a real PostgreSQL by binary COPY, and a search with plain SQL.

The server comes with the package and lives in a temporary folder; with a DSN of your own, leave
out embedded_postgres. Needs taskvec[pgvector,embedded]. Run: python examples/pgvector_copy.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from pgvector.psycopg import register_vector

from taskvec.adapters.pgvector import PgVectors, copy_rows
from taskvec.integrations.embedded import embedded_postgres

PASSAGES = {
    "json": "Deserialize a str, bytes or bytearray instance containing a JSON document.",
    "gzip": "Open a gzip-compressed file in binary or text mode.",
    "heapq": "Pop the smallest item off the heap, maintaining the heap invariant.",
    "socket": "Connect to a remote address and return the socket object.",
}
QUESTION = "How do I read compressed data?"


def main() -> None:
    vectors = PgVectors(dim=64, type="halfvec")
    with (
        TemporaryDirectory() as folder,
        embedded_postgres(Path(folder) / "pg") as dsn,
        psycopg.connect(dsn) as conn,
    ):
        register_vector(conn)  # so that psycopg can write the query's value
        conn.execute("CREATE TABLE docs (module text, passage text, embedding halfvec(64))")

        texts = list(PASSAGES.values())
        copy_rows(conn, "docs", zip(PASSAGES, texts, vectors.passages(texts), strict=True))
        conn.execute("CREATE INDEX ON docs USING hnsw (embedding halfvec_cosine_ops)")

        found = conn.execute(
            "SELECT 1 - (embedding <=> %(question)s), module, passage FROM docs"
            " ORDER BY embedding <=> %(question)s LIMIT 2",
            {"question": vectors.query(QUESTION)},
        )
        print(QUESTION)
        for score, module, passage in found:
            print(f"  {score:.3f}  {module}: {passage}")


if __name__ == "__main__":
    main()
