"""Finds out which Postgres server a command means, and keeps its password out of messages."""

import os

from taskvec.core.errors import InputError
from taskvec.integrations.cli.pg_parser import DSN_VARIABLES
from taskvec.integrations.extras import needs_extra

NOT_UNDERSTOOD = "the DSN is not one that Postgres understands"


def server_dsn(given: str | None) -> str:
    """The DSN of an option or of the environment. Raises InputError for none, or a broken one."""
    dsn = given or next(filter(None, map(os.environ.get, DSN_VARIABLES)), None)
    if not dsn:
        raise InputError(f"no server: give --dsn postgresql://…, or set {DSN_VARIABLES[0]}")
    # SQLAlchemy's URLs name a driver, which libpq does not know.
    dsn = dsn.replace("postgresql+psycopg://", "postgresql://", 1)
    _check(dsn)
    return dsn


def _check(dsn: str) -> None:
    """Refuse what libpq would cut wrongly: its message could hold a piece of the password."""
    with needs_extra("taskvec pg", "postgres"):
        import psycopg
    try:
        options = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise InputError(NOT_UNDERSTOOD) from None
    places = f"{options.get('host') or ''}{options.get('dbname') or ''}"
    ports = str(options.get("port") or "").replace(",", "")
    if ("@" in places) or (ports and not ports.isdecimal()):
        raise InputError(f"{NOT_UNDERSTOOD}: write '@' as %40, ':' as %3A and '/' as %2F in names")
