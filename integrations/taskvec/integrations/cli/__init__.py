"""The `taskvec` command: encode, inspect a model, index and search files, and the demo."""

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    argv: the arguments after the program's name; None takes those of this process.
    Returns 0 for success, 1 where something could not be done, 2 for input that cannot be
    served, 130 after Ctrl-C. Every failure is one sentence on standard error.
    """
    # Imported here so that `taskvec --help` loads neither torch nor a framework.
    from taskvec.integrations.cli.failures import guarded
    from taskvec.integrations.cli.parser import run_command_line

    return guarded(lambda: run_command_line(argv))
