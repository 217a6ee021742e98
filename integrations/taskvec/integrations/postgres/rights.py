"""What a role needs to work on a column, and what it lacks of that."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres.registry import Column
from taskvec.integrations.postgres.statements import fill, name, run

# Nothing that says what a column is: others run its condition, and triggers follow its tables.
COUNTERS = (
    "backfill_after", "backfill_seen", "backfill_at", "backfill_done", "done", "failed",
    "last_done", "last_failed", "partitions", "swept", "swept_to", "leaves", "backfill_part",
)  # fmt: skip
# Relations go by their oids: a name is looked up with rights on its schema alone.
LACKING = """
SELECT r.number, r.privilege || coalesce(' (' || pg_catalog.quote_ident(r.field) || ')', ''),
  CASE r.kind WHEN 'database' THEN pg_catalog.format('DATABASE %I', r.name)
    WHEN 'schema' THEN pg_catalog.format('SCHEMA %I', r.schema)
    ELSE pg_catalog.format('%I.%I', r.schema, r.name) END
FROM (
  SELECT w.*, n.oid AS namespace, c.oid
  FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[])
    WITH ORDINALITY w (kind, privilege, schema, name, field, any_serves, number)
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
  LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
  OFFSET 0  -- a column is looked for in no other table of the name
) r
WHERE NOT CASE
  WHEN r.kind = 'database' THEN pg_catalog.has_database_privilege($1::name, r.name, r.privilege)
  WHEN r.kind = 'schema' THEN pg_catalog.has_schema_privilege($1::name, r.namespace, r.privilege)
  WHEN r.any_serves THEN pg_catalog.has_any_column_privilege($1::name, r.oid, r.privilege)
  WHEN r.field IS NULL THEN pg_catalog.has_table_privilege($1::name, r.oid, r.privilege)
  ELSE pg_catalog.has_column_privilege($1::name, r.oid, r.field, r.privilege) END
ORDER BY r.number
"""


@dataclass(frozen=True)
class Right:
    """One privilege on a database, a schema or a table.

    name: of a database or a table. column: of a table, where it is for that alone. any_serves: the
    same for any other column does as well.
    """

    privilege: str
    kind: Literal["database", "schema", "table"]
    schema: str | None
    name: str | None = None
    column: str | None = None
    any_serves: bool = False

    @property
    def place(self) -> sql.Composed:
        """What it is on, as GRANT says it."""
        parts = [part for part in (self.schema, self.name) if part is not None]
        kind = "" if self.kind == "table" else f"{self.kind.upper()} "
        return fill(f"{kind}{{place}}", place=sql.Identifier(*parts))

    @property
    def what(self) -> sql.Composed:
        """The privilege, with the column that it is for."""
        only = fill(" ({column})", column=name(self.column)) if self.column else sql.SQL("")
        return fill(f"{self.privilege}{{only}}", only=only)


def needed(column: Column, database: str) -> Iterator[Right]:
    """All that a worker of a column does. database: its name."""
    yield Right("TEMPORARY", "database", None, database)
    for schema in sorted({"taskvec", column.table.schema, *(column.chunks or ())[:1]}):
        yield Right("USAGE", "schema", schema)
    yield Right("SELECT", "table", "taskvec", "columns")
    for counter in COUNTERS:
        yield Right("UPDATE", "table", "taskvec", "columns", counter)
    for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE"):
        yield Right(privilege, "table", "taskvec", f"queue_{column.id}")
    table = column.table.schema, column.table.name
    yield Right("SELECT", "table", *table)
    # To lock a row takes the right to update some column of it, where there is none to write too.
    written = column.embedding or column.sources[0]
    yield Right("UPDATE", "table", *table, written, any_serves=column.embedding is None)
    if column.chunks is not None:
        for privilege in ("SELECT", "INSERT", "DELETE"):
            yield Right(privilege, "table", *column.chunks)


def lacking(conn: psycopg.Connection[Any], role: str, rights: Sequence[Right]) -> list[Right]:
    """Those of some rights that a role has from nowhere."""
    return [rights[number - 1] for number, *_ in _lacking(conn, role, rights)]


def _lacking(
    conn: psycopg.Connection[Any], role: str, rights: Sequence[Right]
) -> list[tuple[int, str, str]]:
    """The number of each, from 1, and its privilege and place as a person would write them."""
    fields = ("kind", "privilege", "schema", "name", "column", "any_serves")
    columns = [[getattr(right, field) for right in rights] for field in fields]
    return run(conn, LACKING, role, *columns).fetchall()


def require_rights(conn: psycopg.Connection[Any], column: Column) -> None:
    """Raise DeniedError unless this role may do all that a worker does."""
    ((role, spelled),) = run(
        conn, "SELECT current_user::text, pg_catalog.quote_ident(current_user)"
    )
    whats: dict[str, list[str]] = defaultdict(list)
    for _, what, place in _lacking(conn, role, list(needed(column, conn.info.dbname))):
        whats[place].append(what)
    if whats:
        grants = [
            f"GRANT {', '.join(what)} ON {place} TO {spelled}" for place, what in whats.items()
        ]
        raise DeniedError(f"this role may not work on {column}: {'; '.join(grants)}")


class DeniedError(SchemaError):
    """This role lacks a right that a worker needs."""
