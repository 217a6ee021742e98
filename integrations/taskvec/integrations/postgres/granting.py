"""Grants a role what a worker needs, and no more."""

from typing import Any

import psycopg
from psycopg import sql

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres import registry
from taskvec.integrations.postgres.choosing import choose, successor
from taskvec.integrations.postgres.registry import fixed_path
from taskvec.integrations.postgres.rights import Right, lacking, needed
from taskvec.integrations.postgres.statements import connected, fill, run

ROLE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)"
# To see how far its columns are.
STATUS = Right("SELECT", "table", "taskvec", "status")


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
            wanted = [STATUS, *needed(one, conn.info.dbname)]
            for right in lacking(conn, role, wanted):
                _grant(conn, right, role)


def _grant(conn: psycopg.Connection[Any], right: Right, role: str) -> None:
    granted = fill("{what} ON {place}", what=right.what, place=right.place)
    refused = SchemaError(
        f"no privilege to grant {role!r} {granted.as_string(conn)}: let its owner do it"
    )
    try:
        run(conn, "GRANT {granted} TO {role}", granted=granted, role=sql.Identifier(role))
    except psycopg.errors.InsufficientPrivilege as error:
        raise refused from error
    # Whoever has a right, and not that to pass it on, gets no error, but a warning.
    if lacking(conn, role, [right]):
        raise refused
