"""Row-level security: a role that does not see all rows takes those that are hidden for deleted."""

from typing import Any

import psycopg
from psycopg import sql

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres.statements import run

ACTIVE = "SELECT row_security_active(to_regclass($1)::oid), current_user"


class HiddenError(SchemaError):
    """Policies may hide rows of a table from the role that is to keep a column of it right."""


def require_all_rows(conn: psycopg.Connection[Any], *tables: sql.Identifier) -> None:
    """Raise HiddenError where a table's policies apply to this role, whatever they let it see."""
    for table in tables:
        spelled = table.as_string(None)
        active, role = run(conn, ACTIVE, spelled).fetchone() or (False, "")
        if active:
            raise HiddenError(
                f"row-level security may hide rows of {spelled} from the role {role!r}, which "
                f"would count as deleted: ALTER ROLE {role} BYPASSRLS, or take the table's owner, "
                "whom policies do not apply to without FORCE ROW LEVEL SECURITY"
            )
