"""Conditions over a row: validated by the server, and spelled so that they mean one thing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres.names import Table
from taskvec.integrations.postgres.registry import fixed_path
from taskvec.integrations.postgres.statements import COMMA, fill, name, run, run_single

# Generated columns become plain ones, which an index can read whatever kind they are.
COPY = "CREATE TEMP TABLE {name} (LIKE {table}) ON COMMIT DROP"
# A line of its own for the condition, so that a comment at its end hides nothing.
INDEX = "CREATE INDEX ON {copy} ({key}) WHERE (\n{where}\n)"
# The columns that a condition reads, as they were called when it was written.
COPY_FORMER = "CREATE TEMP TABLE {name} ON COMMIT DROP AS SELECT {columns} FROM {table} LIMIT 0"
RENAME = "ALTER TABLE {copy} RENAME COLUMN {old} TO {new}"
READ = """
SELECT pg_get_expr(i.indpred, i.indrelid),
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_depend d JOIN pg_attribute a
             ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
               AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid)
FROM pg_index i WHERE i.indrelid = $1::regclass AND i.indpred IS NOT NULL
"""


@dataclass(frozen=True)
class Condition:
    """text: SQL with qualified names. columns: those that it reads, and the table's first key."""

    text: str
    columns: tuple[str, ...]


def read_condition(conn: psycopg.Connection[Any], table: Table, where: str) -> Condition:
    """What a user's condition means under the present search_path.

    It becomes the predicate of an index on an empty copy of the table: that is the server's own
    proof that it is boolean and immutable, and reads nothing but its row. Raises SchemaError.
    """
    copy = sql.Identifier("pg_temp", table.name)
    run(conn, COPY, name=sql.Identifier(table.name), table=table.identifier)
    _index(conn, copy, table, where)
    with fixed_path(conn):
        row = run(conn, READ, copy.as_string(None)).fetchone()
        run(conn, "DROP TABLE {copy}", copy=copy)
    if row is None:
        raise SchemaError(f"the condition {where!r} is always true: leave it out")
    return Condition(row[0], tuple(row[1]))


def reword(
    conn: psycopg.Connection[Any],
    table: sql.Identifier,
    condition: str,
    *,
    key: str,
    former: Mapping[str, str],
) -> str:
    """A condition after columns were renamed. Under `fixed_path`, or a like search_path.

    former: what the columns that it may read were called, by their names of now; among them key.
    The server itself rewords it, as the predicate of an index whose columns are renamed.
    """
    copy = sql.Identifier("pg_temp", "taskvec_reworded")
    columns = [fill("{new} AS {old}", new=name(new), old=name(old)) for new, old in former.items()]
    bare = sql.Identifier("taskvec_reworded")
    run(conn, COPY_FORMER, name=bare, columns=COMMA.join(columns), table=table)
    run(conn, INDEX, copy=copy, key=name(former[key]), where=sql.SQL(condition))
    # In two steps: one column may have taken another one's name.
    passing = [(f"taskvec {place}", new, old) for place, (new, old) in enumerate(former.items())]
    for between, _, old in passing:
        run(conn, RENAME, copy=copy, old=name(old), new=name(between))
    for between, new, _ in passing:
        run(conn, RENAME, copy=copy, old=name(between), new=name(new))
    row = run(conn, READ, copy.as_string(None)).fetchone()
    run(conn, "DROP TABLE {copy}", copy=copy)
    return str(row[0]) if row else condition


def _index(conn: psycopg.Connection[Any], copy: sql.Identifier, table: Table, where: str) -> None:
    key = sql.Identifier(table.keys[0].name)
    try:
        run_single(conn, fill(INDEX, copy=copy, key=key, where=sql.SQL(where)))
    except psycopg.errors.InsufficientPrivilege:
        raise
    except psycopg.Error as error:
        raise SchemaError(
            f"the condition {where!r} does not serve: {error.diag.message_primary}. It may read "
            "only its own row, and use what is IMMUTABLE"
        ) from None
