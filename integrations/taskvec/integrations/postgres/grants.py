"""Passes on to a new table or column what roles may do with the one that it replaces."""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from taskvec.integrations.postgres.statements import fill, name, run

# aclexplode names no grantee by 0, which is PUBLIC. An owner's own rights come with owning.
OF_TABLE = """
SELECT a.privilege_type, a.grantee::regrole::text, a.grantee = 0, a.is_grantable
FROM pg_catalog.pg_class c CROSS JOIN pg_catalog.aclexplode(c.relacl) a
WHERE c.oid = pg_catalog.to_regclass($1) AND a.grantee <> c.relowner
"""
OF_COLUMN = """
SELECT a.privilege_type, a.grantee::regrole::text, a.grantee = 0, a.is_grantable
FROM pg_catalog.pg_attribute c CROSS JOIN pg_catalog.aclexplode(c.attacl) a
WHERE c.attrelid = pg_catalog.to_regclass($1) AND c.attname = $2
"""


def copy_table_grants(
    conn: psycopg.Connection[Any], old: sql.Identifier, new: sql.Identifier
) -> None:
    """Grant on the new table what is granted on the old one."""
    for privilege, *whom in run(conn, OF_TABLE, old.as_string(conn)).fetchall():
        _grant(conn, sql.SQL(privilege), new, _Grantee(*whom))


def copy_column_grants(
    conn: psycopg.Connection[Any], table: sql.Identifier, old: str, new: str
) -> None:
    """Grant on the new column what is granted on the old one, beside the table's own grants."""
    for privilege, *whom in run(conn, OF_COLUMN, table.as_string(conn), old).fetchall():
        what = fill("{privilege} ({column})", privilege=sql.SQL(privilege), column=name(new))
        _grant(conn, what, table, _Grantee(*whom))


@dataclass(frozen=True)
class _Grantee:
    role: str
    public: bool
    grantable: bool


def _grant(
    conn: psycopg.Connection[Any], what: sql.Composable, table: sql.Identifier, whom: _Grantee
) -> None:
    run(
        conn,
        "GRANT {what} ON {table} TO {role} {option}",
        what=what,
        table=table,
        # A regrole prints quoted where it has to be.
        role=sql.SQL("PUBLIC" if whom.public else whom.role),
        option=sql.SQL("WITH GRANT OPTION" if whom.grantable else ""),
    )
