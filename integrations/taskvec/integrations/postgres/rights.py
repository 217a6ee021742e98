"""What a role needs to work on a column, and what it lacks of that."""

from typing import Any

import psycopg

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres.registry import Column
from taskvec.integrations.postgres.statements import run

# Relations go by their oids: a name is looked up with rights on its schema alone. Any column serves
# where none is named: UPDATE of one is what locking a row takes.
LACKING = """
SELECT format('GRANT %s ON %s TO %I', string_agg(g.what, ', ' ORDER BY g.what), g.place,
  current_user)
FROM (
  SELECT 'TEMPORARY', format('DATABASE %I', current_database())
  WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
  UNION ALL
  SELECT 'USAGE', format('SCHEMA %I', n.nspname) FROM pg_namespace n
  WHERE n.nspname = ANY($1) AND NOT has_schema_privilege(n.oid, 'USAGE')
  UNION ALL
  SELECT p.privilege || coalesce(' (' || quote_ident(p.field) || ')', ''), p.oid::regclass::text
  FROM (
    SELECT c.oid, p.privilege, p.field
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) p (schema, name, privilege, field)
    JOIN pg_namespace n ON n.nspname = p.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.name
    OFFSET 0  -- a column is looked for in no other table of the name
  ) p
  WHERE NOT CASE WHEN p.field IS NOT NULL THEN has_column_privilege(p.oid, p.field, p.privilege)
    WHEN p.privilege = 'UPDATE' THEN has_any_column_privilege(p.oid, p.privilege)
    ELSE has_table_privilege(p.oid, p.privilege) END
) g (what, place) GROUP BY g.place ORDER BY g.place
"""


def require_rights(conn: psycopg.Connection[Any], column: Column) -> None:
    """Raise DeniedError unless this role may do all that a worker does. Under `fixed_path`."""
    needed = list(zip(*_needed(column), strict=True))
    lacking = [grant for (grant,) in run(conn, LACKING, *map(list, needed))]
    if lacking:
        raise DeniedError(f"this role may not work on {column}: {'; '.join(lacking)}")


def _needed(column: Column) -> list[tuple[str, str, str, str | None]]:
    """Schema, name, privilege, and the column that it is of."""
    table, queue = (column.table.schema, column.table.name), ("taskvec", f"queue_{column.id}")
    needed: list[tuple[str, str, str, str | None]] = [
        ("taskvec", "columns", "UPDATE", None),
        (*table, "SELECT", None),
        (*table, "UPDATE", column.embedding),
    ]
    needed += [(*queue, privilege, None) for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE")]
    if column.chunks is not None:
        needed += [
            (*column.chunks, privilege, None) for privilege in ("SELECT", "INSERT", "DELETE")
        ]
    return needed


class DeniedError(SchemaError):
    """This role lacks a right that a worker needs."""
