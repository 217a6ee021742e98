"""`taskvec demo`: the same questions through all four adapters."""

import argparse
import warnings

from taskvec.integrations.cli.console import errors
from taskvec.integrations.extras import needs_extra


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 1 where the four disagree."""
    errors().print("loading LangChain, LlamaIndex, Qdrant and Postgres …", style="dim")
    with needs_extra("taskvec demo", "demo"), warnings.catch_warnings():
        # Several frameworks warn while they are imported.
        warnings.simplefilter("ignore")
        from taskvec.integrations.cli.demo.run import run_demo
    return run_demo(
        model=arguments.model, dim=arguments.dim, limit=arguments.limit, keep=arguments.keep
    )
