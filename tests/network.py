"""A TCP way to a server on a Unix socket, whose connections can be made to go without a word."""

import ctypes
import fcntl
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

SO_ATTACH_FILTER = 26  # Linux; Python has no name for it
DROP_ALL = struct.pack("HBBI", 6, 0, 0, 0)  # the filter of one instruction, `ret 0`


class Link:
    """One connection. sent: what the client said, as far as it was passed on."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.sent = b""
        self.silent = False
        self._passing = threading.Lock()
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def silence(self) -> None:
        """Let no packet through any more, and answer none: not even a keepalive probe."""
        with self._passing:
            self.silent = True
        while self._unacknowledged():  # what is sent again and again would be a sign of life
            time.sleep(0.01)
        instructions = ctypes.create_string_buffer(DROP_ALL)
        program = struct.pack("HL", 1, ctypes.addressof(instructions))
        self.client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def _unacknowledged(self) -> int:
        found = fcntl.ioctl(self.client, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(found, sys.byteorder)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if source is self.client:
                    self.sent += data
                with self._passing:
                    if not self.silent:
                        target.sendall(data)
        if not self.silent:
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Network:
    """What stands between. dsn: the server's, by way of it."""

    def __init__(self, dsn: str) -> None:
        known: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
        self._place = f"{known['host']}/.s.PGSQL.{known['port']}"
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.dsn = psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=port)
        self.links: list[Link] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._place)
                self.links.append(Link(client, server))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for link in self.links:
            link.close()


@contextmanager
def network(dsn: str) -> Iterator[Network]:
    """A way to a server, closed at the end."""
    made = Network(dsn)
    try:
        yield made
    finally:
        made.close()
