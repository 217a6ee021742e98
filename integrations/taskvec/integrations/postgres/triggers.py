"""Triggers that put a changed row's key into its column's queue, and take a deleted one out.

They run as whoever attached the column, so that a writer needs rights on the table alone. An
unrelated UPDATE runs none of them: transition tables would copy every row of it, and PostgreSQL
allows them no list of columns, so UPDATE is followed row by row, the rest by statement.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql

from taskvec.integrations.postgres.registry import CHANNEL, Column
from taskvec.integrations.postgres.statements import AND, OR, fill, name, names, run

# A lease in force is ended: what its worker reads is no longer what the row says.
ENQUEUE = """INSERT INTO {queue} AS q ({keys}) {rows}
  ON CONFLICT ({keys}) DO UPDATE SET version = DEFAULT, priority = 0, not_before = now(),
    lease = NULL, leased_until = NULL, attempts = 0, lost = 0, error = NULL,
    parked = false;
"""
NOTIFY = "PERFORM pg_notify({channel}, {id});\n"
# Tables are looked up by oid: they may have been renamed, or restored from a dump; a chunk table
# that was dropped is NULL here.
LOOKING_UP = """DECLARE
  taken boolean;
  attached text := (SELECT c.relation::text FROM taskvec.columns c WHERE c.id = {id});
  chunked text := (SELECT c.chunks::text FROM taskvec.columns c JOIN pg_class r ON r.oid = c.chunks
                   WHERE c.id = {id});
  isolated boolean := current_setting('transaction_isolation') <> 'read committed';
BEGIN
{statements}END;
"""
BODY = "BEGIN\n{statements}RETURN NULL;\nEND"
IF_MOVED = "IF {moved} THEN\n{leaving}END IF;\n"
KEY_LEAVES = """EXECUTE 'SELECT EXISTS (SELECT FROM ' || attached || {same}
  INTO STRICT taken USING {old};
IF NOT taken THEN
  {leave}
END IF;
"""
ROW_LEAVES = "DELETE FROM {queue} q WHERE {same};\n"
# An old snapshot does not see the chunks that a worker has just written: a worker takes them out.
ROW_CHUNKS_LEAVE = """IF chunked IS NOT NULL THEN
  EXECUTE 'DELETE FROM ' || chunked || {same} USING {old};
  IF isolated THEN
    {enqueue}{notify}
  END IF;
END IF;
"""
ROWS_LEAVE = "DELETE FROM {queue} q USING (SELECT {aliased} FROM old_rows) o WHERE {same};\n"
CHUNKS_LEAVE = """IF chunked IS NOT NULL THEN
  EXECUTE 'DELETE FROM ' || chunked || {same};
  IF isolated THEN
    {enqueue}{notify}
  END IF;
END IF;
"""
# DELETE is what no reader waits for or can deadlock with; an old snapshot would leave rows behind.
TRUNCATED = """IF isolated THEN
  TRUNCATE {queue};
  IF chunked IS NOT NULL THEN EXECUTE 'TRUNCATE ' || chunked; END IF;
ELSE
  DELETE FROM {queue};
  IF chunked IS NOT NULL THEN EXECUTE 'DELETE FROM ' || chunked; END IF;
END IF;
"""
# One partition may have been truncated, or all.
PART_TRUNCATED = """EXECUTE {delete} || attached || {same};
IF chunked IS NOT NULL THEN
  EXECUTE 'DELETE FROM ' || chunked || {chunks} || attached || {chunk_same};
END IF;
"""
FUNCTION = """CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body};
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
EVENTS = ("inserted", "updated", "deleted", "truncated", "noticed")


def install(conn: psycopg.Connection[Any], column: Column) -> None:
    """Create a column's functions and triggers, or bring those that exist up to date."""
    bodies = _bodies(column, notify_row=column.table.partitioned or _changed_before(conn, column))
    for event, body in bodies.items():
        text = sql.Literal(body.as_string(conn))
        run(conn, FUNCTION, function=function(column, event), body=text)
    for statement in _triggers(conn, column):
        run(conn, "{statement}", statement=statement)


def remove(conn: psycopg.Connection[Any], column_id: int) -> None:
    """Drop a column's functions, and with them its triggers on whatever table."""
    own = [f"{event}_{column_id}" for event in EVENTS]
    for schema, function_name in run(conn, OWNED, own).fetchall():
        run(conn, "DROP FUNCTION {f}() CASCADE", f=sql.Identifier(schema, function_name))


def outdated(conn: psycopg.Connection[Any], column: Column) -> bool:
    """Whether the triggers no longer fit the table.

    One is missing or off, a BEFORE trigger may change a source unseen, or a partition was added.
    """
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
    changed = fill(" WHEN ({changed})", changed=_differs(column.watched))
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


def _bodies(column: Column, *, notify_row: bool) -> dict[str, sql.Composed]:
    """The functions' bodies. notify_row: the row's own function notifies, none by statement."""
    parts = _Parts(column)
    by_row = column.table.partitioned
    update = [parts.enqueue_row("NEW"), parts.moved(), *([parts.notify()] if notify_row else [])]
    return {
        "inserted": parts.body(
            parts.enqueue_row("NEW") if by_row else parts.enqueue_rows("new_rows"), parts.notify()
        ),
        "updated": parts.body(*update),
        "deleted": parts.body(parts.row_deleted() if by_row else parts.rows_leave()),
        "truncated": parts.body(
            parts.looking_up(parts.part_truncated() if by_row else parts.truncated())
        ),
        "noticed": parts.body(parts.notify()),
    }


class _Parts:
    """Statements of the trigger functions of one column."""

    def __init__(self, column: Column) -> None:
        self.column = column

    def body(self, *statements: sql.Composed) -> sql.Composed:
        return fill(BODY, statements=sql.Composed(statements))

    def looking_up(self, *statements: sql.Composed) -> sql.Composed:
        """Statements that may use the tables' names, which takes queries of its own."""
        id_ = sql.Literal(self.column.id)
        return fill(LOOKING_UP, id=id_, statements=sql.Composed(statements))

    def notify(self) -> sql.Composed:
        return fill(NOTIFY, channel=sql.Literal(CHANNEL), id=sql.Literal(str(self.column.id)))

    def enqueue(self, rows: sql.Composed) -> sql.Composed:
        return fill(ENQUEUE, queue=self.column.queue, keys=self.column.plain(), rows=rows)

    def enqueue_row(self, which: str) -> sql.Composed:
        return self.enqueue(fill("VALUES ({values})", values=self.column.own(which)))

    def enqueue_rows(self, which: str) -> sql.Composed:
        keys = self.column.own()
        text = "SELECT DISTINCT {keys} FROM {table} ORDER BY {keys}"
        return self.enqueue(fill(text, keys=keys, table=sql.SQL(which)))

    def moved(self) -> sql.Composed:
        leaving = fill(
            KEY_LEAVES,
            same=self._text(" d WHERE {same})", self._equals("d")),
            old=self.column.own("OLD"),
            leave=self.row_leaves(),
        )
        moved = _differs([key.name for key in self.column.keys])
        return fill(IF_MOVED, moved=moved, leaving=self.looking_up(leaving))

    def row_deleted(self) -> sql.Composed:
        leaving = self.row_leaves()
        return leaving if self.column.chunks is None else self.looking_up(leaving)

    def row_leaves(self) -> sql.Composed:
        column = self.column
        olds = [name(key.name, "OLD") for key in column.keys]
        same = _pairs(column, [name(f"key_{i + 1}", "q") for i, _ in enumerate(olds)], olds)
        queued = fill(ROW_LEAVES, queue=column.queue, same=same)
        if column.chunks is None:
            return queued
        return queued + fill(
            ROW_CHUNKS_LEAVE,
            same=self._text(" c WHERE {same}", self._equals("c")),
            old=column.own("OLD"),
            enqueue=self.enqueue_row("OLD"),
            notify=self.notify(),
        )

    def rows_leave(self) -> sql.Composed:
        column, aliased = self.column, self.column.aliased()
        same = column.matches("q", "o", own=False)
        queued = fill(ROWS_LEAVE, queue=column.queue, aliased=aliased, same=same)
        if column.chunks is None:
            return queued
        text = " c USING (SELECT {aliased} FROM old_rows) o WHERE {same}"
        chunks = fill(
            CHUNKS_LEAVE,
            same=self._text(text, column.matches("c", "o"), aliased=aliased),
            enqueue=self.enqueue_rows("old_rows"),
            notify=self.notify(),
        )
        return queued + self.looking_up(chunks)

    def truncated(self) -> sql.Composed:
        return fill(TRUNCATED, queue=self.column.queue)

    def part_truncated(self) -> sql.Composed:
        column = self.column
        mine = [name(key.name, "d") for key in column.keys]
        chunk_keys = [name(key.name, "t") for key in column.keys]
        return fill(
            PART_TRUNCATED,
            delete=self._text("DELETE FROM {same} t WHERE NOT EXISTS (SELECT FROM ", column.queue),
            same=self._text(" d WHERE {same})", column.matches("d", "t")),
            chunks=sql.Literal(" t WHERE NOT EXISTS (SELECT FROM "),
            chunk_same=self._text(" d WHERE {same})", _pairs(column, mine, chunk_keys)),
        )

    def _equals(self, alias: str) -> sql.Composed:
        """The alias' key equals the parameters $1, $2 and so on."""
        keys = self.column.keys
        mine = [name(key.name, alias) for key in keys]
        return _pairs(self.column, mine, [sql.SQL(f"${i}") for i, _ in enumerate(keys, 1)])

    def _text(self, statement: str, same: sql.Composable, **parts: sql.Composable) -> sql.Literal:
        """A piece of SQL as a literal, for EXECUTE."""
        return sql.Literal(fill(statement, same=same, **parts).as_string(None))


def _pairs(
    column: Column, left: Sequence[sql.Composable], right: Sequence[sql.Composable]
) -> sql.Composed:
    """Left = right of each key, by the key's own operator."""
    return AND.join(
        [
            sql.SQL(" ").join([mine, key.operator("="), other])
            for mine, key, other in zip(left, column.keys, right, strict=True)
        ]
    )


def _differs(columns: Sequence[str]) -> sql.Composed:
    """Whether any column differs between OLD and NEW, to the byte and for any type."""
    text = '{old}::text COLLATE pg_catalog."C" IS DISTINCT FROM {new}::text COLLATE pg_catalog."C"'
    return OR.join([fill(text, old=name(c, "OLD"), new=name(c, "NEW")) for c in columns])
