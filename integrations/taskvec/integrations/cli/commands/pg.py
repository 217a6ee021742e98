"""`taskvec pg`: columns of a Postgres server that embed themselves."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from taskvec.core.errors import InputError
from taskvec.integrations.cli.console import output
from taskvec.integrations.cli.encoders import canonical_model
from taskvec.integrations.cli.failures import one_line
from taskvec.integrations.cli.pg_parser import NO_TASK
from taskvec.integrations.cli.servers import server_dsn
from taskvec.integrations.extras import needs_extra

SHOWN_CHARACTERS = 240
# `alter` with one of these begins nothing.
CHANGES = ("model", "dim", "type", "task", "query_task", "chunk_chars")


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    dsn = server_dsn(arguments.dsn)
    with needs_extra("taskvec pg", "postgres"):
        import taskvec.integrations.postgres  # noqa: F401 - says which extra is missing
    return ACTIONS[arguments.action](dsn, arguments)


def _attach(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres.attaching import DEFAULT_CHUNK_CHARACTERS, attach

    if arguments.chunks_only and (arguments.column or not arguments.chunks):
        raise InputError("--chunks-only wants --chunks, and no --column")
    made = attach(
        dsn,
        arguments.table,
        source=_listed(arguments.source),
        column=None if arguments.chunks_only else arguments.column or "embedding",
        dim=arguments.dim,
        type=arguments.type,
        model=_model(arguments.model),
        task=_task(arguments.task),
        query_task=_task(arguments.query_task),
        index=arguments.index,
        where=arguments.where,
        chunks=arguments.chunks,
        chunk_characters=arguments.chunk_chars or DEFAULT_CHUNK_CHARACTERS,
        existing=arguments.existing,
        wait_s=arguments.wait,
    )
    done = "attached" if made.created else "was attached like this before"
    hint = ": `taskvec pg worker` fills it" if made.created else ""
    _say(arguments, asdict(made), f"{made.name} {done}, with id {made.id}{hint}")
    return 0


def _detach(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres import detach

    if arguments.id and (arguments.column or arguments.chunks):
        raise InputError("--id says which column is meant: leave out --column and --chunks")
    column = arguments.column or (None if arguments.chunks else "embedding")
    gone = detach(
        dsn,
        arguments.table,
        column=column,
        chunks=arguments.chunks,
        id=arguments.id,
        drop=arguments.drop,
        wait_s=arguments.wait,
    )
    which = {"id": arguments.id} if arguments.id else {"table": arguments.table}
    said = "detached" if gone else _nothing_of(dsn)
    name = arguments.table or f"column {arguments.id}"
    _say(arguments, {**which, "detached": gone}, f"{name}: {said}")
    return 0


def _grant(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres import grant

    role, which = arguments.role, {"column": arguments.column, "chunks": arguments.chunks}
    grant(dsn, arguments.table, role=role, **which)
    record = {"table": arguments.table, "role": role}
    _say(arguments, record, f"{arguments.table}: {role} may run its workers")
    return 0


def _worker(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.cli.pg_worker import work

    done = work(dsn, arguments)
    for one in done:
        see = ": see `taskvec pg failures`" if one.failed else ""
        said = f"{one.column}: {one.done} rows made right, {one.failed} failures{see}"
        _say(arguments, asdict(one), said)
    if not done and not arguments.json:
        output().print("nothing was due")
    return 0


def _search(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres.searching import search

    found = search(
        dsn,
        arguments.table,
        arguments.query,
        k=arguments.k,
        column=arguments.column,
        chunks=arguments.chunks,
        where=arguments.where,
        params=arguments.param,
        first_pass=_first_pass(arguments.first_pass),
        oversample=arguments.oversample,
        exact=arguments.exact,
        explain=arguments.explain,
    )
    for row in found:
        _say(arguments, row, _shown(row))
    if not found and not arguments.json:
        said = "no row has a vector that fits"
        said = said if found.exact else f"{said}, of those that the index looked at"
        output().print(said + _to_come(dsn, arguments))
    # Apart from the rows, which a program reads.
    wanted = [found.sql if arguments.sql else None, found.plan]
    for text in filter(None, wanted):
        print(text, file=sys.stderr)
    return 0


def _to_come(dsn: str, arguments: argparse.Namespace) -> str:
    """What to say where rows of the column that is searched still wait."""
    from taskvec.integrations.postgres.choosing import choose
    from taskvec.integrations.postgres.monitoring import status
    from taskvec.integrations.postgres.statements import connected

    with connected(dsn) as conn, conn.transaction():
        column = choose(conn, arguments.table, arguments.column, arguments.chunks)
    waiting = sum(one.waiting for one in status(dsn, columns=[column.id]) if one.id == column.id)
    return f"; about {waiting} rows wait for `taskvec pg worker`" if waiting else ""


def _nothing_of(dsn: str, ids: Sequence[int] | None = None) -> str:
    """What to say where nothing is meant: what is attached instead."""
    from taskvec.integrations.postgres.monitoring import status

    found = [f"{one.id} ({one.table} {one.column or one.chunks})" for one in status(dsn)]
    head = f"nothing has id {', '.join(map(str, ids))}" if ids else "nothing was attached"
    return f"{head}; attached are {', '.join(found) or 'no others'}"


def _require_ids(dsn: str, ids: Sequence[int] | None) -> None:
    """Raise InputError for an id that no column has or had."""
    from taskvec.integrations.postgres.monitoring import status

    # One by one, for an id means its successors too.
    unknown = [one for one in ids or () if not status(dsn, columns=[one])]
    if unknown:
        raise InputError(_nothing_of(dsn, unknown))


def _index(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres.indexes import index_first_pass

    first_pass = _first_pass(arguments.first_pass)
    made = index_first_pass(
        dsn, arguments.table, first_pass, column=arguments.column, chunks=arguments.chunks
    )
    done = "made" if made else "was there before"
    record = {"table": arguments.table, "first_pass": first_pass, "created": made}
    _say(arguments, record, f"the index for a first pass of {first_pass} {done}")
    return 0


def _alter(dsn: str, arguments: argparse.Namespace) -> int:
    ending = arguments.swap or arguments.abandon
    if ending and any(getattr(arguments, name) is not None for name in CHANGES):
        raise InputError("--swap and --abandon end a change: begin it by a command of its own")
    if arguments.swap:
        return _swap(dsn, arguments)
    return _abandon(dsn, arguments) if arguments.abandon else _begin(dsn, arguments)


def _begin(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres.altering import SAME, alter

    given = {"task": arguments.task, "query_task": arguments.query_task}
    tasks: Any = {name: SAME if task is None else _task(task) for name, task in given.items()}
    made = alter(
        dsn,
        arguments.table,
        column=arguments.column,
        chunks=arguments.chunks,
        model=_model(arguments.model) if arguments.model else None,
        dim=arguments.dim,
        type=arguments.type,
        chunk_characters=arguments.chunk_chars,
        wait_s=arguments.wait,
        **tasks,
    )
    done = "begun" if made.created else "going on"
    said = f"a successor of {made.name} is {done}, with id {made.id}: swap once it is complete"
    _say(arguments, asdict(made), said)
    return 0


def _swap(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres.swapping import swap

    new_id = swap(
        dsn,
        arguments.table,
        column=arguments.column,
        chunks=arguments.chunks,
        wait_s=arguments.wait,
        allow_parked=arguments.allow_parked,
    )
    record = {"table": arguments.table, "swapped": True, "id": new_id}
    _say(arguments, record, f"{arguments.table}: swapped; the column's id is {new_id} now")
    return 0


def _abandon(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres.altering import abandon

    gone = abandon(
        dsn,
        arguments.table,
        column=arguments.column,
        chunks=arguments.chunks,
        wait_s=arguments.wait,
    )
    said = "the successor is gone" if gone else "there was no successor"
    _say(arguments, {"table": arguments.table, "abandoned": gone}, f"{arguments.table}: {said}")
    return 0


def _status(dsn: str, arguments: argparse.Namespace) -> int:
    if arguments.metrics:
        from taskvec.integrations.postgres.metrics import metrics_text

        sys.stdout.write(metrics_text(dsn, columns=arguments.id))
        return 0
    from taskvec.integrations.postgres.monitoring import status

    _require_ids(dsn, arguments.id)
    found = status(dsn, columns=arguments.id, exact=arguments.exact, over_s=arguments.over)
    for one in found:
        _say(arguments, one.record(), _standing(one.record()))
    if not found and not arguments.json:
        output().print("nothing is attached")
    return 0


def _failures(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres import failures

    _require_ids(dsn, arguments.id)
    found = failures(dsn, columns=arguments.id, limit=arguments.limit)
    for one in found:
        key = ", ".join(f"{name} {value}" for name, value in one.key.items())
        state = "parked" if one.parked else f"next try {one.next_try:%Y-%m-%d %H:%M:%S}"
        head = f"{one.column}, {key}: {one.attempts} attempts, {state}"
        _say(arguments, asdict(one), f"{one_line(head)}\n    {one_line(one.error)}")
    if not found and not arguments.json:
        output().print("no row has failed")
    return 0


def _retry(dsn: str, arguments: argparse.Namespace) -> int:
    from taskvec.integrations.postgres import retry

    _require_ids(dsn, arguments.id)
    count = retry(dsn, columns=arguments.id, waiting=arguments.waiting)
    _say(arguments, {"retried": count}, f"{count} rows are due again")
    return 0


ACTIONS: dict[str, Callable[[str, argparse.Namespace], int]] = {
    "attach": _attach,
    "detach": _detach,
    "grant": _grant,
    "worker": _worker,
    "search": _search,
    "index": _index,
    "alter": _alter,
    "status": _status,
    "failures": _failures,
    "retry": _retry,
}


def _say(arguments: argparse.Namespace, record: Mapping[str, object], sentence: str) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps(record, default=_plain) + "\n")
    else:
        output().print(sentence)


def _plain(value: object) -> str:
    """What JSON has no word for, as text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _listed(text: str) -> list[str]:
    """The names of a list with commas, some of them perhaps quoted."""
    rows = list(csv.reader([text], skipinitialspace=True))
    return [name for name in (rows[0] if rows else []) if name]


def _task(name: str) -> str | None:
    return None if name == NO_TASK else name


def _model(name: str) -> str:
    """A model as any worker can load it: a folder by its path, a server by its whole URL."""
    return name if "://" in name else canonical_model(name)


def _first_pass(text: str | None) -> Any:
    return text if text is None or not text.isdecimal() else int(text)


def _shown(row: Mapping[str, object]) -> str:
    values = _cut(f"{name} {value}" for name, value in row.items() if name != "score")
    return f"{row['score']:.3f}  {values}"


def _cut(parts: Iterable[str]) -> str:
    line = one_line(", ".join(parts))
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _standing(record: Mapping[str, Any]) -> str:
    place = record["column"] or record["chunks"]
    about = "" if record["exact"] else "about "
    rate = "" if record["rate"] is None else f", {record['rate']:.1f} rows/s"
    state = "" if record["state"] == "live" else f" ({record['state']})"
    head = f"{record['id']}: {record['table']} {place}{state}"
    if record["problem"]:
        return one_line(f"{head}: BROKEN, {record['problem']}; `taskvec pg detach --id` removes it")
    return one_line(
        f"{head}: {record['coverage']:.2f} % of {about}{record['rows']} rows, {record['waiting']} "
        f"waiting, {record['queued']} of them queued, {record['leased']} in hand, "
        f"lag {record['lag_s']:.1f} s, {record['retrying']} retrying, {record['parked']} parked, "
        f"{record['done']} done so far{rate}; {record['fingerprint']}"
    )
