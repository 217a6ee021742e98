"""The grammar of `taskvec serve`."""

import argparse
from typing import TypeAlias

from taskvec.integrations.cli.parser import DEFAULT_MODEL, MODEL_HELP, Parser, make_command
from taskvec.integrations.cli.pg_parser import seconds

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

HOST, PORT = "127.0.0.1", 8080
LEVELS = ("debug", "info", "warning", "error")
MOST = 1 << 40


def add_serve(commands: Commands) -> None:
    """Add the command. Limits that are not given are those of `server.Limits`."""
    parser = make_command(
        commands,
        "serve",
        "serve a model over HTTP, to clients of Jina's and OpenAI's API",
        "SIGTERM or Ctrl-C ends it once what has been sent is answered; a second one at once.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", default=DEFAULT_MODEL, help=MODEL_HELP)
    parser.add_argument("--host", default=HOST, help="where to listen (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=PORT, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--name", action="append", help="what clients may call the model; may be given again"
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="API keys, one a line, # before a comment (default: those of TASKVEC_API_KEYS)",
    )
    parser.add_argument(
        "--allow-anonymous",
        action="store_true",
        help="let everybody in who can reach HOST, also from other machines and by any name",
    )
    parser.add_argument(
        "--playground",
        action="store_true",
        help="serve a page to try the model on, at /playground",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:*, … (default: auto)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, … (default: auto)")
    _add_limits(parser)
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="of the log (default: %(default)s)"
    )


def _add_limits(parser: Parser) -> None:
    for name, default, text in (
        ("body", "33554432", "bytes of a request's body"),
        ("bodies", "268435456", "bytes of the bodies of all requests in progress"),
        ("items", "16384", "texts or chunks of a request"),
        ("tokens", "1048576", "tokens of a request"),
        ("requests", "256", "requests in progress"),
        ("queued-tokens", "256 forward passes", "tokens that wait in each lane"),
    ):
        help_ = f"most {text} (default: {default})"
        parser.add_argument(f"--max-{name}", metavar="N", type=_count, help=help_)
    for name, default, text, kind in (
        ("deadline", "300", "until a reply to a request begins", seconds),
        ("pause", "30", "of silence of a client within a request or reply", seconds),
        ("drain", "0", "to go on after SIGTERM, not ready any more", _seconds_or_none),
        ("grace", "30", "for requests in progress after that", _seconds_or_none),
    ):
        help_ = f"time {text} (default: {default})"
        parser.add_argument(f"--{name}", metavar="SECONDS", type=kind, help=help_)


def _seconds_or_none(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST}")
    return int(text)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use 0 to 65535")
    return int(text)
