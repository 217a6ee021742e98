"""How long a fresh process takes until it can do anything."""

import subprocess
import sys
import time
from collections.abc import Mapping

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import taskvec.core": ["-c", "import taskvec.core"],
    "taskvec --help": ["-m", "taskvec.integrations.cli", "--help"],
}


def measure(repeats: int, environment: Mapping[str, str]) -> dict[str, list[float]]:
    """Seconds of each command, interleaved; one of each first that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(repeats + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                check=True,
                env=dict(environment),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if turn:
                taken[name].append(time.perf_counter() - start)
    return taken
