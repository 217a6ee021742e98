"""Triggers that put a changed row's key into its column's queue, and take a deleted one out.

They run as whoever attached the column, so that a writer needs rights on the table alone; where
policies would hide rows from that role, the server raises. An
unrelated UPDATE runs none of them: transition tables would copy every row of it, and PostgreSQL
allows them no list of columns, so UPDATE is followed row by row, the rest by statement.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from taskvec.integrations.postgres.bodies import bodies, differs
from taskvec.integrations.postgres.registry import Column
from taskvec.integrations.postgres.statements import fill, names, run

FUNCTION = """CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS {body};
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC
"""
BEFORE_UPDATE = """
SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid IN
    (SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid::regclass))
  AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 19 = 19)
"""
LEAVES = """
SELECT n.nspname, c.relname FROM pg_partition_tree($1::oid::regclass) p
JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid <> $1::oid AND NOT EXISTS (SELECT FROM pg_trigger t
  WHERE t.tgrelid = c.oid AND t.tgname = $2)
ORDER BY 1, 2
"""
PRESENT = """
SELECT cardinality(tgattr::int2[]) > 0, tgenabled = 'O' FROM pg_trigger
WHERE tgrelid = $1::oid AND tgname = $2
"""
OWNED = """
SELECT n.nspname, p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'taskvec' AND p.proname = ANY($1)
"""
SOURCES = """
SELECT p.proname, p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'taskvec' AND p.proname = ANY($1) AND 'row_security=off' = ANY(p.proconfig)
"""
EVENTS = ("inserted", "updated", "deleted", "truncated", "noticed")


def install(conn: psycopg.Connection[Any], column: Column) -> None:
    """Create a column's functions and triggers, or bring those that exist up to date."""
    for called, body in _functions(conn, column).items():
        run(conn, FUNCTION, function=sql.Identifier("taskvec", called), body=sql.Literal(body))
    for statement in _triggers(conn, column):
        run(conn, "{statement}", statement=statement)


def remove(conn: psycopg.Connection[Any], column_id: int) -> None:
    """Drop a column's functions, and with them its triggers on whatever table."""
    own = [f"{event}_{column_id}" for event in EVENTS]
    for schema, function_name in run(conn, OWNED, own).fetchall():
        run(conn, "DROP FUNCTION {f}() CASCADE", f=sql.Identifier(schema, function_name))


def outdated(conn: psycopg.Connection[Any], column: Column) -> bool:
    """Whether the triggers no longer fit the table.

    One is missing or off, a column of the key was renamed, a BEFORE trigger may change a source
    unseen, or a partition was added.
    """
    wished = _functions(conn, column)
    if dict(run(conn, SOURCES, list(wished)).fetchall()) != wished:
        return True
    listed = not _changed_before(conn, column)
    wanted = {"inserted": False, "updated": listed, "deleted": False, "truncated": False}
    for event, with_list in wanted.items():
        row = run(conn, PRESENT, column.table.oid, trigger(column, event)).fetchone()
        if row != (with_list, True):
            return True
    return bool(column.table.partitioned and _bare_partitions(conn, column))


def trigger(column: Column, event: str) -> str:
    """The name of a column's trigger."""
    return f"taskvec_{column.id}_{event}"


def function(column: Column, event: str) -> sql.Identifier:
    """The name of a column's trigger function."""
    return sql.Identifier("taskvec", f"{event}_{column.id}")


def _functions(conn: psycopg.Connection[Any], column: Column) -> dict[str, str]:
    """The bodies of a column's functions, by name."""
    notify_row = column.table.partitioned or _changed_before(conn, column)
    made = bodies(column, notify_row=notify_row)
    return {f"{event}_{column.id}": body.as_string(conn) for event, body in made.items()}


def _changed_before(conn: psycopg.Connection[Any], column: Column) -> bool:
    """Whether a BEFORE trigger may change a source that the UPDATE does not mention."""
    row = run(conn, BEFORE_UPDATE, column.table.oid).fetchone()
    return bool(row and row[0])


def _bare_partitions(conn: psycopg.Connection[Any], column: Column) -> list[sql.Identifier]:
    found = run(conn, LEAVES, column.table.oid, trigger(column, "truncated"))
    return [sql.Identifier(*row) for row in found]


def _triggers(conn: psycopg.Connection[Any], column: Column) -> Iterator[sql.Composed]:
    table, whole = column.table.identifier, not column.table.partitioned
    listed = not _changed_before(conn, column)
    watched = fill(" OF {columns}", columns=names(column.watched)) if listed else sql.SQL("")
    changed = fill(" WHEN ({changed})", changed=differs(column.watched))
    new, old = "REFERENCING NEW TABLE AS new_rows", "REFERENCING OLD TABLE AS old_rows"
    row, statement = "FOR EACH ROW", "FOR EACH STATEMENT"
    by = {"inserted": f"{new} {statement}", "deleted": f"{old} {statement}"} if whole else {}

    def made(event: str, after: str, scope: str, on: sql.Identifier = table) -> sql.Composed:
        return fill(
            f"CREATE OR REPLACE TRIGGER {{name}} AFTER {after} ON {{table}} {scope}{{when}}"
            " EXECUTE FUNCTION {function}()",
            name=sql.Identifier(trigger(column, event)),
            table=on,
            watched=watched,
            when=changed if event == "updated" else sql.SQL(""),
            function=function(column, event),
        )

    yield made("inserted", "INSERT", by.get("inserted", row))
    yield made("updated", "UPDATE{watched}", row)
    yield made("deleted", "DELETE", by.get("deleted", row))
    yield made("truncated", "TRUNCATE", statement)
    if whole and listed:
        yield made("noticed", "UPDATE{watched}", statement)
    else:
        yield fill(
            "DROP TRIGGER IF EXISTS {name} ON {table}",
            name=sql.Identifier(trigger(column, "noticed")),
            table=table,
        )
    if not whole:
        # Triggers by statement are not cloned to partitions.
        for partition in _bare_partitions(conn, column):
            yield made("truncated", "TRUNCATE", statement, partition)
