"""The grammar of `taskvec pg`."""

import argparse
from typing import TypeAlias

from taskvec.integrations.cli.parser import (
    DEFAULT_MODEL,
    MODEL_HELP,
    Parser,
    make_command,
    positive,
)

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

DSN_VARIABLES = ("TASKVEC_PG_DSN", "PGDSN")
DSN_HELP = f"the server, as postgresql://… (default: what {' or '.join(DSN_VARIABLES)} says)"
TABLE_HELP = "as SQL writes it, such as app.docs"
FIRST_PASSES = ("64", "128", "256", "binary")
NO_TASK = "none"
WAIT_S = 30.0


def add_pg(commands: Commands) -> None:
    """Add the command with all that it can do."""
    parser = make_command(
        commands,
        "pg",
        "let columns of a Postgres server embed themselves",
        "Attach a column once; workers fill it and keep it right from then on.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for add in (
        _add_attach, _add_detach, _add_grant, _add_worker, _add_search, _add_index, _add_alter,
        _add_status, _add_failures, _add_retry,
    ):  # fmt: skip
        add(actions)


def _action(actions: Commands, name: str, summary: str, description: str = "") -> Parser:
    parser = make_command(actions, name, summary, description)
    parser.add_argument("--dsn", help=DSN_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    return parser


def _add_attach(actions: Commands) -> None:
    parser = _action(
        actions,
        "attach",
        "let a column hold the vectors of its table's texts from now on",
        "The same command again changes nothing.",
    )
    parser.add_argument("--table", required=True, help=TABLE_HELP)
    parser.add_argument(
        "--source",
        required=True,
        help='the columns that are encoded, joined by commas; quote as "a,b",c where need be',
    )
    parser.add_argument("--column", help="added where it is missing (default: embedding)")
    parser.add_argument("--chunks", metavar="TABLE", help="a new table for late-chunked passages")
    parser.add_argument(
        "--chunks-only", action="store_true", help="keep chunks alone, and no column"
    )
    parser.add_argument("--chunk-chars", type=positive, help="longest chunk (default: 800)")
    parser.add_argument("--model", default=DEFAULT_MODEL, help=MODEL_HELP)
    parser.add_argument("--dim", type=positive, help="Matryoshka dim (default: the full dim)")
    parser.add_argument(
        "--type",
        choices=("vector", "halfvec"),
        default="vector",
        help="of the column: 4 or 2 bytes a number (default: %(default)s)",
    )
    parser.add_argument("--task", default="retrieval.passage", help=_task_help("of passages"))
    parser.add_argument("--query-task", default="retrieval.query", help=_task_help("of queries"))
    parser.add_argument(
        "--index",
        choices=("hnsw", "none"),
        default="hnsw",
        help="made over the column (default: %(default)s)",
    )
    parser.add_argument("--where", help="an SQL condition; other rows have no vector")
    parser.add_argument(
        "--existing",
        choices=("replace", "keep"),
        default="replace",
        help="whether vectors already there are made anew (default: %(default)s)",
    )
    _add_wait(parser)


def _task_help(whose: str) -> str:
    return f"the model's task {whose}; {NO_TASK!r} is the base weights (default: %(default)s)"


def _add_detach(actions: Commands) -> None:
    parser = _action(actions, "detach", "stop keeping a column up to date")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--table", help=TABLE_HELP)
    which.add_argument("--id", type=positive, help="the column's id, as status has it")
    _add_place(parser, column="(default: embedding, or none with --chunks)")
    parser.add_argument("--drop", action="store_true", help="drop the column and its chunks too")
    _add_wait(parser)


def _add_grant(actions: Commands) -> None:
    parser = _action(actions, "grant", "let a role run workers of a column, and do no more")
    _add_which(parser)
    parser.add_argument("--role", required=True, help="its name as it is, without quotes")


def _add_wait(parser: Parser) -> None:
    parser.add_argument(
        "--wait",
        type=seconds,
        default=WAIT_S,
        help="for the table's lock, seconds (default: %(default)g)",
    )


def _add_which(parser: Parser) -> None:
    parser.add_argument("--table", required=True, help=TABLE_HELP)
    _add_place(parser, column="needed where the table has several attached")


def _add_place(parser: Parser, *, column: str) -> None:
    parser.add_argument("--column", help=column)
    parser.add_argument("--chunks", metavar="TABLE", help="the chunk table that is meant")


def _add_worker(actions: Commands) -> None:
    parser = _action(
        actions,
        "worker",
        "embed what is due, and go on doing so",
        "Any number may run, on any number of machines. SIGTERM finishes the batch in hand.",
    )
    _add_ids(parser)
    parser.add_argument("--model", help="in place of the one that a column was attached with")
    parser.add_argument(
        "--until-empty",
        action="store_true",
        help="stop when all is embedded or parked; retries and leases are waited for",
    )
    parser.add_argument(
        "--batch", type=positive, default=64, help="rows encoded together (default: %(default)g)"
    )
    parser.add_argument(
        "--lease",
        type=seconds,
        default=60.0,
        help="how long a killed worker's rows wait, seconds (default: %(default)g)",
    )
    parser.add_argument(
        "--poll", type=seconds, default=10.0, help="longest sleep, seconds (default: %(default)g)"
    )
    parser.add_argument(
        "--attempts", type=positive, default=5, help="failures until parked (default: %(default)g)"
    )
    parser.add_argument("--backfill-rate", type=seconds, help="rows a second, over all workers")
    parser.add_argument("--metrics", metavar="PORT", type=port, help="serve Prometheus metrics")
    parser.add_argument("--metrics-address", default="127.0.0.1", help="(default: %(default)s)")


def _add_ids(parser: Parser) -> None:
    parser.add_argument(
        "--id", type=positive, action="append", help="a column's id, as status has it; repeatable"
    )


def _add_search(actions: Commands) -> None:
    parser = _action(actions, "search", "search an attached column")
    parser.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    _add_which(parser)
    parser.add_argument("-k", type=positive, default=5, help="results (default: %(default)s)")
    parser.add_argument("--where", help="an SQL condition, with $1, $2 … for values")
    parser.add_argument(
        "--param", action="append", default=[], help="a value of the condition; repeatable"
    )
    parser.add_argument(
        "--first-pass", choices=FIRST_PASSES, help="find candidates by this, and rank them exactly"
    )
    parser.add_argument(
        "--oversample", type=positive, default=10, help="candidates a result (default: %(default)s)"
    )
    parser.add_argument(
        "--exact",
        action=argparse.BooleanOptionalAction,
        help="compare all rows that fit (default: where an index finds fewer than k)",
    )
    parser.add_argument("--sql", action="store_true", help="print the SQL that ran, too")
    parser.add_argument("--explain", action="store_true", help="print the server's plan, too")


def _add_index(actions: Commands) -> None:
    parser = _action(actions, "index", "make the index that a first pass uses, without locking")
    _add_which(parser)
    parser.add_argument(
        "--first-pass", choices=FIRST_PASSES, required=True, help="its dim, or one bit a number"
    )


def _add_alter(actions: Commands) -> None:
    parser = _action(
        actions,
        "alter",
        "change a column's model, task or dim while it is searched and written",
        "Begins a successor, which workers fill; --swap puts it in the column's place.",
    )
    _add_which(parser)
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument("--dim", type=positive, help="Matryoshka dim")
    parser.add_argument("--type", choices=("vector", "halfvec"))
    parser.add_argument("--task", help="the model's task of passages; 'none' is the base weights")
    parser.add_argument("--query-task", help="the model's task of queries")
    parser.add_argument("--chunk-chars", type=positive, help="longest chunk, in characters")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--swap", action="store_true", help="let the complete successor take over")
    ends.add_argument("--abandon", action="store_true", help="remove the successor")
    parser.add_argument(
        "--wait",
        type=seconds,
        default=WAIT_S,
        help="for what is due and for locks, seconds (default: %(default)g)",
    )
    parser.add_argument(
        "--allow-parked", action="store_true", help="swap although some rows failed"
    )


def _add_status(actions: Commands) -> None:
    parser = _action(
        actions,
        "status",
        "show coverage, queue, lag, failures and rates",
        "Rows and coverage are the server's estimates, unless --exact.",
    )
    _add_ids(parser)
    parser.add_argument("--exact", action="store_true", help="count the rows, which reads them")
    parser.add_argument(
        "--over", metavar="SECONDS", type=seconds, help="measure rates over so many seconds"
    )
    parser.add_argument("--metrics", action="store_true", help="print Prometheus' text format")


def _add_failures(actions: Commands) -> None:
    parser = _action(actions, "failures", "show the rows that could not be embedded, and why")
    _add_ids(parser)
    parser.add_argument(
        "--limit", type=positive, default=100, help="rows a column (default: %(default)g)"
    )


def _add_retry(actions: Commands) -> None:
    parser = _action(actions, "retry", "try parked rows again")
    _add_ids(parser)
    parser.add_argument(
        "--waiting", action="store_true", help="those too that will be tried again by themselves"
    )


def seconds(text: str) -> float:
    """A number above 0, as an argument."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def port(text: str) -> int:
    """A TCP port, as an argument."""
    number = positive(text)
    if number > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use 1 to 65535")
    return number
