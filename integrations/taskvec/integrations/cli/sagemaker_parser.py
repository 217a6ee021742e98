"""The grammar of `taskvec sagemaker`."""

import argparse
from typing import TypeAlias

from taskvec.integrations.cli.parser import Parser, make_command

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_sagemaker(commands: Commands) -> None:
    """Add the command. Its settings are the environment's: SageMaker passes no options."""
    parser = make_command(
        commands,
        "sagemaker",
        "what SageMaker runs in a container",
        "Settings come from the environment: docs/sagemaker.md lists them.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make_command(
        actions,
        "serve",
        "serve /opt/ml/model at 0.0.0.0:8080, with /ping and /invocations",
        "SIGTERM ends it once what has been sent is answered; a second one at once.",
    )
    make_command(actions, "ping", "whether the server of this container is ready, by the exit code")
