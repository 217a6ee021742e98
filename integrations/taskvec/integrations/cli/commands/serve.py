"""`taskvec serve`: a model over HTTP."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskvec.core import Encoder
    from taskvec.integrations.server import Limits

DRAIN_S, GRACE_S = 0.0, 30.0
TO_OPEN = (
    "give API keys (--api-key-file, or TASKVEC_API_KEYS), or allow everybody (--allow-anonymous)"
)
# An address that stands for all of a machine's is none to open in a browser.
BROWSABLE = {"http://0.0.0.0:": "http://127.0.0.1:", "http://[::]:": "http://[::1]:"}


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    from taskvec.integrations.server import create_app
    from taskvec.integrations.server.keys import read_keys
    from taskvec.integrations.server.logs import logging_to_stderr
    from taskvec.integrations.server.running import HttpServer, local_names, open_socket
    from taskvec.integrations.server.weights import check_source

    check_source(arguments.model)
    keys = read_keys(arguments.api_key_file)
    names = arguments.name or names_of(arguments.model)
    # Taken before the model is loaded, so that a port in use is told of at once.
    public = bool(keys) or arguments.allow_anonymous
    listening = open_socket(arguments.host, arguments.port, public=public, cure=TO_OPEN)
    with listening, logging_to_stderr(arguments.log_level), _loaded(arguments) as encoder:
        if not keys:
            _warn_of_clients_key()
        hosts = local_names(arguments.host, public=public)
        limits = _limits(arguments)
        page = arguments.playground
        app = create_app(
            encoder, names=names, keys=keys, limits=limits, hosts=hosts, playground=page
        )
        HttpServer(
            app,
            listening,
            drain_s=DRAIN_S if arguments.drain is None else arguments.drain,
            grace_s=GRACE_S if arguments.grace is None else arguments.grace,
            on_listening=lambda url: _say_where(names, url, keys=len(keys), playground=page),
        ).serve_until_told()
    return 0


def names_of(model: str) -> list[str]:
    """What a model is called unless --name says so: the last part of its path or id, and all."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return [folder.resolve().name]
    return list(dict.fromkeys([model.rpartition("/")[2], model]))


def _loaded(arguments: argparse.Namespace) -> "Encoder":
    """The encoder, warm: each task has run once, so that no client waits for what is set up."""
    from taskvec.core import Encoder

    encoder = Encoder.load(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        queue_tokens=arguments.max_queued_tokens,
    )
    tasks = [None, *encoder.tasks]
    encoder.encode(["ready"] * len(tasks), task=tasks)
    return encoder


def _limits(arguments: argparse.Namespace) -> "Limits":
    from taskvec.integrations.server import Limits

    given = {
        "body_bytes": arguments.max_body,
        "bodies_bytes": arguments.max_bodies,
        "items": arguments.max_items,
        "tokens": arguments.max_tokens,
        "requests": arguments.max_requests,
        "deadline_s": arguments.deadline,
        "pause_s": arguments.pause,
    }
    return Limits(**{name: value for name, value in given.items() if value is not None})


def _say_where(names: Sequence[str], url: str, *, keys: int, playground: bool) -> None:
    called = ", ".join(map(repr, names))
    guarded = f"with {keys} API key{'s' if keys > 1 else ''}" if keys else "without API keys"
    sys.stdout.write(f"serving {called} at {url}/v1, {guarded}; Ctrl-C ends it\n")
    if playground:
        sys.stdout.write(f"try it at {_browsable(url)}/playground\n")
    sys.stdout.flush()


def _browsable(url: str) -> str:
    for everywhere, here in BROWSABLE.items():
        url = url.replace(everywhere, here)
    return url


def _warn_of_clients_key() -> None:
    from taskvec.integrations.server.keys import OF_CLIENTS, VARIABLE
    from taskvec.integrations.server.logs import LOGGER

    if OF_CLIENTS in os.environ:
        LOGGER.warning(
            "%s is what clients send: this server has no API keys, which are in %s",
            OF_CLIENTS,
            VARIABLE,
        )
