"""Finds the attached column that a call means, for whoever may read the registry."""

from typing import Any, Literal

import psycopg

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres import registry
from taskvec.integrations.postgres.registry import Column, fixed_path
from taskvec.integrations.postgres.statements import run

State = Literal["live", "building"]

RELATION = """
SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass($1)
"""


def choose(
    conn: psycopg.Connection[Any],
    table: str,
    column: str | None = None,
    chunks: str | None = None,
    *,
    state: State = "live",
) -> Column:
    """The column that is attached to a table. Inside a transaction.

    column: its name; None where a table has one attachment, or where chunks says which.
    chunks: a chunk table as SQL writes it.
    Raises SchemaError where none is meant, or more than one.
    """
    try:
        found = _find(conn, table, column, chunks, state)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"no privilege to read what is attached to {table!r}: GRANT USAGE ON SCHEMA taskvec "
            f"and SELECT ON taskvec.columns to this role ({error.diag.message_primary})"
        ) from error
    with fixed_path(conn):
        return registry.load(conn, found)


def successor(conn: psycopg.Connection[Any], live: Column) -> dict[str, Any] | None:
    """The registry's row of the column that is to take a live one's place."""
    present = registry.rows(conn)
    return next((row for row in present if row["successor_of"] == live.id), None)


def _find(
    conn: psycopg.Connection[Any],
    table: str,
    column: str | None,
    chunks: str | None,
    state: State,
) -> dict[str, Any]:
    oid, *_ = find_relation(conn, table)
    present = [row for row in registry.rows(conn) if (row["oid"], row["state"]) == (oid, state)]
    meant = present
    if column is not None:
        meant = [row for row in meant if row["embedding"] == column]
    if chunks is not None:
        _, *names = find_relation(conn, chunks)
        meant = [row for row in meant if [row["chunk_schema"], row["chunk_table"]] == names]
    if len(meant) != 1:
        raise _not_one(table, column, chunks, [_spelled(row) for row in present])
    return meant[0]


def find_relation(conn: psycopg.Connection[Any], table: str) -> tuple[int, str, str]:
    """The oid, schema and name of a table as SQL writes it. Raises SchemaError where there is none.

    Of a column whose table is gone, the id says what is meant.
    """
    try:
        row = run(conn, RELATION, table).fetchone()
    except (psycopg.errors.InvalidName, psycopg.errors.SyntaxError) as error:
        raise SchemaError(f"{table!r} is no table's name: {error.diag.message_primary}") from None
    if row is None:
        raise SchemaError(
            f"no table {table!r}: write it as in SQL, with quotes for capitals. What was attached "
            "to a table that is gone, detach by its id, as status has it"
        )
    return int(row[0]), str(row[1]), str(row[2])


def _spelled(row: dict[str, Any]) -> str:
    if row["embedding"] is not None:
        return f"column {row['embedding']!r}"
    return f"chunks '{row['chunk_schema']}.{row['chunk_table']}'"


def _not_one(table: str, column: str | None, chunks: str | None, present: list[str]) -> SchemaError:
    if not present:
        return SchemaError(f"nothing is attached to {table!r}: attach a column first")
    listed = ", ".join(present)
    if column is None and chunks is None:
        return SchemaError(f"{table!r} has {listed}: say which one")
    given = f"column {column!r}" if column is not None else f"chunk table {chunks!r}"
    return SchemaError(f"{given} is not attached to {table!r}, which has {listed}")
