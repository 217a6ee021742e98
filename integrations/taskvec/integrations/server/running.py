"""Runs the application on uvicorn: where it listens, and how it ends."""

import asyncio
import ipaddress
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from taskvec.core.encoder import Encoder
from taskvec.core.errors import InputError
from taskvec.integrations.server.app import create_app
from taskvec.integrations.server.service import Limits

if TYPE_CHECKING:
    from taskvec.integrations.server.coming import Coming

BACKLOG = 2048
# Longer than clients and proxies keep an idle connection: who closes it first loses no request.
KEEP_ALIVE_S = 75
# Who has just connected when the server ends has so long to send a request.
SETTLING_S = 1.0
TICK_S = 0.05
# What was cut off at the end has so long to be told so.
LAST_WORDS_S = 2.0
# What opens a server to other machines, in the words of `serve` here.
TO_OPEN = "give API keys (keys=…), or allow everybody (allow_anonymous=True)"
ENDING = (signal.SIGTERM, signal.SIGINT)


class HttpServer(uvicorn.Server):
    """Uvicorn, which at the first signal serves what has been sent, and at the second ends.

    listening: where, once the application answers; see `open_socket`. drain_s: how long it goes
    on serving, not ready any more, before it stops listening. grace_s: how long requests in
    progress may take after that.
    """

    def __init__(
        self,
        app: "FastAPI | Coming",
        listening: socket.socket,
        *,
        drain_s: float = 0.0,
        grace_s: float = 30.0,
        on_listening: Callable[[str], None] = lambda _: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s + LAST_WORDS_S,  # type: ignore[arg-type]  # passed to wait_for
        )
        super().__init__(config)
        self._service = app.state.service
        self._socket = listening
        self._drain_s = drain_s
        self._grace_s = grace_s
        self._on_listening = on_listening

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def serve_until_told(self) -> None:
        """Serve until a signal, or until `should_exit` is set; all requests are answered then."""
        try:
            self.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self._service.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's, and the word that it is done."""
        await super().startup(sockets)
        self._on_listening(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: not ready any more, then deaf, then at rest; what is not, is told so."""
        self._service.draining = True
        await self._wait_while(lambda: True, self._drain_s)
        await self._wait_while(lambda: _readable(self._socket), SETTLING_S, tick_s=0)
        for server in self.servers:
            server.close()
        await self._wait_while(self._expects_requests, SETTLING_S)
        timer = asyncio.get_running_loop().call_later(self._grace_s, self._service.cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    async def _wait_while(
        self, condition: Callable[[], bool], seconds: float, *, tick_s: float = TICK_S
    ) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while condition() and loop.time() < end and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(tick_s)

    def _expects_requests(self) -> bool:
        """Whether somebody has connected and sent nothing yet."""
        connections = self.server_state.connections
        return any(getattr(connection, "cycle", self) is None for connection in connections)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal ends the server in good order, which is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self.handle_exit) for number in ENDING}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End; told a second time, at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _readable(listening: socket.socket) -> bool:
    """Whether connections wait to be accepted, which closing the socket would reset."""
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        return bool(selector.select(0))


def serve(
    encoder: Encoder,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    names: Sequence[str] = ("taskvec",),
    keys: Sequence[str] = (),
    allow_anonymous: bool = False,
    limits: Limits | None = None,
    drain_s: float = 0.0,
    grace_s: float = 30.0,
    playground: bool = False,
) -> None:
    """Serve an encoder over HTTP until SIGTERM or Ctrl-C, and then answer what has been sent.

    Args:
        encoder: the caller closes it afterwards.
        host: an address of this machine, or its name.
        port: 0 takes a free one.
        names: as for `create_app`.
        keys: as for `create_app`.
        allow_anonymous: listen without keys where other machines can connect, and under any name.
        limits: as for `create_app`.
        drain_s: as for `HttpServer`.
        grace_s: as for `HttpServer`.
        playground: as for `create_app`.

    Raises InputError where it cannot or must not listen.
    """
    public = bool(keys) or allow_anonymous
    hosts = local_names(host, public=public)
    app = create_app(
        encoder, names=names, keys=keys, limits=limits, hosts=hosts, playground=playground
    )
    listening = open_socket(host, port, public=public)
    HttpServer(app, listening, drain_s=drain_s, grace_s=grace_s).serve_until_told()


def local_names(host: str, *, public: bool) -> tuple[str, ...]:
    """The names that requests may be for, as `create_app` takes them; any for a public server."""
    return () if public else ("localhost", host.lower())


def open_socket(host: str, port: int, *, public: bool, cure: str = TO_OPEN) -> socket.socket:
    """A socket bound to an address, which does not listen yet.

    public: whether other machines may connect. cure: what lets them. Raises InputError where they
    may not and could, or where the address is none or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"{host!r} is no address to listen at: {error}") from None
    if not public and not ipaddress.ip_address(address[0]).is_loopback:
        raise InputError(f"{host} can be reached from other machines: {cure}")
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen at {host} port {port}: {reason}") from None
    return bound
