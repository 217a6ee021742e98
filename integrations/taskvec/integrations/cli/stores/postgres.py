"""An index in Postgres with pgvector: a server, or one embedded in a folder.

Three tables a collection: the files with their digests, their chunks, and one row that says what
the index was built with. A file is replaced in one transaction.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from taskvec.adapters.pgvector import copy_rows
from taskvec.core.embedder import Array
from taskvec.core.errors import InputError, SchemaError, StoreError
from taskvec.integrations.cli.stores.base import About, Chunk, Hit
from taskvec.integrations.connecting import connect

# pgvector's own bounds: an index holds vectors to 2000 dims, a search looks at 1000 candidates.
MAX_INDEXED_DIM = 2000
MAX_CANDIDATES = 1000
NOT_UNDERSTOOD = "--store is not a DSN that Postgres understands"

CREATE = """
CREATE TABLE IF NOT EXISTS {about} (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    fingerprint text NOT NULL, model text NOT NULL, dim integer NOT NULL,
    query_fingerprint text NOT NULL);
CREATE TABLE IF NOT EXISTS {files} (source text PRIMARY KEY, digest text NOT NULL);
CREATE TABLE IF NOT EXISTS {chunks} (
    source text NOT NULL REFERENCES {files} ON DELETE CASCADE,
    number integer NOT NULL, content text NOT NULL, unit text NOT NULL, place integer NOT NULL,
    embedding vector({dim}) NOT NULL, PRIMARY KEY (source, number));
"""
UPSERT_FILE = """
INSERT INTO {files} (source, digest) VALUES (%s, %s)
ON CONFLICT (source) DO UPDATE SET digest = EXCLUDED.digest
"""
COLUMNS = ("source", "number", "content", "unit", "place", "embedding")
SEARCH = """
SELECT 1 - (embedding <=> %(vector)s) AS score, source, content, unit, place FROM {chunks}
ORDER BY embedding <=> %(vector)s LIMIT %(k)s
"""


class PostgresStore:
    """The tables of one collection, over an open connection."""

    def __init__(self, connection: psycopg.Connection, collection: str, place: str) -> None:
        self._connection = connection
        self._collection = collection
        self.name = f"collection {collection!r} in {place}"

    def about(self) -> About | None:
        """What the index was built with; None where nothing was indexed yet."""
        table = sql.Identifier(self._table("about")).as_string(self._connection)
        if self._connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            return None
        try:
            row = self._run(
                "SELECT fingerprint, model, dim, query_fingerprint FROM {about}"
            ).fetchone()
        except psycopg.errors.UndefinedColumn:
            raise SchemaError(
                f"{self.name} was not made by `taskvec index`: give another --collection"
            ) from None
        return About(*row) if row else None

    def create(self, about: About) -> None:
        """Make the tables and remember what they are built with."""
        with self._connection.transaction():
            # Two processes that begin at once would trip over each other's catalogue rows.
            self._run("SELECT pg_advisory_xact_lock(hashtext(%s))", [self._collection])
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            self._run(CREATE, dim=sql.Literal(about.dim))
            self._run(
                "INSERT INTO {about} (fingerprint, model, dim, query_fingerprint)"
                " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [about.fingerprint, about.model, about.dim, about.query_fingerprint],
            )

    def digests(self) -> dict[str, str]:
        """The digest of every stored source; none is ever incomplete."""
        return dict(self._run("SELECT source, digest FROM {files}").fetchall())

    def replace(self, source: str, digest: str, chunks: Sequence[Chunk], vectors: Array) -> None:
        """Put these chunks in the place of all that the source had, in one transaction."""
        with self._connection.transaction():
            # The file's row is written first: its lock makes a second indexer of it wait.
            self._run(UPSERT_FILE, [source, digest])
            self._run("DELETE FROM {chunks} WHERE source = %s", [source])
            rows = (
                (source, chunk.number, chunk.text, chunk.unit, chunk.place, vector)
                for chunk, vector in zip(chunks, vectors, strict=True)
            )
            table = sql.Identifier(self._table("chunks"))
            copy_rows(self._connection, table, rows, columns=COLUMNS)

    def remove(self, sources: Iterable[str]) -> None:
        """Remove all chunks of these sources."""
        self._run("DELETE FROM {files} WHERE source = ANY(%s)", [list(sources)])

    def finish(self) -> None:
        """Build the HNSW index, where there is none yet: it is quicker after the load."""
        about = self.about()
        if about is None or about.dim > MAX_INDEXED_DIM:
            return
        self._run(
            "CREATE INDEX IF NOT EXISTS {index} ON {chunks}"
            " USING hnsw (embedding vector_cosine_ops)",
            index=sql.Identifier(self._table("hnsw")),
        )

    def search(self, vector: Array, k: int) -> list[Hit]:
        """The k chunks nearest to a vector (dim,), best first."""
        register_vector(self._connection)
        with self._connection.transaction():
            if k > MAX_CANDIDATES // 2:
                self._run("SET LOCAL enable_indexscan = off")
            else:
                self._widen(k)
            rows = self._run(SEARCH, {"vector": vector, "k": k}).fetchall()
        return [Hit(*row) for row in rows]

    def _widen(self, k: int) -> None:
        """Let the approximate index look well beyond k, and past rows that were deleted."""
        # The settings exist only once pgvector was used; the second one came with its 0.8.
        self._run("SELECT '[0]'::vector")
        candidates = str(min(max(40, 4 * k), MAX_CANDIDATES))
        for name, value in (
            ("hnsw.ef_search", candidates),
            ("hnsw.iterative_scan", "strict_order"),
        ):
            self._run(
                "SELECT set_config(name, %s, true) FROM pg_settings WHERE name = %s", [value, name]
            )

    def _table(self, suffix: str) -> str:
        return f"{self._collection}_{suffix}"

    def _compose(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        tables = {
            suffix: sql.Identifier(self._table(suffix)) for suffix in ("about", "files", "chunks")
        }
        return sql.SQL(statement).format(**tables, **parts)

    def _run(
        self,
        statement: str,
        values: Sequence[object] | dict[str, object] | None = None,
        **parts: sql.Composable,
    ) -> psycopg.Cursor:
        return self._connection.execute(self._compose(statement, **parts), values)


@contextmanager
def open_postgres(dsn: str, collection: str, place: str = "") -> Iterator[PostgresStore]:
    """Open a Postgres by its DSN; its errors become StoreError.

    place: what messages call it; a DSN is called by host and database, without its password.
    """
    place = place or _describe(dsn)
    try:
        with connect(dsn) as connection:
            yield PostgresStore(connection, collection, place)
    except psycopg.Error as error:
        raise StoreError(f"{place} cannot be used: {_reason(error)}") from error


def require_embedded(folder: Path) -> None:
    """Raise StoreError unless the folder holds an embedded Postgres."""
    if not (folder / "PG_VERSION").exists():
        raise StoreError(f"no index in postgres:{folder} yet: run `taskvec index` first")


def _describe(dsn: str) -> str:
    # Neither libpq's reason nor the text: both may hold a piece of the password.
    try:
        options = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise InputError(NOT_UNDERSTOOD) from None
    host, port = str(options.get("host") or "localhost"), str(options.get("port") or 5432)
    name = str(options.get("dbname") or "")
    # An unescaped '@' or '/' in a password makes libpq take a piece of it for one of these.
    if "@" in host + name or not port.replace(",", "").isdecimal():
        raise InputError(f"{NOT_UNDERSTOOD}: write '@' as %40, ':' as %3A and '/' as %2F in names")
    return f"postgresql://{host}:{port}/{name}"


def _reason(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.UndefinedFile | psycopg.errors.FeatureNotSupported):
        return f"{error} (pgvector has to be installed on the server)"
    return str(error) or type(error).__name__
