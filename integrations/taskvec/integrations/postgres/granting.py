"""Grants a role what a worker needs, and no more."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres import registry
from taskvec.integrations.postgres.choosing import choose, successor
from taskvec.integrations.postgres.registry import Column, fixed_path
from taskvec.integrations.postgres.statements import connected, fill, name, run

# Nothing that says what a column is: others run its condition, and triggers follow its tables.
COUNTERS = (
    "backfill_after", "backfill_seen", "backfill_at", "backfill_done", "done", "failed",
    "last_done", "last_failed", "partitions", "swept", "swept_to", "leaves", "backfill_part",
)  # fmt: skip
ROLE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)"
HOLDS = {
    "database": "SELECT pg_catalog.has_database_privilege($1::name, $2::text, $3::text)",
    "schema": "SELECT pg_catalog.has_schema_privilege($1::name, $2::text, $3::text)",
    "table": "SELECT pg_catalog.has_table_privilege($1::name, $2::text, $3::text)",
    "column": "SELECT pg_catalog.has_column_privilege($1::name, $2::text, $3::text, $4::text)",
}


@dataclass(frozen=True)
class Right:
    """One privilege on one thing. column: of a table, where it is for that alone."""

    privilege: str
    kind: Literal["database", "schema", "table"]
    place: sql.Identifier
    column: str | None = None

    def granted(self) -> sql.Composed:
        """What GRANT says of it, from the privilege on."""
        only = fill(" ({column})", column=name(self.column)) if self.column else sql.SQL("")
        text = f"{self.privilege}{{only}} ON {self.kind.upper()} {{place}}"
        return fill(text, only=only, place=self.place)

    def held(self, conn: psycopg.Connection[Any], role: str) -> bool:
        """Whether a role has it, from wherever."""
        # A table is named as SQL writes it; all else as it is.
        spelled = self.place.as_string(conn)
        place = spelled if self.kind == "table" else spelled[1:-1].replace('""', '"')
        of_column = () if self.column is None else (self.column,)
        statement = HOLDS["column" if of_column else self.kind]
        return run(conn, statement, role, place, *of_column, self.privilege).fetchone() == (True,)


def grant(
    dsn: str | psycopg.Connection[Any],
    table: str,
    *,
    role: str,
    column: str | None = None,
    chunks: str | None = None,
) -> None:
    """Let a role run workers of a column, and of the successor that it may have.

    role: its name as it is, without quotes. column, chunks: as in `search`.
    To be called by whoever attached the column. The same call again changes nothing.
    Raises SchemaError for an unknown role, and for what the caller may not grant.
    """
    with connected(dsn) as conn, conn.transaction():
        live = choose(conn, table, column, chunks)
        if run(conn, ROLE, role).fetchone() != (True,):
            raise SchemaError(f"no role {role!r}: CREATE ROLE, or give its name as it is, unquoted")
        with fixed_path(conn):
            row = successor(conn, live)
            columns = [live] if row is None else [live, registry.load(conn, row)]
        for one in columns:
            for right in _rights(conn, one):
                _grant(conn, right, role)


def _rights(conn: psycopg.Connection[Any], column: Column) -> Iterator[Right]:
    yield Right("TEMPORARY", "database", sql.Identifier(conn.info.dbname))
    yield Right("USAGE", "schema", sql.Identifier("taskvec"))
    yield Right("SELECT", "table", sql.Identifier("taskvec", "status"))
    yield Right("SELECT", "table", sql.Identifier("taskvec", "columns"))
    for counter in COUNTERS:
        yield Right("UPDATE", "table", sql.Identifier("taskvec", "columns"), counter)
    for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE"):
        yield Right(privilege, "table", column.queue)
    yield Right("SELECT", "table", column.table.identifier)
    # To lock a row takes the right to update some column of it, where there is none to write too.
    written = column.embedding or column.sources[0]
    yield Right("UPDATE", "table", column.table.identifier, written)
    if column.chunks is not None:
        for privilege in ("SELECT", "INSERT", "DELETE"):
            yield Right(privilege, "table", column.chunk_table)


def _grant(conn: psycopg.Connection[Any], right: Right, role: str) -> None:
    if right.held(conn, role):
        return
    granted = right.granted()
    refused = SchemaError(
        f"no privilege to grant {role!r} {granted.as_string(conn)}: let its owner do it"
    )
    try:
        run(conn, "GRANT {granted} TO {role}", granted=granted, role=sql.Identifier(role))
    except psycopg.errors.InsufficientPrivilege as error:
        raise refused from error
    # Whoever has a right, and not that to pass it on, gets no error, but a warning.
    if not right.held(conn, role):
        raise refused
