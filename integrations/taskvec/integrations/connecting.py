"""Opens connections to Postgres that notice when the other side goes without a word."""

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

# A dead peer is noticed within half a minute, whether the connection is idle or waits for a reply;
# the system's own defaults take hours. Over a Unix socket only the first two mean anything.
DEFAULTS: dict[str, str | int] = {
    "application_name": "taskvec",
    "connect_timeout": 15,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # in milliseconds
}


def connect(dsn: str, **more: str | int) -> psycopg.Connection[Any]:
    """A new connection in autocommit. What the DSN or the environment says goes before DEFAULTS.

    more: defaults beside these, by libpq's keywords.
    """
    given = conninfo_to_dict(dsn).keys() | _of_environment()
    known = DEFAULTS | more
    defaults: dict[str, Any] = {key: known[key] for key in known.keys() - given}
    return psycopg.connect(dsn, autocommit=True, **defaults)


def _of_environment() -> set[str]:
    """The options that libpq's variables set, and the service file that PGSERVICE names."""
    options = Conninfo.get_defaults()
    return {one.keyword.decode() for one in options if one.val not in {None, one.compiled}}
