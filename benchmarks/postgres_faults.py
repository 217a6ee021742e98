"""`python -m benchmarks.postgres_faults`: kills, restarts and writers; one line says what held."""

import argparse
import sys

from benchmarks.postgres.faults import Plan, run_faults


def main() -> int:
    """Run, print the verdict; 1 where anything was violated."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.postgres_faults", description=__doc__
    )
    helped = {
        "kills": "SIGKILLs of workers",
        "restarts": "restarts of the server, in order or as by a crash",
        "workers": "worker processes at once",
        "writers": "writer processes at once",
        "rows": "rows at the start",
        "seed": "of the faults and of what writers do",
    }
    for name, text in helped.items():
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name), help=text)
    verdict = run_faults(Plan(**vars(parser.parse_args())))
    print(verdict)
    return 0 if verdict.kept else 1


if __name__ == "__main__":
    sys.exit(main())
