"""The command line's grammar; each command's module is imported only when it runs."""

import argparse
import difflib
import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from taskvec.integrations.cli.failures import UsageError
from taskvec.integrations.cli.redaction import redacted
from taskvec.integrations.documents import DEFAULT_CHARACTERS

MAX_NUMBER = 1_000_000
DEFAULT_COLLECTION = "taskvec"
DEFAULT_MODEL = "starter"
DEFAULT_STORE = "qdrant:.taskvec/index"
STORE_HELP = (
    "qdrant:FOLDER, qdrant:http://HOST:6333, postgresql://… or postgres:FOLDER, where a FOLDER "
    f"needs no server (default: {DEFAULT_STORE}); a Qdrant key is read from QDRANT_API_KEY"
)
MODEL_HELP = (
    "starter, a folder, or a hub id such as jinaai/jina-embeddings-v3, whose weights are CC BY-NC"
    " 4.0"
)
STAGES = {
    "task": "a LoRA of your own on a frozen model",
    "pairs": "all weights, from pairs of a query and its passage",
    "pretrain": "all weights, from plain text",
}
SET_HELP = "another setting, in TOML's spelling, such as batch_size=16"
INDEX_MODEL_HELP = f"{MODEL_HELP} (default: the index's own, else {DEFAULT_MODEL})"
INDEX_DIM_HELP = "Matryoshka dim (default: the index's own, else the model's full dim)"


class Command(Protocol):
    """What a module in `commands` offers."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the command and return its exit code."""


class Parser(argparse.ArgumentParser):
    """Reports bad usage as one sentence instead of a usage block."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message and the help that explains it."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(  # type: ignore[override]  # argparse's overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Argparse's, which refuses what is unknown here: a command's own help explains it."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [name for name in self._option_string_actions if name.startswith("--")]
            near = next(iter(difflib.get_close_matches(unknown[0], flags, 1)), None)
            meant = f": did you mean {near}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return found, unknown


def run_command_line(argv: Sequence[str] | None) -> int:
    """Parse argv and run the command it names; print help where it names none."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    module = importlib.import_module(f"{__package__}.commands.{arguments.command}")
    try:
        return cast("Command", module).run(arguments)
    except Exception as error:
        _redact(error, getattr(arguments, "model", None) or "")
        raise


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = Parser(
        prog="taskvec",
        allow_abbrev=False,
        description="One multi-task encoder for LangChain, LlamaIndex, Qdrant and Postgres.",
        epilog="Try `taskvec demo` first: it needs no server and no download.",
    )
    version = f"taskvec {importlib.metadata.version('taskvec')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    # They build upon this module.
    from taskvec.integrations.cli.pg_parser import add_pg
    from taskvec.integrations.cli.sagemaker_parser import add_sagemaker
    from taskvec.integrations.cli.serve_parser import add_serve

    for add in (
        _add_demo, _add_encode, _add_index, _add_search, add_pg, add_serve, add_sagemaker,
        _add_train, _add_bench, _add_info,
    ):  # fmt: skip
        add(commands)
    return parser


def make_command(
    commands: "argparse._SubParsersAction[Parser]", name: str, summary: str, description: str = ""
) -> Parser:
    """A new command of these. Its help is the summary, and then the description."""
    text = f"{summary[0].upper()}{summary[1:]}. {description}".strip()
    return commands.add_parser(name, help=summary, description=text, allow_abbrev=False)


def _add_encode(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = make_command(
        commands,
        "encode",
        "turn texts into vectors",
        "Without TEXT, or with -, every line of standard input is a text. JSON output is one "
        "object a line, with the text's index and its vector.",
    )
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="a text; - reads lines")
    parser.add_argument("--model", default=DEFAULT_MODEL, help=MODEL_HELP)
    parser.add_argument("--task", help="one of the model's tasks (default: the base weights)")
    parser.add_argument("--dim", type=positive, help="Matryoshka dim (default: the full dim)")
    parser.add_argument("--format", choices=("json", "npy"), default="json")
    parser.add_argument("--output", metavar="FILE", help="write here instead of printing")


def _add_info(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = make_command(commands, "info", "show a model's tasks, prompts, dims and fingerprints")
    parser.add_argument("model", metavar="MODEL", nargs="?", default=DEFAULT_MODEL, help=MODEL_HELP)
    parser.add_argument("--dim", type=positive, help="dim of the fingerprints")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_index(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = make_command(
        commands,
        "index",
        "index files and folders for search",
        "Reads text, Markdown, reStructuredText, HTML, PDF and source code. Indexing again "
        "replaces what changed, removes what was deleted under PATHS, and skips the rest.",
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a file or a folder")
    _add_store_options(parser)
    parser.add_argument(
        "--chunk-chars",
        type=positive,
        default=DEFAULT_CHARACTERS,
        help="longest chunk, in characters (default: %(default)s)",
    )
    parser.add_argument(
        "--context-chars",
        type=positive,
        help="how much of a file is encoded at once, so that a chunk's vector knows its "
        "surroundings (default: as much as does the model good)",
    )


def _add_search(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = make_command(commands, "search", "search an index")
    parser.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    _add_store_options(parser)
    parser.add_argument("-k", type=positive, default=5, help="results (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def _add_store_options(parser: Parser) -> None:
    parser.add_argument("--store", default=DEFAULT_STORE, help=STORE_HELP)
    parser.add_argument(
        "--collection", default=DEFAULT_COLLECTION, help="name in the store (default: %(default)s)"
    )
    parser.add_argument("--model", help=INDEX_MODEL_HELP)
    parser.add_argument("--dim", type=positive, help=INDEX_DIM_HELP)


def _add_train(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = make_command(
        commands,
        "train",
        "train a task of your own, or a model in three stages",
        "A run keeps its checkpoints in the folder --out; the same command goes on where a killed "
        "one stopped. Data is JSON lines, CSV, TSV or Parquet.",
    )
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, summary in STAGES.items():
        stage = make_command(stages, name, summary)
        stage.add_argument("--config", metavar="FILE", help="settings of the stage, TOML")
        stage.add_argument("--from", dest="model", metavar="MODEL", help=MODEL_HELP)
        stage.add_argument("--data", metavar="FILE", nargs="+", help="training data")
        stage.add_argument("--out", metavar="FOLDER", help="the run's folder")
        if name != "pretrain":
            stage.add_argument(
                "--steps", type=positive, help="batches to train (default: an epoch)"
            )
        stage.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=SET_HELP)
        if name == "task":
            stage.add_argument("--name", help="the task's name")
            stage.add_argument("--prompt", help="text put before every text of the task")


def _add_bench(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = make_command(commands, "bench", "measure a model")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    quality = make_command(
        kinds,
        "quality",
        "how well models find things, beside peers and BM25",
        "Without --data, on what needs no download. A folder in BEIR's format holds corpus.jsonl, "
        "queries.jsonl and qrels/SPLIT.tsv, or TREC's qrels. A file of JSON lines holds text1, "
        "text2 and score, or text and label.",
    )
    quality.add_argument("--model", action="append", help=f"{MODEL_HELP}; may be given again")
    quality.add_argument("--data", metavar="PATH", nargs="+", default=[], help="what to measure on")
    quality.add_argument("--split", default="test", help="of the judgements (default: %(default)s)")
    quality.add_argument(
        "--dims", type=positive, nargs="+", default=[], help="Matryoshka dims (default: all)"
    )
    quality.add_argument(
        "--all-tasks", action="store_true", help="also each task, and none, on everything"
    )
    quality.add_argument(
        "--peer", action="append", default=[], help="a sentence-transformers model beside them"
    )
    quality.add_argument("--bm25", action="store_true", help="BM25 over English words beside them")
    quality.add_argument("--out", metavar="FOLDER", help="write quality.md, .json and .svg here")


def _add_demo(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = make_command(
        commands,
        "demo",
        "answer questions from Python's own docstrings through all four adapters",
        "Runs offline in a temporary folder and checks that the four agree.",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help=MODEL_HELP)
    parser.add_argument("--dim", type=positive, help="Matryoshka dim (default: the full dim)")
    parser.add_argument("--limit", type=positive, help="index at most this many passages")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the stores here")


def _redact(error: Exception, model: str) -> None:
    """Take the password of a model's URL out of what the encoder says of it."""
    if "://" in model:
        shown = redacted(model)
        error.args = tuple(
            part.replace(model.rstrip("/"), shown) if isinstance(part, str) else part
            for part in error.args
        )


def positive(text: str) -> int:
    """A whole number from 1 on, as an argument."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_NUMBER}")
    return number
