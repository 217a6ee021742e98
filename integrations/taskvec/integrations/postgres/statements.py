"""Composes and runs SQL with names of any spelling; values travel apart from the statement."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from taskvec.core.errors import MissingExtraError, StoreError

try:
    import psycopg
    from psycopg import sql
    from psycopg.rows import tuple_row

    from taskvec.integrations.connecting import connect
except ImportError as error:
    raise MissingExtraError("taskvec.integrations.postgres", "postgres") from error

COMMA, AND, OR = sql.SQL(", "), sql.SQL(" AND "), sql.SQL(" OR ")


def fill(statement: str, /, **parts: sql.Composable) -> sql.Composed:
    """A statement with its {names} filled in."""
    return sql.SQL(statement).format(**parts)


def run(
    conn: psycopg.Connection[Any], statement: str, /, *values: object, **parts: sql.Composable
) -> psycopg.RawCursor[tuple[Any, ...]]:
    """Run a statement with {names} of parts and $1, $2 … of values; a '%' in it means itself."""
    cursor = psycopg.RawCursor(conn, row_factory=tuple_row)
    return cursor.execute(fill(statement, **parts), values or None)


def run_single(conn: psycopg.Connection[Any], statement: sql.Composed) -> None:
    """Run text that a user wrote a part of: the server refuses more than one statement."""
    psycopg.RawCursor(conn).execute(statement, prepare=True)


def each(template: str, count: int) -> sql.Composed:
    """The template with {i} as 1 … count, joined by commas: "key_{i}" gives key_1, key_2."""
    return COMMA.join([sql.SQL(template.replace("{i}", str(i + 1))) for i in range(count)])


def names(columns: Iterable[str], table: str = "") -> sql.Composed:
    """Quoted column names, joined by commas; of an alias where one is given."""
    return COMMA.join([name(column, table) for column in columns])


def name(column: str, table: str = "") -> sql.Composed:
    """One quoted column name, of an alias where one is given."""
    return sql.SQL(f"{table}." if table else "") + sql.Identifier(column)


@contextmanager
def connected(
    place: str | psycopg.Connection[Any],
) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit by its DSN, or the one given. Errors become StoreError."""
    try:
        if isinstance(place, str):
            with connect(place) as conn:
                yield conn
        else:
            yield place
    except psycopg.Error as error:
        raise StoreError(str(error).strip() or type(error).__name__) from error


def several(values: str | Sequence[str]) -> tuple[str, ...]:
    """One name or many, as a tuple."""
    return (values,) if isinstance(values, str) else tuple(values)
