"""Lets the registry call columns as their tables do by now: a renamed column keeps its number."""

import logging
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from taskvec.integrations.postgres import registry
from taskvec.integrations.postgres.conditions import reword
from taskvec.integrations.postgres.statements import fill, run

LOG = logging.getLogger("taskvec.postgres")
NUMBERS = """
(SELECT jsonb_object_agg(a.attname, a.attnum) FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = {relation} AND a.attnum > 0 AND NOT a.attisdropped)
"""
UPDATE = """
UPDATE taskvec.columns SET embedding = $2, sources = $3, keys = $4, watched = $5, condition = $6,
  numbered = relation, numbers = {numbers}
WHERE id = $1
"""


def numbers(relation: str) -> sql.Composed:
    """The numbers of a table's columns, by name, as SQL. relation: the table's oid, as SQL."""
    return fill(NUMBERS, relation=sql.SQL(relation))


def follow(conn: psycopg.Connection[Any]) -> None:
    """Write into the registry what has been renamed. Under `fixed_path`, or a like search_path.

    A column whose condition does not fit any more, or may not be read, is left for later.
    """
    with conn.transaction():
        run(conn, "SET CONSTRAINTS ALL DEFERRED")
        for row in registry.rows(conn):
            if row["renamed"] and row["problem"] is None:
                try:
                    with conn.transaction():
                        _follow(conn, row)
                except psycopg.Error as error:
                    if conn.closed:
                        raise
                    LOG.info("column %s was renamed, following later: %s", row["id"], error)


def _follow(conn: psycopg.Connection[Any], row: Mapping[str, Any]) -> None:
    condition = _condition(conn, row)
    lists = [row[part] for part in registry.NAMING]
    values = [row["id"], row["embedding"], *lists, condition]
    run(conn, UPDATE, *values, numbers=numbers("relation"))


def _condition(conn: psycopg.Connection[Any], row: Mapping[str, Any]) -> str | None:
    condition: str | None = row["condition"]
    former = {new: old for old, new in row["names"].items() if new in row["watched"]}
    if condition is None or all(new == old for new, old in former.items()):
        return condition
    table = sql.Identifier(row["schema"], row["table"])
    return reword(conn, table, condition, key=row["keys"][0], former=former)
