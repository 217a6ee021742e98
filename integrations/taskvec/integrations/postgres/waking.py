"""Waits for a notification, a stop, or a time to pass."""

import selectors
import socket
from typing import Any

import psycopg
from psycopg import sql

from taskvec.integrations.postgres.registry import CHANNEL


class Waker:
    """Ends a wait from another thread or a signal handler."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def wake(self) -> None:
        """End the present wait, or the next one."""
        try:
            self._sender.send(b".")
        except OSError:
            return  # full, so the waiter wakes anyway; or closed, so nobody waits

    def wait(self, timeout_s: float, listener: psycopg.Connection[Any] | None = None) -> bool:
        """Wait for a wake, a notification or the time. Returns whether there was a notification.

        Raises OperationalError where the listening connection broke.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._receiver, selectors.EVENT_READ)
            if listener is not None:
                selector.register(listener, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(max(timeout_s, 0.0))]
        if self._receiver in ready:
            self._drain()
        return listener is not None and listener in ready and _take(listener)

    def close(self) -> None:
        """Free the sockets."""
        self._receiver.close()
        self._sender.close()

    def _drain(self) -> None:
        try:
            while self._receiver.recv(1024):
                pass
        except BlockingIOError:
            return


def listen(conn: psycopg.Connection[Any]) -> None:
    """Let a connection in autocommit receive what triggers send."""
    conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))


def _take(listener: psycopg.Connection[Any]) -> bool:
    """Take in all that is there, of which each call has a part. Returns whether there was any."""
    heard = False
    while list(listener.notifies(timeout=0)):
        heard = True
    return heard
