"""Passes on to a new table or column what roles may do with the one that it replaces."""

from collections.abc import Sequence
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
COLUMNS = """
SELECT attname::text FROM pg_catalog.pg_attribute
WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""

OWNER = """
SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(relowner)), relrowsecurity,
  relforcerowsecurity
FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)
"""
POLICIES = """
SELECT p.polname, p.polpermissive, p.polcmd::text,
  ARRAY(SELECT CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END
        FROM pg_catalog.unnest(p.polroles) r),
  pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_catalog.pg_policy p WHERE p.polrelid = pg_catalog.to_regclass($1) ORDER BY p.polname
"""
POLICY = "CREATE POLICY {name} ON {table} AS {kind} FOR {command} TO {roles} {using} {check}"
COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}


@dataclass(frozen=True)
class RowSecurity:
    """A table's row security, as it was read. Policies: rows of POLICIES."""

    enabled: bool
    forced: bool
    policies: list[tuple[Any, ...]]


def copy_owner(conn: psycopg.Connection[Any], old: sql.Identifier, new: sql.Identifier) -> None:
    """Give a new table the old one's owner, and row security where that has it.

    Without a policy, so that nobody reads it who might not read all of the old one: policies may
    name their own table, and are made once the new one is called like it.
    """
    owner, secured, _ = run(conn, OWNER, old.as_string(conn)).fetchone() or ("", False, False)
    run(conn, "ALTER TABLE {new} OWNER TO {owner}", new=new, owner=sql.SQL(owner))
    if secured:
        run(conn, "ALTER TABLE {new} ENABLE ROW LEVEL SECURITY", new=new)


def row_security(conn: psycopg.Connection[Any], table: sql.Identifier) -> RowSecurity:
    """A table's row security. Under `fixed_path`, so that expressions name things in full."""
    spelled = table.as_string(conn)
    _, enabled, forced = run(conn, OWNER, spelled).fetchone() or ("", False, False)
    return RowSecurity(enabled, forced, run(conn, POLICIES, spelled).fetchall())


def restore_row_security(
    conn: psycopg.Connection[Any], table: sql.Identifier, security: RowSecurity
) -> None:
    """Secure a table's rows as those of the table that had its name."""
    for called, permissive, command, roles, using, check in security.policies:
        run(
            conn,
            POLICY,
            name=name(called),
            table=table,
            kind=sql.SQL("PERMISSIVE" if permissive else "RESTRICTIVE"),
            command=sql.SQL(COMMANDS[command]),
            roles=sql.SQL(", ".join(roles)),
            using=sql.SQL(f"USING ({using})" if using else ""),
            check=sql.SQL(f"WITH CHECK ({check})" if check else ""),
        )
    if security.enabled:
        run(conn, "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY", table=table)
    if security.forced:
        run(conn, "ALTER TABLE {table} FORCE ROW LEVEL SECURITY", table=table)


def pass_on_table(conn: psycopg.Connection[Any], old: sql.Identifier, new: sql.Identifier) -> None:
    """Let roles do with the new table and its columns what they may do with the old one's alone."""
    for whom in _grantees(run(conn, OF_TABLE, new.as_string(conn)).fetchall()):
        _revoke(conn, sql.SQL("ALL"), new, whom)
    for privilege, *told in run(conn, OF_TABLE, old.as_string(conn)).fetchall():
        _grant(conn, sql.SQL(privilege), new, _Grantee(*told))
    for (column,) in run(conn, COLUMNS, new.as_string(conn)).fetchall():
        _pass_on(conn, (old, column), (new, column))


def pass_on_column(
    conn: psycopg.Connection[Any], table: sql.Identifier, old: str, new: str
) -> None:
    """The same of two columns, beside the table's own grants."""
    _pass_on(conn, (table, old), (table, new))


def _pass_on(
    conn: psycopg.Connection[Any], old: tuple[sql.Identifier, str], new: tuple[sql.Identifier, str]
) -> None:
    table, column = new
    for whom in _grantees(_of_column(conn, *new)):
        _revoke(conn, fill("ALL ({column})", column=name(column)), table, whom)
    for privilege, *told in _of_column(conn, *old):
        what = fill("{privilege} ({column})", privilege=sql.SQL(privilege), column=name(column))
        _grant(conn, what, table, _Grantee(*told))


def _of_column(
    conn: psycopg.Connection[Any], table: sql.Identifier, column: str
) -> list[tuple[Any, ...]]:
    return run(conn, OF_COLUMN, table.as_string(conn), column).fetchall()


def _grantees(rows: Sequence[tuple[Any, ...]]) -> set["_Grantee"]:
    return {_Grantee(role, public, grantable=False) for _, role, public, _ in rows}


@dataclass(frozen=True)
class _Grantee:
    role: str
    public: bool
    grantable: bool

    @property
    def spelled(self) -> sql.SQL:
        """As GRANT says it. A regrole prints quoted where it has to be."""
        return sql.SQL("PUBLIC" if self.public else self.role)


def _revoke(
    conn: psycopg.Connection[Any], what: sql.Composable, table: sql.Identifier, whom: _Grantee
) -> None:
    statement = "REVOKE {what} ON {table} FROM {role} CASCADE"
    run(conn, statement, what=what, table=table, role=whom.spelled)


def _grant(
    conn: psycopg.Connection[Any], what: sql.Composable, table: sql.Identifier, whom: _Grantee
) -> None:
    run(
        conn,
        "GRANT {what} ON {table} TO {role} {option}",
        what=what,
        table=table,
        role=whom.spelled,
        option=sql.SQL("WITH GRANT OPTION" if whom.grantable else ""),
    )
