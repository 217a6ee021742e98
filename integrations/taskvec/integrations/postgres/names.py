"""Facts about a user's table, as the catalogue has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from taskvec.core.errors import SchemaError
from taskvec.integrations.postgres.statements import run

FIND = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relispartition, c.relpersistence::text,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid),
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid),
       pg_has_role(c.relowner, 'USAGE'), has_table_privilege(c.oid, 'TRIGGER')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = {which}
"""
COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typname, a.atttypmod, a.attgenerated <> ''
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
# Strategies 3 and 5 of a btree are its = and >: a type's own may stand in any schema.
KEYS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), n.nspname
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
CROSS JOIN unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY k (number, class, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
JOIN pg_opclass o ON o.oid = k.class
JOIN pg_amop s ON s.amopfamily = o.opcfamily AND s.amopstrategy = 3
     AND s.amoplefttype = o.opcintype AND s.amoprighttype = o.opcintype
JOIN pg_operator e ON e.oid = s.amopopr
JOIN pg_namespace n ON n.oid = e.oprnamespace
WHERE i.indrelid = $1 AND i.indisprimary ORDER BY k.place
"""
EXTENSION = """
SELECT n.nspname, e.extversion FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'vector'
"""
OLDEST_PGVECTOR = (0, 7)


@dataclass(frozen=True)
class Field:
    """A column of a table. size: the type's modifier, a vector's dim; -1 where it has none."""

    name: str
    type: str
    base: str
    size: int
    generated: bool


@dataclass(frozen=True)
class Key:
    """A column of the primary key. schema: where the type's comparison operators stand."""

    name: str
    type: str
    schema: str

    def operator(self, sign: str) -> sql.Composed:
        """The key's own comparison, whatever the search_path."""
        return sql.SQL("OPERATOR({}.{})").format(sql.Identifier(self.schema), sql.SQL(sign))


@dataclass(frozen=True)
class Table:
    """A table that can have columns attached."""

    oid: int
    schema: str
    name: str
    partitioned: bool
    owned: bool
    fields: dict[str, Field]
    keys: tuple[Key, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """The table's quoted name."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return self.identifier.as_string(None)

    def require_owner(self, act: str) -> None:
        """Raise SchemaError unless this role owns the table."""
        if not self.owned:
            raise SchemaError(f"no privilege to {act}: only the owner of {self} may")

    def require_key(self) -> None:
        """Raise SchemaError unless there is a primary key."""
        if not self.keys:
            raise SchemaError(
                f"{self} has no primary key: a row needs one to be found again; "
                f"ALTER TABLE {self} ADD PRIMARY KEY (…)"
            )

    def require(self, columns: Sequence[str], use: str) -> None:
        """Raise SchemaError unless all columns exist."""
        if missing := [column for column in columns if column not in self.fields]:
            known = list(self.fields)
            raise SchemaError(f"no columns {missing} for {use} in {self}: it has {known}")


def find_table(conn: psycopg.Connection[Any], table: str) -> int:
    """The oid of a table that can have columns attached. Raises SchemaError for any other."""
    try:
        row = run(conn, FIND, table, which=sql.SQL("to_regclass($1)")).fetchone()
    except (psycopg.errors.InvalidName, psycopg.errors.SyntaxError) as error:
        raise SchemaError(f"{table!r} is no table's name: {error.diag.message_primary}") from None
    if row is None:
        raise SchemaError(f"no table {table!r}: write it as in SQL, with quotes for capitals")
    oid, _, _, kind, is_partition, persistence, has_children, is_child, _, may_trigger = row
    _refuse_kind(table, kind, persistence)
    if is_partition:
        raise SchemaError(f"{table!r} is a partition: attach the partitioned table it belongs to")
    if kind == "r" and has_children:
        raise SchemaError(f"{table!r} has tables that inherit from it: partition it instead")
    if is_child:
        raise SchemaError(f"{table!r} inherits from another table: partition that one instead")
    if not may_trigger:
        raise SchemaError(
            f"no privilege to create triggers on {table!r}: GRANT TRIGGER on it, or be its owner"
        )
    return int(oid)


def read_table(conn: psycopg.Connection[Any], oid: int) -> Table:
    """The facts of a table. Raises SchemaError where it is gone."""
    found = run(conn, FIND, oid, which=sql.SQL("$1::oid")).fetchone()
    if found is None:
        raise SchemaError(f"the table with oid {oid} is gone")
    _, schema, name, kind, _, _, _, _, owned, _ = found
    fields = {row[0]: Field(*row) for row in run(conn, COLUMNS, oid)}
    keys = tuple(Key(*row) for row in run(conn, KEYS, oid))
    return Table(oid, schema, name, kind == "p", owned, fields, keys)


def vector_schema(conn: psycopg.Connection[Any]) -> str:
    """The schema that pgvector's types stand in. Raises SchemaError where it is missing or old."""
    row = run(conn, EXTENSION).fetchone()
    if row is None:
        raise SchemaError("the extension vector is missing: CREATE EXTENSION vector")
    schema, version = row
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PGVECTOR:
        raise SchemaError(f"pgvector {version} is too old: ALTER EXTENSION vector UPDATE to 0.7")
    return str(schema)


def _refuse_kind(table: str, kind: str, persistence: str) -> None:
    if kind not in {"r", "p"}:
        raise SchemaError(f"{table!r} is no table: views and foreign tables have no triggers")
    if persistence == "t":
        raise SchemaError(f"{table!r} is temporary: a worker could not see it")
