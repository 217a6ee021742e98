"""The integrations and the command line's stores, as the conformance suite sees them."""

import io
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import psycopg
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import CharacterTextSplitter
from llama_index.core import Document as LlamaDocument
from llama_index.core import VectorStoreIndex
from llama_index.core.node_parser import LangchainNodeParser
from llama_index.core.schema import TextNode
from pgvector.psycopg import register_vector
from psycopg import sql
from qdrant_client import QdrantClient, models

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.core import Embedder, shared_encoder
from taskvec.core.embedder import Span
from taskvec.integrations.cli.parser import run_command_line
from taskvec.integrations.cli.stores.base import PASSAGE_TASK, QUERY_TASK, About, Chunk
from taskvec.integrations.cli.stores.opening import open_store
from taskvec.integrations.langchain import index_documents
from taskvec.integrations.llama_index import LateChunkingNodeParser
from taskvec.integrations.postgres import Worker, attach, search
from taskvec.integrations.qdrant import Document as QdrantDocument
from taskvec.integrations.qdrant import TaskvecCollection
from tests.conformance.adapter import AXES, FULL, Chunked, Kept, Place
from tests.conformance.adapters import embedding_of

PARAGRAPHS = CharacterTextSplitter(separator="\n\n", chunk_size=8, chunk_overlap=0)


class LangChainIndexed(Chunked):
    """`index_documents` into a store, and its search."""

    refuses = frozenset({"blank"})  # which no chunk is made of

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        self.embeddings = TaskvecEmbeddings(**options)
        dim = options.get("dim", FULL)
        self.axes = InMemoryVectorStore(self.embeddings)
        for i, axis in enumerate(AXES[:dim, :dim].tolist()):
            row = {"id": str(i), "vector": axis, "text": str(i), "metadata": {}}
            self.axes.store[str(i)] = row

    def query(self, text: str) -> Any:
        found = self.axes.similarity_search_with_score(text, k=FULL)
        return [score for _, score in sorted(found, key=lambda hit: int(hit[0].page_content))]

    def passages(self, texts: list[str]) -> Any:
        return [row["vector"] for row in self.rows(texts)]

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        rows = self.rows([document])
        places = [row["metadata"] for row in rows]
        spans = [(place["start_index"], place["end_index"]) for place in places]
        return spans, [row["vector"] for row in rows]

    def rows(self, texts: list[str]) -> list[dict[str, Any]]:
        store = InMemoryVectorStore(self.embeddings)
        documents = [Document(text, metadata={"source": f"{i:03}"}) for i, text in enumerate(texts)]
        index_documents(store, documents, splitter=PARAGRAPHS)
        rows = store.store.values()
        return sorted(
            rows, key=lambda row: (row["metadata"]["source"], row["metadata"]["start_index"])
        )


class LlamaIndexParsed(Chunked):
    """`LateChunkingNodeParser`, and the retriever of an index."""

    refuses = frozenset({"blank", "surrogate"})  # LlamaIndex hashes texts as UTF-8

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        embedding = embedding_of(options)
        dim = options.get("dim", FULL)
        nodes = [
            TextNode(text=str(i), embedding=axis)
            for i, axis in enumerate(AXES[:dim, :dim].tolist())
        ]
        self.retriever = VectorStoreIndex(nodes, embed_model=embedding).as_retriever(
            similarity_top_k=dim
        )
        self.parser = LateChunkingNodeParser(LangchainNodeParser(PARAGRAPHS), embedding)

    def query(self, text: str) -> Any:
        found = self.retriever.retrieve(text)
        return [hit.score for hit in sorted(found, key=lambda hit: int(hit.text))]

    def passages(self, texts: list[str]) -> Any:
        documents = [LlamaDocument(text=text, id_=str(i)) for i, text in enumerate(texts)]
        return [node.embedding for node in self.parser(documents)]

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        nodes = self.parser([LlamaDocument(text=document, id_="0")])
        spans = [(node.start_char_idx, node.end_char_idx) for node in nodes]
        return spans, [node.embedding for node in nodes]


class CommandLine(Chunked, Kept):
    """`taskvec index` and `taskvec search`, with a server's model: a folder's dtype is its own."""

    tasks = False
    folders = False
    refuses = frozenset({"blank", "nul", "surrogate"})  # as files of text do
    threads = 1

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        self.place, self.spec = place, self.store(place)
        self.model = options.get("model") or place.url_of(options["embedder"])
        self.dim: int | None = options.get("dim")
        self.collection = f"c{uuid.uuid4().hex}"

    def store(self, place: Place) -> str:
        raise NotImplementedError

    def vectors(self) -> list[Any]:
        """What is kept, in order of source and number."""
        raise NotImplementedError

    def query(self, text: str) -> Any:
        self.index_axes()
        rows = sorted(self.search(text, "axes"), key=lambda row: int(row["text"]))
        return [row["score"] for row in rows]

    def passages(self, texts: list[str]) -> Any:
        self.index(texts)
        return self.vectors()

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        self.index([document], "--chunk-chars", "32")
        hits = [row["text"] for row in self.search("anything", self.collection)]
        starts = sorted((document.index(text), len(text)) for text in hits)
        return [(start, start + length) for start, length in starts], self.vectors()

    def asked_by(self, embedder: Embedder) -> Any:
        self.model = self.place.url_of(embedder)
        return self.search("anything", self.collection)

    def index(self, texts: list[str], *options: str) -> None:
        folder = self.place.folder / uuid.uuid4().hex
        folder.mkdir()
        for i, text in enumerate(texts):
            (folder / f"{i:03}.txt").write_text(text, encoding="utf-8", newline="")
        self.run("index", str(folder), "--collection", self.collection, *options)

    def index_axes(self) -> None:
        embedder = shared_encoder(self.model)
        dim = self.dim or embedder.dim
        made = [embedder.fingerprint(task, dim) for task in (PASSAGE_TASK, QUERY_TASK)]
        with open_store(self.spec, "axes", create=True) as store:
            if store.about() is None:
                store.create(About(made[0], self.model, dim, made[1]))
            chunks = [Chunk(i, str(i), "line", 1) for i in range(dim)]
            store.replace("axes", "", chunks, AXES[:dim, :dim])

    def search(self, text: str, collection: str) -> list[dict[str, Any]]:
        told = self.run("search", "--json", text, "-k", str(FULL), "--collection", collection)
        return [json.loads(line) for line in told.splitlines()]

    def run(self, *arguments: str) -> str:
        dim = [] if self.dim is None else ["--dim", str(self.dim)]
        with redirect_stdout(io.StringIO()) as told:
            run_command_line([*arguments, "--store", self.spec, "--model", self.model, *dim])
        return told.getvalue()


class CommandLineQdrant(CommandLine):
    def store(self, place: Place) -> str:
        return f"qdrant:{place.folder / 'store'}"

    def vectors(self) -> list[Any]:
        client = QdrantClient(path=self.spec.removeprefix("qdrant:"))
        try:
            kept: list[Any] = client.scroll(self.collection, limit=FULL, with_vectors=True)[0]
        finally:
            client.close()
        kept.sort(key=lambda point: (point.payload["source"], point.payload["number"]))
        return [point.vector for point in kept]


class CommandLinePostgres(CommandLine):
    def store(self, place: Place) -> str:
        # The axes of one test are of another dim than the next one's.
        with psycopg.connect(place.dsn, autocommit=True) as conn:
            conn.execute("DROP TABLE IF EXISTS axes_about, axes_chunks, axes_files")
        return place.dsn

    def vectors(self) -> list[Any]:
        table = sql.Identifier(f"{self.collection}_chunks")
        query = sql.SQL("SELECT embedding::real[] FROM {} ORDER BY source, number").format(table)
        with psycopg.connect(self.spec) as conn:
            return [row[0] for row in conn.execute(query).fetchall()]


class QdrantCollection(Chunked, Kept):
    """`TaskvecCollection`: documents that it cuts and stores, and its search."""

    refuses = frozenset({"blank", "nul", "surrogate"})

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        self.dim = options.get("dim", FULL)
        kept = {name: value for name, value in options.items() if name != "dim"}
        self.options = {"dims": [self.dim], **kept}
        self.client = QdrantClient(":memory:")
        self.axes = self.created()
        points = [
            models.PointStruct(id=i, vector={f"d{self.dim}": axis}, payload=self.payload(i))
            for i, axis in enumerate(AXES[: self.dim, : self.dim].tolist())
        ]
        self.client.upsert(self.axes.name, points)
        self.kept = self.axes

    def created(self) -> TaskvecCollection:
        return TaskvecCollection.create(self.client, f"c{uuid.uuid4().hex}", **self.options)

    def payload(self, i: int) -> dict[str, Any]:
        text = str(i)
        place = {"document_id": text, "chunk": 0, "start": 0, "end": len(text)}
        return {**place, "text": text, "metadata": {}}

    def query(self, text: str) -> Any:
        hits = self.axes.search(text, self.dim)
        return [hit.score for hit in sorted(hits, key=lambda hit: int(hit.text))]

    def passages(self, texts: list[str]) -> Any:
        return [point.vector[f"d{self.dim}"] for point in self.points(texts)]

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        points = self.points([document], chunk_characters=32)
        spans = [(point.payload["start"], point.payload["end"]) for point in points]
        return spans, [point.vector[f"d{self.dim}"] for point in points]

    def asked_by(self, embedder: Embedder) -> Any:
        opened = TaskvecCollection.open(self.client, self.kept.name, embedder=embedder)
        return opened.search("anything")

    def points(self, texts: list[str], **options: Any) -> list[Any]:
        """What is kept, in order of documents and chunks."""
        made = self.kept = self.created()
        documents = [QdrantDocument(f"{i:03}", text) for i, text in enumerate(texts)]
        made.ingest(documents, **options)
        ours = [models.HasVectorCondition(has_vector=f"d{self.dim}")]
        records, _ = self.client.scroll(
            made.name, models.Filter(must=ours), limit=1_000, with_vectors=True
        )
        return sorted(records, key=lambda r: (r.payload["document_id"], r.payload["chunk"]))


class PostgresColumn(Chunked, Kept):
    """An attached column: rows written, a worker, and a search."""

    folders = False
    refuses = frozenset({"blank", "nul", "surrogate"})
    threads = 8  # connections

    def __init__(self, options: dict[str, Any], place: Place) -> None:
        roles = {"task": options.get("passage_task", PASSAGE_TASK)}
        roles["query_task"] = options.get("query_task", QUERY_TASK)
        if "task" in options:
            roles = dict.fromkeys(roles, options["task"])
        named = {name: options[name] for name in ("model", "embedder", "dim") if name in options}
        self.dsn, self.embedder = place.dsn, options.get("embedder")
        self.dim = options.get("dim", FULL)
        self.options = {"source": "text", "index": "none"} | roles | named
        self.making = threading.Lock()
        self.axes = self.table = ""

    def query(self, text: str) -> Any:
        with self.making:
            self.axes = self.axes or self.attached_axes()
        found = search(self.dsn, self.axes, text, k=FULL, embedder=self.embedder)
        return [row["score"] for row in sorted(found, key=lambda row: row["id"])]

    def passages(self, texts: list[str]) -> Any:
        self.table = self.filled(texts)
        query = sql.SQL("SELECT embedding::real[] FROM {} ORDER BY id")
        return [vector for (vector,) in self.rows(query, self.table)]

    def chunked(self, document: str) -> tuple[list[Span], Any]:
        chunks = f"k{uuid.uuid4().hex}"
        self.filled([document], chunks=chunks, chunk_characters=32)
        query = sql.SQL("SELECT first, last, embedding::real[] FROM {} ORDER BY ordinal")
        rows = list(self.rows(query, chunks))
        return [(first, last) for first, last, _ in rows], [vector for *_, vector in rows]

    def asked_by(self, embedder: Embedder) -> Any:
        return search(self.dsn, self.table, "anything", embedder=embedder)

    def filled(self, texts: list[str], **options: Any) -> str:
        table = self.created(list(enumerate(texts)), "id int PRIMARY KEY, text text")
        made = attach(self.dsn, table, **self.options | options)
        Worker(self.dsn, columns=[made.id], embedder=self.embedder).run(until_empty=True)
        return table

    def attached_axes(self) -> str:
        rows = [(i, str(i), axis) for i, axis in enumerate(AXES[: self.dim, : self.dim])]
        columns = f"id int PRIMARY KEY, text text, embedding vector({self.dim})"
        table = self.created(rows, columns)
        attach(self.dsn, table, **self.options | {"existing": "keep"})
        return table

    def created(self, rows: list[Any], columns: str) -> str:
        table = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.dsn) as conn:
            register_vector(conn)
            conn.execute(f"CREATE TABLE {table} ({columns})")
            marks = ", ".join(["%s"] * (columns.count(",") + 1))
            with conn.cursor() as cursor:
                cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        return table

    def rows(self, query: sql.SQL, table: str) -> Iterator[Any]:
        with psycopg.connect(self.dsn) as conn:
            yield from conn.execute(query.format(sql.Identifier(table)))
