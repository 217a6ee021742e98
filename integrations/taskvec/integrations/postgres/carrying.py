"""Carries over to a successor what users made of its column, and names what cannot be carried."""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres.indexes import FIRST_PASSES, Index, Place, Vectors, build
from taskvec.integrations.postgres.registry import fixed_path
from taskvec.integrations.postgres.statements import run

# What goes with a column or a chunk table, save what was made here. head: what stands before USING.
INDEXES = """
SELECT t.oid, n.nspname, t.relname, t.relkind = 'p', x.oid, x.relname, i.indisunique,
  pg_catalog.substr(pg_catalog.pg_get_indexdef(x.oid), pg_catalog.length(pg_catalog.format(
    'CREATE %sINDEX %I ON %s%I.%I ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname,
    CASE WHEN x.relkind = 'I' THEN 'ONLY ' ELSE '' END, n.nspname, t.relname)) + 1),
  m.amname = 'hnsw' AND o.opcname LIKE '%cosine\\_ops' AND i.indkey[0] = a.attnum
    AND i.indpred IS NULL, coalesce(x.reloptions, ARRAY[]::text[])
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = x.relam
JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0]
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attname = $2
WHERE (t.oid = $1 OR t.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass)))
  AND i.indisvalid AND NOT i.indisprimary AND x.relname <> ALL ($3)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = x.oid)
  AND ($4 OR EXISTS (SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = x.oid
      AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = t.oid
      AND d.refobjsubid = a.attnum))
ORDER BY x.oid
"""
# An empty copy, whose columns are then called as the successor's will be.
COPY = "CREATE TEMP TABLE taskvec_copy (LIKE {table}) ON COMMIT DROP"
COPY_INDEX = "CREATE INDEX taskvec_copy_index ON pg_temp.taskvec_copy {definition}"
RENAME = """
ALTER TABLE pg_temp.taskvec_copy DROP COLUMN {new};
ALTER TABLE pg_temp.taskvec_copy RENAME COLUMN {old} TO {new}
"""
RENAMED = """
SELECT pg_catalog.substr(d, pg_catalog.strpos(d, ' USING ') + 1)
FROM pg_catalog.pg_get_indexdef('pg_temp.taskvec_copy_index'::regclass) d
"""
OF_COLUMN = """
SELECT 'constraint ' || c.conname FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
WHERE c.conrelid = $1 AND a.attname = $2 AND c.contype IN ('c', 'u', 'x')
UNION ALL SELECT 'default ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid)
FROM pg_catalog.pg_attrdef d
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE d.adrelid = $1 AND a.attname = $2
"""
OF_CHUNKS = """
SELECT 'constraint ' || conname FROM pg_catalog.pg_constraint
WHERE conrelid = $1 AND contype IN ('c', 'f', 'u', 'x')
UNION ALL SELECT 'trigger ' || tgname FROM pg_catalog.pg_trigger
WHERE tgrelid = $1 AND NOT tgisinternal
UNION ALL SELECT 'rule ' || rulename FROM pg_catalog.pg_rewrite WHERE ev_class = $1
UNION ALL SELECT 'column ' || a.attname FROM pg_catalog.pg_attribute a
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_attribute b WHERE b.attrelid = $2 AND b.attname = a.attname)
UNION ALL SELECT 'publication ' || p.pubname FROM pg_catalog.pg_publication_rel r
JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = $1
UNION ALL SELECT 'parent ' || inhparent::regclass::text FROM pg_catalog.pg_inherits
WHERE inhrelid = $1
"""

# Of a column: how it is stored, where that is not its type's way; its statistics, where they are
# not the server's; its comment.
SETTINGS = """
SELECT CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text END,
  CASE WHEN a.attstattarget >= 0 THEN a.attstattarget END,
  pg_catalog.col_description(a.attrelid, a.attnum)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attname = $2
"""
STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}


@dataclass(frozen=True)
class UserIndex:
    """An index that a user made over vectors, or over a chunk table.

    definition: from USING on. whole: of the plain kind that `attach` makes. options: its WITH.
    """

    place: Place
    oid: int
    name: str
    unique: bool
    definition: str
    whole: bool
    options: list[str]

    def successor(self, new: Vectors) -> tuple[Place, str]:
        """Where the index that succeeds it stands, and what that is called until a swap."""
        place = new.place if new.chunked else self.place
        return place, f"taskvec_{new.column.id}_like_{self.oid}"


def user_indexes(conn: psycopg.Connection[Any], vectors: Vectors) -> list[UserIndex]:
    """The indexes that users made, and that would go with a column or its chunk table."""
    own = [vectors.index_name(first_pass) for first_pass in (None, *FIRST_PASSES)]
    place = vectors.place
    with conn.transaction(), fixed_path(conn):
        rows = run(conn, INDEXES, place.oid, vectors.name, own, vectors.chunked).fetchall()
    return [UserIndex(Place(*row[:4]), *row[4:]) for row in rows]


def carry(conn: psycopg.Connection[Any], old: Vectors, new: Vectors, *, concurrently: bool) -> None:
    """Make the indexes that users made over vectors for their successor, unless they are there.

    Raises SchemaError for one that the successor's vectors do not fit.
    """
    for index in user_indexes(conn, old):
        place, called = index.successor(new)
        made = Index(called, _definition(conn, index, old, new), index.unique)
        try:
            build(conn, place, made, concurrently=concurrently)
        except (psycopg.DataError, psycopg.ProgrammingError) as error:
            raise SchemaError(
                f"index {index.name!r} of {old.column} does not fit its successor: "
                f"{error.diag.message_primary}. Drop it, and swap then"
            ) from error


def carry_settings(
    conn: psycopg.Connection[Any], table: sql.Identifier, old: str, new: str
) -> None:
    """Store a new column as the old one is, with its statistics' target and its comment."""
    found = run(conn, SETTINGS, table.as_string(conn), old).fetchone()
    storage, target, comment = found or (None, None, None)
    parts = {"table": table, "column": sql.Identifier(new)}
    alter = "ALTER TABLE {table} ALTER COLUMN {column} SET "
    if storage is not None:
        run(conn, alter + "STORAGE {way}", way=sql.SQL(STORAGE[storage]), **parts)
    if target is not None:
        run(conn, alter + "STATISTICS {target}", target=sql.Literal(target), **parts)
    if comment is not None:
        said = sql.Literal(comment)
        run(conn, "COMMENT ON COLUMN {table}.{column} IS {said}", said=said, **parts)


def require_carried(conn: psycopg.Connection[Any], old: Vectors, new: Vectors) -> None:
    """Raise SchemaError for what would go with a column or its chunks, and cannot be carried."""
    if old.chunked:
        lost = run(conn, OF_CHUNKS, old.place.oid, new.place.oid).fetchall()
    else:
        lost = run(conn, OF_COLUMN, old.place.oid, old.name).fetchall()
    if lost:
        what = "chunk table" if old.chunked else "column"
        listed = ", ".join(one for (one,) in lost)
        raise SchemaError(
            f"{old.column} cannot be swapped: its {what} has {listed}, which its successor would "
            "lack. Drop that, swap, and make it anew"
        )


def _definition(
    conn: psycopg.Connection[Any], index: UserIndex, old: Vectors, new: Vectors
) -> sql.Composed:
    if index.whole:
        # Of another type perhaps, and then with that type's operators.
        options = f" WITH ({', '.join(index.options)})" if index.options else ""
        return new.definition(None) + sql.SQL(options)
    definition = sql.Composed([sql.SQL(index.definition)])
    if new.chunked:
        return definition
    columns = {"old": sql.Identifier(old.name), "new": sql.Identifier(new.name)}
    with conn.transaction(), fixed_path(conn):
        run(conn, COPY, table=index.place.identifier)
        run(conn, COPY_INDEX, definition=definition)
        run(conn, RENAME, **columns)
        (renamed,) = run(conn, RENAMED).fetchone() or ("",)
        run(conn, "DROP TABLE pg_temp.taskvec_copy")
    return sql.Composed([sql.SQL(renamed)])
