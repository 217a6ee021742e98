"""A table of late-chunked passages beside the rows that they are cut from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from taskvec.core.embedder import Array, Embedder
from taskvec.core.errors import SchemaError
from taskvec.integrations.documents.cutting import context_of, encode_spans, join, split_spans
from taskvec.integrations.documents.reading import Document
from taskvec.integrations.postgres.names import Table
from taskvec.integrations.postgres.registry import Column
from taskvec.integrations.postgres.statements import COMMA, run

CHUNK_COLUMNS = ("ordinal", "first", "last", "text", "embedding")
CREATE = """
CREATE TABLE {chunks} AS SELECT {keys} FROM {table} WITH NO DATA;
ALTER TABLE {chunks}
    ADD COLUMN ordinal integer NOT NULL,
    ADD COLUMN first integer NOT NULL,
    ADD COLUMN last integer NOT NULL,
    ADD COLUMN text text NOT NULL,
    ADD COLUMN embedding {type} NOT NULL,
    ADD PRIMARY KEY ({keys}, ordinal)
"""


@dataclass(frozen=True)
class Chunk:
    """A passage of a text: its half-open range of characters and its vector (dim,)."""

    ordinal: int
    first: int
    last: int
    text: str
    vector: Array


def create_chunks(
    conn: psycopg.Connection[Any], table: Table, chunks: tuple[str, str], type_: sql.Composed
) -> None:
    """Make the chunk table. Raises SchemaError where its name is taken."""
    keys = COMMA.join([sql.Identifier(key.name) for key in table.keys])
    target = sql.Identifier(*chunks)
    try:
        run(conn, CREATE, chunks=target, keys=keys, table=table.identifier, type=type_)
    except psycopg.errors.DuplicateTable:
        raise SchemaError(
            f"table {target.as_string(None)} exists already: choose another name for the chunks, "
            "or drop it"
        ) from None


def cut(embedder: Embedder, column: Column, text: str) -> Iterator[Chunk]:
    """The chunks of a row's text, late-chunked."""
    document = Document(text, marks=())
    spans = split_spans(document, characters=column.chunk_characters or 1)
    context = context_of(column.model)
    parts = encode_spans(
        embedder, document, spans, dim=column.dim, context=context, task=column.task
    )
    vectors = join(list(parts), dim=column.dim)
    for ordinal, ((first, last), vector) in enumerate(zip(spans, vectors, strict=True)):
        yield Chunk(ordinal, first, last, text[first:last], vector)
