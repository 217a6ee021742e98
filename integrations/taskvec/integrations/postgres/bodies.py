"""The bodies of trigger functions.

No writer gets an error because a column of the key was renamed. PostgreSQL lets triggers follow
renames, but not the text of their functions: where the names in it do not serve, they are looked
up, which is slower, until a worker has made the functions anew.
"""

import re
from collections.abc import Callable, Sequence

from psycopg import sql

from taskvec.integrations.postgres.registry import CHANNEL, Column
from taskvec.integrations.postgres.statements import AND, COMMA, OR, fill, name

# A lease in force is ended: what its worker reads is no longer what the row says.
ENQUEUE = """INSERT INTO {queue} AS q ({keys}) {rows}
  ON CONFLICT ({keys}) DO UPDATE SET version = DEFAULT, priority = 0, not_before = now(),
    lease = NULL, leased_until = NULL, attempts = 0, lost = 0, error = NULL,
    parked = false;
"""
NOTIFY = "PERFORM pg_notify({channel}, {id});\n"
BODY = "BEGIN\n{statements}RETURN NULL;\nEND"
# What the key's columns are called by now; NULL where one is gone. An old snapshot has the
# attname of then, and the object's address that of now.
NAMED = """(SELECT array_agg((pg_identify_object_as_address('pg_class'::regclass, c.relation,
      a.attnum)).object_names[3] ORDER BY k.place)
    FROM taskvec.columns c CROSS JOIN unnest(c.keys) WITH ORDINALITY k (name, place)
    JOIN pg_attribute a ON a.attrelid = c.relation AND NOT a.attisdropped AND CASE
      WHEN c.numbered = c.relation THEN a.attnum = (c.numbers ->> k.name)::integer
      ELSE a.attname = k.name END
    WHERE c.id = {id} HAVING count(*) = {count})"""
# An error in a block of its own costs writers nothing: the block writes nothing. A key that is
# NULL is none any more, which a worker tells of. A column may be called like a variable, such as
# TG_OP or FOUND: it goes first, and where it is qualified no variable takes a lost one's place.
ROW_BODY = """#variable_conflict use_column
DECLARE
  named text[];
  texts text[];
{variables}BEGIN
BEGIN
{assigned}EXCEPTION WHEN others THEN
  named := {named};
  IF named IS NULL THEN RETURN NULL; END IF;
{extracted}END;
IF num_nulls({all}) > 0 THEN RETURN NULL; END IF;
{statements}RETURN NULL;
END"""
EXTRACT = """  EXECUTE format({read}, VARIADIC named) INTO texts USING {row};
{assigned}"""
ROWS_BODY = """#variable_conflict use_column
DECLARE
  named text[];
  known boolean;
BEGIN
BEGIN
  known := (SELECT {typed} FROM {rows} r LIMIT 1);
EXCEPTION WHEN undefined_column THEN
  known := false;
END;
IF known IS NULL THEN RETURN NULL; END IF;
IF NOT known THEN
  named := {named};
  IF named IS NULL THEN RETURN NULL; END IF;
END IF;
{statements}RETURN NULL;
END"""
EITHER = """IF known THEN
  {static}ELSE
  EXECUTE format({dynamic}, VARIADIC named);
END IF;
"""
# Tables are looked up by oid: they may have been renamed, or restored from a dump; a chunk table
# that was dropped is NULL here.
LOOKING_UP = """DECLARE
  taken boolean;
  isolated boolean := current_setting('transaction_isolation') <> 'read committed';
  chunked regclass := (SELECT r.oid FROM taskvec.columns c JOIN pg_class r ON r.oid = c.chunks
                       WHERE c.id = {id});
  present text[] := {named};
  places text[] := present || (SELECT c.relation::text FROM taskvec.columns c WHERE c.id = {id})
    || chunked::text || ARRAY(SELECT a.attname::text FROM pg_attribute a
      WHERE a.attrelid = chunked AND a.attnum BETWEEN 1 AND {count} ORDER BY a.attnum);
BEGIN
{statements}END;
"""
IF_MOVED = "IF {moved} THEN\n{leaving}END IF;\n"
KEY_LEAVES = """EXECUTE format({taken}, VARIADIC places) INTO STRICT taken USING {old};
IF NOT taken THEN
  {leave}
END IF;
"""
ROW_LEAVES = "DELETE FROM {queue} q WHERE {same};\n"
ROWS_LEAVE = "DELETE FROM {queue} q USING (SELECT {aliased} FROM old_rows r) o WHERE {same};\n"
# An old snapshot does not see the chunks that a worker has just written: a worker takes them out.
CHUNKS_LEAVE = """IF chunked IS NOT NULL THEN
  EXECUTE format({delete}, VARIADIC places){using};
  IF isolated THEN
    {enqueue}{notify}
  END IF;
END IF;
"""
# DELETE is what no reader waits for or can deadlock with; an old snapshot would leave rows behind.
TRUNCATED = """IF isolated THEN
  TRUNCATE {queue};
  IF chunked IS NOT NULL THEN EXECUTE format('TRUNCATE %s', chunked); END IF;
ELSE
  DELETE FROM {queue};
  IF chunked IS NOT NULL THEN EXECUTE format('DELETE FROM %s', chunked); END IF;
END IF;
"""
# One partition may have been truncated, or all.
PART_TRUNCATED = """IF present IS NOT NULL THEN
  EXECUTE format({queued}, VARIADIC places);
  IF chunked IS NOT NULL THEN EXECUTE format({chunks}, VARIADIC places); END IF;
END IF;
"""
LEAVE_QUEUE = "DELETE FROM {queue} q WHERE NOT EXISTS (SELECT FROM {table} d WHERE {same})"
LEAVE_CHUNKS = "DELETE FROM {chunks} c WHERE NOT EXISTS (SELECT FROM {table} d WHERE {same})"
# A name that stands for the i-th argument of SQL's `format`, as an identifier (I) or as it is (s).
MARK = "\x01"


def bodies(column: Column, *, notify_row: bool) -> dict[str, sql.Composed]:
    """The functions' bodies. notify_row: the row's own function notifies, none by statement."""
    parts = _Parts(column)
    update = [parts.enqueue_row("new"), parts.moved(), *([parts.notify()] if notify_row else [])]
    made = {
        "updated": parts.by_row(["new", "old"], *update),
        "noticed": parts.body(parts.notify()),
    }
    if column.table.partitioned:
        return made | {
            "inserted": parts.by_row(["new"], parts.enqueue_row("new"), parts.notify()),
            "deleted": parts.by_row(["old"], parts.row_deleted()),
            "truncated": parts.body(parts.looking_up(parts.part_truncated())),
        }
    return made | {
        "inserted": parts.by_rows("new_rows", parts.enqueue_rows("new_rows"), parts.notify()),
        "deleted": parts.by_rows("old_rows", parts.rows_leave()),
        "truncated": parts.body(parts.looking_up(parts.truncated())),
    }


class _Parts:
    """Statements of the trigger functions of one column.

    A row's function has its key in the variables new_1, new_2 … and old_1, old_2 …
    """

    def __init__(self, column: Column) -> None:
        count = len(column.keys)
        self.column = column
        # As the column is to `format`, with `places` for the names.
        self.called = column.under([_place(i, "I") for i in range(1, count + 1)])
        self.attached = sql.Identifier(_place(count + 1, "s"))
        self.chunked = sql.Identifier(_place(count + 2, "s"))
        self.chunk_keys = [_place(count + 2 + i, "I") for i in range(1, count + 1)]
        self.named = fill(NAMED, id=sql.Literal(column.id), count=sql.Literal(count))

    def body(self, *statements: sql.Composed) -> sql.Composed:
        return fill(BODY, statements=sql.Composed(statements))

    def by_row(self, rows: Sequence[str], *statements: sql.Composed) -> sql.Composed:
        """The body of a function that is called for each row; rows: 'new', 'old' or both."""
        keys = self.column.keys
        variables = [f"{row}_{i}" for row in rows for i, _ in enumerate(keys, 1)]
        typed = [f"  {row}_{i} {key.type};\n" for row in rows for i, key in enumerate(keys, 1)]
        assigned = [
            fill(f"  {row}_{i} := {row.upper()}.{{key}};\n", key=name(key.name))
            for row in rows
            for i, key in enumerate(keys, 1)
        ]
        return fill(
            ROW_BODY,
            variables=sql.SQL("".join(typed)),
            assigned=sql.Composed(assigned),
            named=self.named,
            extracted=sql.Composed([self._extract(row) for row in rows]),
            all=sql.SQL(", ".join(variables)),
            statements=sql.Composed(statements),
        )

    def by_rows(self, rows: str, *statements: sql.Composed) -> sql.Composed:
        """The body of a function that is called once a statement, with a transition table."""
        typed = [
            fill(
                "pg_typeof({key}) = {type}::regtype",
                key=name(key.name, "r"),
                type=sql.Literal(key.type),
            )
            for key in self.column.keys
        ]
        return fill(
            ROWS_BODY,
            typed=AND.join(typed),
            rows=sql.SQL(rows),
            named=self.named,
            statements=sql.Composed(statements),
        )

    def looking_up(self, *statements: sql.Composed) -> sql.Composed:
        """Statements that may use the tables' names, which takes queries of its own."""
        return fill(
            LOOKING_UP,
            id=sql.Literal(self.column.id),
            count=sql.Literal(len(self.column.keys)),
            named=self.named,
            statements=sql.Composed(statements),
        )

    def notify(self) -> sql.Composed:
        return fill(NOTIFY, channel=sql.Literal(CHANNEL), id=sql.Literal(str(self.column.id)))

    def enqueue(self, rows: sql.Composed) -> sql.Composed:
        return fill(ENQUEUE, queue=self.column.queue, keys=self.column.plain(), rows=rows)

    def enqueue_row(self, row: str) -> sql.Composed:
        return self.enqueue(fill("VALUES ({values})", values=COMMA.join(self._variables(row))))

    def enqueue_rows(self, rows: str) -> sql.Composed:
        text = "SELECT DISTINCT {keys} FROM {rows} r WHERE num_nulls({keys}) = 0 ORDER BY {keys}"

        def statement(column: Column) -> sql.Composed:
            return self.enqueue(fill(text, keys=column.own("r"), rows=sql.SQL(rows)))

        return self._either(statement)

    def moved(self) -> sql.Composed:
        olds = self._variables("old")
        taken = "SELECT EXISTS (SELECT FROM {table} d WHERE {same})"
        leaving = fill(
            KEY_LEAVES,
            taken=_text(fill(taken, table=self.attached, same=self._parameters("d", self.called))),
            old=COMMA.join(olds),
            leave=self.row_leaves(),
        )
        pairs = zip(olds, self._variables("new"), strict=True)
        moved = OR.join([_differ(old, new) for old, new in pairs])
        return fill(IF_MOVED, moved=moved, leaving=self.looking_up(leaving))

    def row_deleted(self) -> sql.Composed:
        leaving = self.row_leaves()
        return leaving if self.column.chunks is None else self.looking_up(leaving)

    def row_leaves(self) -> sql.Composed:
        column, olds = self.column, self._variables("old")
        queued = [name(f"key_{i}", "q") for i, _ in enumerate(olds, 1)]
        leaving = fill(ROW_LEAVES, queue=column.queue, same=column.equal(queued, olds))
        if column.chunks is None:
            return leaving
        delete = "DELETE FROM {chunks} c WHERE {same}"
        same = self._parameters("c", column.under(self.chunk_keys))
        return leaving + fill(
            CHUNKS_LEAVE,
            delete=_text(fill(delete, chunks=self.chunked, same=same)),
            using=sql.SQL(" USING ") + COMMA.join(olds),
            enqueue=self.enqueue_row("old"),
            notify=self.notify(),
        )

    def rows_leave(self) -> sql.Composed:
        column = self.column

        def statement(column: Column) -> sql.Composed:
            same = column.matches("q", "o", own=False)
            return fill(ROWS_LEAVE, queue=column.queue, aliased=column.aliased("r"), same=same)

        leaving = self._either(statement)
        if column.chunks is None:
            return leaving
        delete = "DELETE FROM {chunks} c USING (SELECT {aliased} FROM old_rows) o WHERE {same}"
        same = column.under(self.chunk_keys).matches("c", "o")
        aliased = self.called.aliased()
        chunks = fill(
            CHUNKS_LEAVE,
            delete=_text(fill(delete, chunks=self.chunked, aliased=aliased, same=same)),
            using=sql.SQL(""),
            enqueue=self.enqueue_rows("old_rows"),
            notify=self.notify(),
        )
        return leaving + self.looking_up(chunks)

    def truncated(self) -> sql.Composed:
        return fill(TRUNCATED, queue=self.column.queue)

    def part_truncated(self) -> sql.Composed:
        column, table = self.column, self.attached
        queued = self.called.matches("d", "q")
        of_row = self.called.equal(
            [name(key, "c") for key in self.chunk_keys],
            [name(key.name, "d") for key in self.called.keys],
        )
        return fill(
            PART_TRUNCATED,
            queued=_text(fill(LEAVE_QUEUE, queue=column.queue, table=table, same=queued)),
            chunks=_text(fill(LEAVE_CHUNKS, chunks=self.chunked, table=table, same=of_row)),
        )

    def _variables(self, row: str) -> list[sql.SQL]:
        return [sql.SQL(f"{row}_{i}") for i, _ in enumerate(self.column.keys, 1)]

    def _extract(self, row: str) -> sql.Composed:
        """Read a row's key by the names that it has now."""
        fields = [fill("($1).{key}::text", key=name(key.name)) for key in self.called.keys]
        assigned = [
            sql.SQL(f"  {row}_{i} := texts[{i}]::{key.type};\n")
            for i, key in enumerate(self.column.keys, 1)
        ]
        return fill(
            EXTRACT,
            read=_text(fill("SELECT ARRAY[{fields}]", fields=COMMA.join(fields))),
            row=sql.SQL(row.upper()),
            assigned=sql.Composed(assigned),
        )

    def _either(self, statement: Callable[[Column], sql.Composed]) -> sql.Composed:
        """A statement with the names that it was made with, or else with those of now."""
        return fill(EITHER, static=statement(self.column), dynamic=_text(statement(self.called)))

    def _parameters(self, alias: str, column: Column) -> sql.Composed:
        """The alias' key equals the parameters $1, $2 and so on."""
        mine = [name(key.name, alias) for key in column.keys]
        return column.equal(mine, [sql.SQL(f"${i}") for i, _ in enumerate(mine, 1)])


def _place(i: int, how: str) -> str:
    return f"{MARK}{i}{how}"


def _text(statement: sql.Composed) -> sql.Literal:
    """A statement as a literal, for `format`."""
    escaped = statement.as_string(None).replace("%", "%%")
    return sql.Literal(re.sub(f'"{MARK}(\\d+)([Is])"', r"%\1$\2", escaped))


def differs(columns: Sequence[str]) -> sql.Composed:
    """Whether any column differs between OLD and NEW."""
    return OR.join([_differ(name(column, "OLD"), name(column, "NEW")) for column in columns])


def _differ(old: sql.Composable, new: sql.Composable) -> sql.Composed:
    """Whether two values differ, to the byte and for any type."""
    text = '{old}::text COLLATE pg_catalog."C" IS DISTINCT FROM {new}::text COLLATE pg_catalog."C"'
    return fill(text, old=old, new=new)
