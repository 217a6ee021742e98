"""Loading vectors by binary COPY, beside what vector stores' own inserts take."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.postgres.encoder import DIM, InstantEncoder, hashed
from benchmarks.progress import say
from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.adapters.pgvector import copy_rows
from taskvec.core.embedder import Array


@dataclass(frozen=True)
class Passages:
    """What is loaded: ids, texts, and vectors (B, DIM) as an array and as lists."""

    ids: list[str]
    texts: list[str]
    vectors: Array
    lists: list[list[float]]


@dataclass
class Store:
    """A peer. load: its own insert. rows: the same as rows of its table's `columns`."""

    table: str
    columns: tuple[str, ...]
    load: Callable[[], object]
    rows: Callable[[], Iterable[Sequence[object]]]
    close: Callable[[], object]


@dataclass
class Loaded:
    """Seconds of a peer's insert and of COPY into its table, repeat by repeat."""

    peer: str
    rows: int
    failure: str = ""
    theirs: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)


def measure(dsn: str, rows: int, repeats: int) -> list[Loaded]:
    """Both ways into each peer's own table, in turn; a first round does not count."""
    passages = _passages(rows)
    return [_measure(dsn, peer, opened, passages, repeats) for peer, opened in PEERS.items()]


def _measure(dsn: str, peer: str, opened: "Opener", passages: Passages, repeats: int) -> Loaded:
    loaded = Loaded(peer, len(passages.ids))
    say(f"loading: {loaded.rows} rows, {peer}")
    try:
        store = opened(dsn, passages)
    except ImportError as error:
        loaded.failure = f"not installed: {error}"
        return loaded
    with psycopg.connect(dsn, autocommit=True) as conn:
        for turn in range(repeats + 1):
            theirs = _timed(conn, store, store.load)
            copied = _timed(conn, store, partial(_copy, conn, store))
            loaded.theirs += [theirs] if turn else []
            loaded.copied += [copied] if turn else []
    store.close()
    return loaded


def _timed(conn: psycopg.Connection[Any], store: Store, load: Callable[[], object]) -> float:
    """Seconds of a load into the emptied table. Raises RuntimeError where rows are missing."""
    table = sql.Identifier(store.table)
    conn.execute(sql.SQL("TRUNCATE {}").format(table))
    conn.execute("CHECKPOINT")
    start = time.perf_counter()
    load()
    seconds = time.perf_counter() - start
    if conn.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(table)).rowcount != 1:
        raise RuntimeError(f"nothing was loaded into {store.table}")
    return seconds


def _copy(conn: psycopg.Connection[Any], store: Store) -> None:
    copy_rows(conn, sql.Identifier(store.table), store.rows(), columns=store.columns)


def _passages(rows: int) -> Passages:
    texts = [f"a passage of some words, number {i}. " * 10 for i in range(rows)]
    vectors = hashed(texts, DIM)
    return Passages([str(uuid.uuid4()) for _ in texts], texts, vectors, vectors.tolist())


def _langchain(dsn: str, passages: Passages) -> Store:
    """langchain-postgres' PGVectorStore, through psycopg."""
    from langchain_postgres import PGEngine, PGVectorStore  # noqa: PLC0415

    engine = PGEngine.from_connection_string(dsn.replace("postgresql://", "postgresql+psycopg://"))
    engine.init_vectorstore_table("langchain_passages", DIM)
    embeddings = TaskvecEmbeddings(embedder=InstantEncoder())
    store = PGVectorStore.create_sync(engine, embeddings, "langchain_passages")
    metadata = [{"number": i} for i in range(len(passages.ids))]

    def load() -> None:
        store.add_embeddings(passages.texts, passages.lists, metadata, passages.ids)

    def rows() -> Iterable[Sequence[object]]:
        ids = map(uuid.UUID, passages.ids)
        notes = map(json.dumps, metadata)
        return zip(ids, passages.texts, passages.vectors, notes, strict=True)

    columns = ("langchain_id", "content", "embedding", "langchain_metadata")
    return Store("langchain_passages", columns, load, rows, partial(_close_engine, engine))


def _close_engine(engine: Any) -> None:
    engine._run_as_sync(engine.close())


def _llama_index(dsn: str, passages: Passages) -> Store:
    """llama-index-vector-stores-postgres' PGVectorStore, through psycopg2."""
    from llama_index.core.schema import TextNode  # noqa: PLC0415
    from llama_index.core.vector_stores.utils import node_to_metadata_dict  # noqa: PLC0415
    from llama_index.vector_stores.postgres import PGVectorStore  # noqa: PLC0415

    store = PGVectorStore.from_params(
        connection_string=dsn.replace("postgresql://", "postgresql+psycopg2://"),
        async_connection_string=dsn.replace("postgresql://", "postgresql+psycopg://"),
        table_name="llama_passages",
        embed_dim=DIM,
    )
    made = zip(passages.ids, passages.texts, passages.lists, strict=True)
    nodes = [
        TextNode(id_=id_, text=text, embedding=vector, metadata={"number": i})
        for i, (id_, text, vector) in enumerate(made)
    ]
    store.add(nodes[:1])  # makes the table

    def rows() -> Iterable[Sequence[object]]:
        for node, vector in zip(nodes, passages.vectors, strict=True):
            notes = json.dumps(node_to_metadata_dict(node, remove_text=True, flat_metadata=False))
            yield node.node_id, node.text, vector, notes

    columns = ("node_id", "text", "embedding", "metadata_")
    return Store("data_llama_passages", columns, partial(store.add, nodes), rows, lambda: None)


Opener = Callable[[str, Passages], Store]
PEERS: dict[str, Opener] = {
    "langchain-postgres, `add_embeddings`": _langchain,
    "llama-index-vector-stores-postgres, `add`": _llama_index,
}
